"""Fetch MoleculeNet's QM9 table, and refuse it if it is not the file that was agreed on."""

import hashlib
import http.client
import os
import tempfile
import urllib.request
from pathlib import Path
from typing import BinaryIO

QM9_URL = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/qm9.csv"
"""MoleculeNet's copy of QM9: 133,885 rows, mu in Debye, orbital energies in Hartree."""

_CHUNK = 1 << 20


def download_qm9(
    folder: str | Path, *, url: str = QM9_URL, sha256: str | None = None, timeout: float = 60.0
) -> Path:
    """Return the QM9 table in `folder`, downloaded if it is not there yet.

    With `sha256`, the file must have that digest. Without, the first use is trusted: its digest is
    written to `qm9.csv.sha256` beside the file, and every later use must have the same. Parties
    that train together should agree on the digest of the first and state it.

    Args:
        folder: Where the table is kept; made if absent.
        url: http or https address of the table.
        sha256: Expected digest, 64 hexadecimal digits.
        timeout: Seconds without an answer after which the server counts as unreachable.

    Returns:
        Path of `qm9.csv`.

    Raises:
        ConnectionError: The table is absent and cannot be downloaded whole; says where to put it
            by hand.
        ValueError: The digest is not the expected one (a file that was just downloaded is not
            kept), or `sha256` or `url` is malformed.
    """
    if sha256 is not None and not _is_digest(sha256):
        raise ValueError(f"sha256 is {sha256!r}, expected 64 hexadecimal digits")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url is {url!r}, expected http:// or https://")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "qm9.csv"
    record = folder / "qm9.csv.sha256"
    expected, source = sha256, "the given sha256"
    if expected is None and record.exists():
        expected, source = record.read_text(encoding="ascii").split()[0], str(record)
    if path.exists():
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        _check(str(path), digest, expected, source)
    else:
        digest = _download(url, path, expected, source, timeout)
    _write_atomically(record, f"{digest}  {path.name}\n".encode("ascii"))
    return path


def _download(url: str, path: Path, expected: str | None, source: str, timeout: float) -> str:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            digest = _fetch(url, stream, path, timeout)
        _check(url, digest, expected, source)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return digest


def _fetch(url: str, stream: BinaryIO, path: Path, timeout: float) -> str:
    digest = hashlib.sha256()
    num_bytes = 0
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            announced = response.headers.get("Content-Length")
            while chunk := response.read(_CHUNK):
                digest.update(chunk)
                num_bytes += stream.write(chunk)
        if announced is not None and num_bytes != int(announced):
            raise ConnectionError(f"{num_bytes} of {announced} bytes came")
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"cannot download {url} ({error}); fetch it elsewhere and put it at {path}"
        ) from error
    return digest.hexdigest()


def _check(what: str, digest: str, expected: str | None, source: str) -> None:
    if expected is not None and digest != expected.lower():
        raise ValueError(f"{what} has SHA-256 {digest}, expected {expected} ({source})")


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text.lower()) <= set("0123456789abcdef")


def _write_atomically(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content)
    os.replace(temporary, path)
