"""The part of CBOR that evidence in certificates needs, in its one deterministic form.

Unsigned integers, byte and text strings, arrays, maps and tags, all of definite length, integers in
their shortest form, a map's keys in order of their bytes. Source: RFC 8949, section 4.2.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_DEEPEST = 8
_UNSIGNED, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = 0, 2, 3, 4, 5, 6


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value with a tag that says what it is."""

    tag: int
    value: Any


def encode(value: Any) -> bytes:
    """``value`` as bytes.

    Args:
        value: Of int (not negative), bytes, str, sequences, mappings and :class:`Tagged`.

    Raises:
        TypeError: It is of something else.
    """
    match value:
        case bool():
            raise TypeError("no truth values in evidence")
        case int():
            return _head(_UNSIGNED, value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            content = value.encode()
            return _head(_TEXT, len(content)) + content
        case Tagged():
            return _head(_TAG, value.tag) + encode(value.value)
        case Mapping():
            pairs = sorted((encode(key), encode(item)) for key, item in value.items())
            return _head(_MAP, len(pairs)) + b"".join(key + item for key, item in pairs)
        case Sequence():
            return _head(_ARRAY, len(value)) + b"".join(map(encode, value))
    raise TypeError(f"{type(value).__name__} cannot be encoded")


def decode(content: bytes) -> Any:
    """The value in ``content``.

    Raises:
        ValueError: It is not what :func:`encode` writes of any value.
    """
    value, end = _read(content, 0, 0)
    if end != len(content):
        raise ValueError(f"CBOR: {len(content) - end} bytes after its end")
    if encode(value) != content:
        raise ValueError("CBOR: not in its deterministic form")
    return value


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | code]) + number.to_bytes(size, "big")
    raise TypeError(f"{number} is too large")


def _read(content: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > _DEEPEST:
        raise ValueError("CBOR: nested too deeply")
    major, number, at = _read_head(content, at)
    if major == _UNSIGNED:
        return number, at
    if major in (_BYTES, _TEXT):
        part = content[at : at + number]
        if len(part) != number:
            raise ValueError("CBOR: ends within a string")
        return (part if major == _BYTES else part.decode()), at + number
    if major == _TAG:
        value, at = _read(content, at, depth + 1)
        return Tagged(number, value), at
    # A count says nothing of the bytes that follow: nothing is allocated by it.
    found: list[Any] = []
    for _ in range(number * (2 if major == _MAP else 1)):
        value, at = _read(content, at, depth + 1)
        found.append(value)
    if major == _ARRAY:
        return found, at
    keys = found[::2]
    if not all(isinstance(key, str) for key in keys):
        raise ValueError("CBOR: a key that is no text")
    return dict(zip(keys, found[1::2], strict=True)), at


def _read_head(content: bytes, at: int) -> tuple[int, int, int]:
    if at >= len(content):
        raise ValueError("CBOR: ends too early")
    major, code = content[at] >> 5, content[at] & 31
    at += 1
    if major not in (_UNSIGNED, _BYTES, _TEXT, _ARRAY, _MAP, _TAG) or code > 27:
        raise ValueError(f"CBOR: byte {content[at - 1]:#04x} begins nothing that is expected here")
    if code < 24:
        return major, code, at
    size = 1 << (code - 24)
    if at + size > len(content):
        raise ValueError("CBOR: ends within a number")
    return major, int.from_bytes(content[at : at + size], "big"), at + size
