"""The rights of certificates, and how a file that must be there is read."""

from pathlib import Path

PUBLIC = 0o644
"""Rights of a certificate."""


def read(path: Path, what: str) -> bytes:
    """The content of ``path``.

    Raises:
        ValueError: There is no such file; ``what`` says what was expected there.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected {what}")
    return path.read_bytes()
