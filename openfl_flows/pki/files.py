"""Files that are whole or absent, and secret from their first byte where they are keys."""

import os
from pathlib import Path

PUBLIC = 0o644
"""Rights of a certificate."""
SECRET = 0o600
"""Rights of a private key."""


def write_atomically(path: Path, content: bytes, mode: int = PUBLIC) -> None:
    """Replace ``path`` by ``content``; at no moment does it have wider rights than ``mode``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path, what: str) -> bytes:
    """The content of ``path``.

    Raises:
        ValueError: There is no such file; ``what`` says what was expected there.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected {what}")
    return path.read_bytes()
