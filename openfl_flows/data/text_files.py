"""Text files, plain or gzip-compressed, whatever they are named."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

GZIP = b"\x1f\x8b"
"""What a gzip file begins with."""


@contextmanager
def open_text(path: Path, *, expected: str = "text") -> Iterator[IO[str]]:
    """Open a file of UTF-8 text to read line by line; ends of lines stay as they are.

    Args:
        path: The file.
        expected: What it should be, for the message.

    Raises:
        ValueError: Damaged gzip or not UTF-8, once that part of it is read.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        opening = gzip.open if file.read(2) == GZIP else open
    try:
        with opening(path, "rt", encoding="utf-8-sig", newline="") as stream:
            assert isinstance(stream, io.TextIOBase)
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error})") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not UTF-8 text at byte {error.start}, expected {expected}"
        ) from error
