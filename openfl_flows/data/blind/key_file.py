"""The secret of a blind split, as a file that never leaves a party's machine but by hand."""

import os
import re
import secrets
from pathlib import Path

from openfl_flows.atomic import SECRET, write_atomically

BYTES = 32
"""Length of the secret."""

_TEXT = re.compile(rf"[0-9a-f]{{{2 * BYTES}}}\n?")


def write_key(path: Path) -> bytes:
    """Draw a secret from the system's source of randomness and write it in hexadecimal digits.

    Args:
        path: Where; only its owner can read it.

    Returns:
        The secret.

    Raises:
        ValueError: There is such a file: a key that was lost is a split that was lost.
    """
    if path.exists():
        raise ValueError(f"{path} exists, expected a new file: a key is never replaced")
    secret = secrets.token_bytes(BYTES)
    write_atomically(path, f"{secret.hex()}\n".encode(), SECRET)
    return secret


def read_key(path: Path) -> bytes:
    """The secret in a file that only its owner can read.

    Raises:
        ValueError: There is none, others may read it, or it is no key; its content is never shown.
    """
    wanted = f"expected {2 * BYTES} hexadecimal digits as `openfl-flows data split-key FILE` writes"
    if not path.is_file():
        raise ValueError(f"{path}: no such file, {wanted}")
    rights = path.stat().st_mode & 0o777
    if os.name == "posix" and rights & 0o077:
        raise ValueError(
            f"{path} has the rights {rights:04o}, expected {SECRET:04o}: others may read the key "
            f"(chmod 600 {path})"
        )
    text = path.read_bytes().decode("ascii", "replace")
    if not _TEXT.fullmatch(text):
        raise ValueError(f"{path}: not a key, {wanted}")
    return bytes.fromhex(text)
