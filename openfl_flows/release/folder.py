"""The files of a release: which there are, and their digests. No link is ever followed."""

import hashlib
import os
import re
import stat
from io import BufferedReader
from pathlib import Path

MANIFEST = "manifest.json"
SIGNATURES = "signatures"
SUFFIX = ".sig"

MAX_DOCUMENT = 2**26
"""Most bytes of a file that is read at once: all but the model and the ledger."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(rf"{_PART}(/{_PART}){{0,3}}")


def is_name(name: str) -> bool:
    """Whether a file of a release may be called so: relative, plain ASCII, nothing hidden."""
    return _NAME.fullmatch(name) is not None


def files_of(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the released files and of the signatures, each sorted.

    Raises:
        ValueError: There is no such folder, or something in it is no plain file with a plain name.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, expected a release")
    found = sorted(_walk(folder, ""))
    released = [name for name in found if not name.startswith(f"{SIGNATURES}/")]
    signatures = [name for name in found if name.startswith(f"{SIGNATURES}/")]
    if len({name.casefold() for name in found}) < len(found):
        raise ValueError(f"{folder}: two files have names that differ in case only")
    for name in signatures:
        if name.count("/") != 1 or not name.endswith(SUFFIX):
            raise ValueError(f"{folder / name}: unexpected, a signature is {SIGNATURES}/NAME.sig")
    return released, signatures


def open_plain(path: Path) -> BufferedReader:
    """Open a file that is none but itself.

    Raises:
        ValueError: It is missing, a link, or no plain file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected a plain file") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path}: not a plain file")
    return open(descriptor, "rb")


def read_document(path: Path, digest: str | None = None) -> bytes:
    """The content of a file of moderate size.

    Args:
        path: The file.
        digest: SHA-256 that it had when it was first looked at; None where this is the first time.

    Raises:
        ValueError: It is missing, no plain file, larger, or has changed meanwhile.
    """
    with open_plain(path) as file:
        content = file.read(MAX_DOCUMENT + 1)
    if len(content) > MAX_DOCUMENT:
        raise ValueError(f"{path}: larger than {MAX_DOCUMENT} bytes, which no document here is")
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{path}: changed while it was verified")
    return content


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size, in hexadecimal, a block at a time.

    Raises:
        ValueError: It is missing or no plain file.
    """
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _walk(folder: Path, prefix: str) -> list[str]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if not is_name(name):
                raise ValueError(f"{folder}: unexpected name {entry.name!a} in a release")
            if entry.is_dir(follow_symlinks=False):
                below = _walk(folder / entry.name, f"{name}/")
                if not below and name != SIGNATURES:
                    raise ValueError(f"{folder / entry.name}: an empty folder in a release")
                found += below
            elif entry.is_file(follow_symlinks=False):
                found.append(name)
            else:
                raise ValueError(f"{folder / entry.name}: a link or no file, expected plain files")
    return found
