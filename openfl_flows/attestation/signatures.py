"""Signatures beside a file that the agreed signers sign: a line each, as releases have them."""

from collections.abc import Iterator
from pathlib import Path

from openfl_flows.atomic import write_atomically
from openfl_flows.attestation.refusal import one_line
from openfl_flows.release.keys import PrivateKey, Signers, fingerprint
from openfl_flows.release.signature import digests_signed, hint_of, signed, statement

LARGEST = 2**20
"""Most bytes of a file that is read before anybody is known to have signed it."""


def check_signatures(path: Path, signers: Signers, subject: str, digest: str) -> None:
    """Make sure that as many of the signers as are needed have signed a file.

    Every signature that is there must be good.

    Args:
        path: The signatures.
        signers: Whose count, and how many of them are needed.
        subject: What kind of file it is.
        digest: SHA-256 of the file in hexadecimal.

    Raises:
        ValueError: They have not.
    """
    names = {fingerprint(key): name for name, key in signers.keys.items()}
    found = set()
    for line in _lines(path):
        name = names.get(_hint(path, line))
        if name is None:
            raise ValueError(f"{path}: a signature of none of the agreed signers")
        try:
            digests = digests_signed(line, signers.keys[name])
        except ValueError as error:
            raise ValueError(f"{path}: signature of {name}: {one_line(str(error))}") from None
        if digests != {subject: digest}:
            raise ValueError(
                f"{path}: signature of {name} is of another file, expected of SHA-256 {digest}"
            )
        found.add(name)
    if len(found) < signers.need:
        who = ", ".join(sorted(found)) or "nobody"
        raise ValueError(f"{path}: signed by {who}, expected {signers.need} of the agreed signers")


def add_signature(path: Path, key: PrivateKey, subject: str, digest: str) -> None:
    """Sign a file, in place of an earlier signature with the same key.

    Raises:
        ValueError: What is there are no signatures.
    """
    mine = fingerprint(key.public_key())
    others = _lines(path) if path.exists() else ()
    kept = [line for line in others if _hint(path, line) != mine]
    lines = [*kept, signed(statement({subject: digest}), key)]
    write_atomically(path, b"\n".join(lines) + b"\n")


def read_limited(path: Path, what: str) -> bytes:
    """The content of a file that nobody is known to have signed yet.

    Raises:
        ValueError: It is missing, or larger than :data:`LARGEST`.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected {what}")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{path}: larger than {LARGEST} bytes, expected {what}")
    return content


def _lines(path: Path) -> Iterator[bytes]:
    return (line for line in read_limited(path, "signatures").split(b"\n") if line)


def _hint(path: Path, line: bytes) -> str:
    try:
        return hint_of(line)
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(str(error))}") from None
