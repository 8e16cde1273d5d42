"""What a shared library asks for: the names in its ELF dynamic section; nothing is loaded or run.

Source: System V ABI, chapters 4 and 5; 64-bit little-endian files only.
"""

import mmap
import struct
from pathlib import Path

_MAGIC = b"\x7fELF\x02\x01"
_SEGMENT = struct.Struct("<IIQQQQQQ")
_ENTRY = struct.Struct("<qQ")
_LOAD, _DYNAMIC = 1, 2
_NEEDED, _STRTAB = 1, 5


def is_elf(path: Path) -> bool:
    """Whether a file is a 64-bit little-endian ELF file."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def needed(path: Path) -> tuple[str, ...]:
    """The names of the libraries that an ELF file is linked with; none where it is static.

    Raises:
        ValueError: The file is broken.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return tuple(_needed(content))
        except (struct.error, IndexError, ValueError):
            raise ValueError(f"{path}: broken, expected an ELF file") from None


def _needed(content: mmap.mmap) -> list[str]:
    (table,) = struct.unpack_from("<Q", content, 32)
    size, number = struct.unpack_from("<HH", content, 54)
    segments = [_SEGMENT.unpack_from(content, table + i * size) for i in range(number)]
    entries: list[tuple[int, int]] = []
    for kind, _, offset, _, _, length, _, _ in segments:
        if kind == _DYNAMIC:
            entries = [
                _ENTRY.unpack_from(content, at)
                for at in range(offset, offset + length, _ENTRY.size)
            ]
    strings = [value for tag, value in entries if tag == _STRTAB]
    if not strings:
        return []
    start = _offset(segments, strings[0])
    names = [start + value for tag, value in entries if tag == _NEEDED]
    return [content[at : content.find(b"\0", at)].decode() for at in names]


def _offset(segments: list[tuple[int, ...]], address: int) -> int:
    """Where in the file an address of memory comes from."""
    for kind, _, offset, start, _, length, _, _ in segments:
        if kind == _LOAD and start <= address < start + length:
            return offset + address - start
    raise ValueError("an address is in no segment")
