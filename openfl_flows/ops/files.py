"""States as safetensors files: written whole, checked when read, or mapped into memory."""

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from openfl_flows.atomic import replacing
from openfl_flows.state import State


def save_state(path: Path, state: State, *, ledger: str | None = None) -> None:
    """Write ``state`` as safetensors, its digest and frozen names in the metadata, atomically.

    Args:
        path: The file.
        state: What to write.
        ledger: Head of the run's ledger once it has the round that made the state, to be kept in
            the metadata.
    """
    described = {"digest": state.digest(), "frozen": state.frozen}
    if ledger is not None:
        described["ledger"] = ledger
    # One key: safetensors writes several in an order that changes from run to run.
    metadata = {"state": json.dumps(described)}
    with replacing(path) as temporary:
        safetensors.numpy.save_file(dict(state), temporary, metadata)


def load_state(path: Path) -> State:
    """Read a State that :func:`save_state` wrote.

    Raises:
        ValueError: The file is missing, is not safetensors, or its content is not what its digest
            says.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a State in safetensors format")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            expected = _described(file.metadata()).get("digest")
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file: {error}") from None
    try:
        state = map_state(path)
    except TypeError as error:
        raise ValueError(f"{path}: holds an element type that numpy lacks: {error}") from None
    if expected is not None and state.digest() != expected:
        raise ValueError(
            f"{path}: content has digest {state.digest()[:12]}, but was saved with {expected[:12]}"
        )
    return state


def map_state(path: Path) -> State:
    """The State in a file that this process wrote itself, read only where it is looked at.

    The file is mapped into memory, not copied; it may be replaced or deleted meanwhile. Nothing is
    checked: use :func:`load_state` for files that come from elsewhere.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    frozen = _described(header.pop("__metadata__", None)).get("frozen", ())
    whole = np.memmap(path, np.uint8, "r", offset=8 + length).view(np.ndarray)
    arrays = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        arrays[name] = whole[start:end].view(_dtype(entry["dtype"])).reshape(entry["shape"])
    return State(arrays, frozen=frozen)


def let_go(state: State) -> None:
    """Take the pages of a mapped State out of memory; they are read again if looked at again."""
    owners = {id(owner): owner for owner in map(_owner, state.values())}
    for owner in owners.values():
        if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            owner.madvise(mmap.MADV_DONTNEED)


def _owner(array: object) -> object:
    while isinstance(array, np.ndarray):
        array = array.base
    return array


def _described(metadata: Mapping[str, str] | None) -> Mapping[str, Any]:
    """What :func:`save_state` wrote beside the tensors; nothing in a file from elsewhere."""
    described: Mapping[str, Any] = json.loads((metadata or {}).get("state", "{}"))
    return described


def _dtype(name: str) -> np.dtype[Any]:
    """The numpy type of a safetensors name such as F32, I64 or BOOL."""
    if name == "BOOL":
        return np.dtype(np.bool_)
    return np.dtype(f"{name[0].lower()}{int(name[1:]) // 8}")
