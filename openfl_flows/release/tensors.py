"""Digests of what a safetensors file holds, by the standard library alone; all of it is finite.

The layout is that of github.com/huggingface/safetensors: eight bytes with the length of a JSON
header, the header, and the tensors end to end, little-endian. The model's digest is that of
:meth:`openfl_flows.state.State.digest`.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from openfl_flows.release.folder import open_plain
from openfl_flows.strict_json import parse

# A hundred thousand tensors: a header is parsed before anybody has signed it.
_MAX_HEADER = 2**24
_BLOCK = 2**20
# numpy's name and the bytes of an element; of floating point numbers also the bits of the two
# highest bytes that are all set in NaN and infinity.
_TYPES: Mapping[str, tuple[str, int, int]] = {
    "F64": ("float64", 8, 0x7FF0),
    "F32": ("float32", 4, 0x7F80),
    "F16": ("float16", 2, 0x7C00),
    **{f"I{8 * n}": (f"int{8 * n}", n, 0) for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": (f"uint{8 * n}", n, 0) for n in (1, 2, 4, 8)},
    "BOOL": ("bool", 1, 0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """One tensor.

    Attributes:
        dtype: numpy's name of the element type.
        shape: Shape.
        start: Its first byte, from the beginning of the file.
        size: Bytes.
        exponent: Bits of the two highest bytes of an element that are all set where it is not a
            finite number; 0 where every element is one.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int
    exponent: int


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model's digests.

    Attributes:
        digest: As :meth:`openfl_flows.state.State.digest` has it.
        tensors: By name: ``dtype``, ``shape`` and the ``sha256`` of the bytes.
    """

    digest: str
    tensors: Mapping[str, Mapping[str, Any]]


def read_model(path: Path) -> Model:
    """Compute the digests of a model in a file.

    Raises:
        ValueError: It is no safetensors file of ours, its content is not what its own digest says,
            or a number in it is NaN or infinite.
    """
    try:
        with open_plain(path) as file:
            tensors, described = _header(file, os.fstat(file.fileno()).st_size)
            return _digests(file, tensors, described)
    except ValueError as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from None


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors in name order, and what was saved beside them."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_MAX_HEADER, size - 8):
        raise ValueError(f"not a safetensors file: a header of {length} bytes in a file of {size}")
    entries = parse(file.read(length))
    if not isinstance(entries, dict):
        raise ValueError("not a safetensors file: its header is no object")
    metadata = entries.pop("__metadata__", {})
    try:
        described = parse(metadata["state"].encode())
        digest, frozen = described["digest"], described["frozen"]
    except (KeyError, TypeError, AttributeError):
        raise ValueError("not saved by openfl_flows: it has no digest of its content") from None
    if not isinstance(digest, str) or not isinstance(frozen, list):
        raise ValueError("not saved by openfl_flows: it has no digest of its content")
    tensors = {name: _tensor(name, entries[name], 8 + length) for name in sorted(entries)}
    end = 8 + length
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.size)):
        if tensor.start != end:
            raise ValueError(f"bytes {min(end, tensor.start)} on are of no tensor, or of two")
        end += tensor.size
    if end != size:
        raise ValueError(f"{size} bytes, expected {end} as its header says")
    return tensors, described


def _tensor(name: str, entry: Any, begin: int) -> Tensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r}: expected dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [""]
    if not all(type(number) is int and number >= 0 for number in numbers) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r}: shape {shape}, offsets {offsets}, expected counts")
    if entry["dtype"] not in _TYPES:
        raise ValueError(f"tensor {name!r}: element type {entry['dtype']!r}, which no model has")
    dtype, item, exponent = _TYPES[entry["dtype"]]
    size = offsets[1] - offsets[0]
    if size != item * math.prod(shape):
        raise ValueError(f"tensor {name!r}: {size} bytes, expected those of {shape} {dtype}")
    return Tensor(
        dtype=dtype, shape=tuple(shape), start=begin + offsets[0], size=size, exponent=exponent
    )


def _digests(file: BinaryIO, tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> Model:
    rows = []
    for name, tensor in tensors.items():
        reduce = "mean" if tensor.exponent else "max"
        reduce = "keep" if name in described["frozen"] else reduce
        rows.append([name, list(tensor.shape), tensor.dtype, reduce])
    spec = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    whole = hashlib.sha256(spec.encode())
    found = {}
    for name, tensor in tensors.items():
        own = hashlib.sha256()
        for block in _blocks(file, tensor):
            own.update(block)
            whole.update(block)
            if tensor.exponent and not _all_finite(block, tensor):
                raise ValueError(f"tensor {name!r} has NaN or infinite values")
        found[name] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "sha256": own.hexdigest(),
        }  # fmt: skip
    if whole.hexdigest() != described["digest"]:
        raise ValueError(
            f"content has digest {whole.hexdigest()[:12]}, but was saved with "
            f"{described['digest'][:12]}"
        )
    return Model(digest=whole.hexdigest(), tensors=found)


def _blocks(file: BinaryIO, tensor: Tensor) -> Iterator[bytes]:
    file.seek(tensor.start)
    left = tensor.size
    while left:
        block = file.read(min(left, _BLOCK))
        if not block:
            raise ValueError("the file became shorter while it was read")
        left -= len(block)
        yield block


def _all_finite(block: bytes, tensor: Tensor) -> bool:
    """Whether no element has an exponent of ones: looked for in its highest byte first."""
    item = tensor.size // math.prod(tensor.shape)
    high, low = tensor.exponent >> 8, tensor.exponent & 0xFF
    full = b"".join(b"\\x%02x" % byte for byte in range(256) if byte & high == high)
    suspects = re.compile(b"[%s]" % full)
    second = block[item - 2 :: item]
    return not any(
        second[match.start()] & low == low for match in suspects.finditer(block[item - 1 :: item])
    )
