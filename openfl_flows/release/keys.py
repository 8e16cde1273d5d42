"""Signers' keys, and the file in which the parties agreed on whose signatures count.

A key is Ed25519, or, for verifiers that know no other, ECDSA on P-256 or P-384: the curve decides
the hash, as the OpenSSF's model signing has it.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from openfl_flows.atomic import SECRET, write_atomically, write_json
from openfl_flows.strict_json import parse

FORMAT = "openfl_flows.signers/1"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a signer may be called: it is a file's name, too."""

Kind = Literal["ed25519", "p256", "p384"]
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey

_CURVES: Mapping[str, tuple[type[ec.EllipticCurve], type[hashes.HashAlgorithm]]] = {
    "secp256r1": (ec.SECP256R1, hashes.SHA256),
    "secp384r1": (ec.SECP384R1, hashes.SHA384),
}
_KINDS = "Ed25519, or ECDSA on P-256 or P-384"


@dataclass(frozen=True, kw_only=True)
class Signers:
    """Whose signatures count, and how many of them it takes: the verifier's own, never a release's.

    Attributes:
        need: Least number of distinct signers.
        keys: Public key by name.
    """

    need: int
    keys: Mapping[str, PublicKey]

    def __post_init__(self) -> None:
        """Refuse what nobody could fulfil, and two names of one party."""
        if isinstance(self.need, bool) or not 1 <= self.need <= len(self.keys):
            raise ValueError(f"need={self.need}, expected 1 to {len(self.keys)}, the signers")
        owner: dict[str, str] = {}
        for name, key in self.keys.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"signer {name!r}, expected letters, digits, '.', '_' and '-'")
            other = owner.setdefault(fingerprint(key), name)
            if other != name:
                raise ValueError(f"signers {other!r} and {name!r} have one key, expected two")
        if len({name.casefold() for name in self.keys}) < len(self.keys):
            raise ValueError(f"signers {', '.join(self.keys)}: two differ in case only")


def make_key(path: Path, kind: Kind = "ed25519") -> PublicKey:
    """Write a new private key that its owner alone can read, and beside it the public one.

    Args:
        path: The private key, as unencrypted PKCS #8; the public key goes to ``PATH.pub``.
        kind: What kind of key.

    Raises:
        ValueError: One of the files is there already.
    """
    public_path = path.with_name(f"{path.name}.pub")
    for file in (path, public_path):
        if file.exists():
            raise ValueError(f"{file} exists: a key is never replaced, choose another file")
    key: PrivateKey
    if kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = ec.generate_private_key(ec.SECP256R1() if kind == "p256" else ec.SECP384R1())
    encoded = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_atomically(path, encoded, SECRET)
    write_atomically(public_path, public_pem(key.public_key()))
    return key.public_key()


def read_private(path: Path) -> PrivateKey:
    """A private key that :func:`make_key` wrote.

    Raises:
        ValueError: There is none, it is of another kind, or others than its owner can read it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a private key")
    rights = path.stat().st_mode & 0o777
    if rights & 0o077:
        raise ValueError(f"{path} has rights {rights:o}: others can read it, expected {SECRET:o}")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path}: not a readable private key in PEM: {error}") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return key
    raise ValueError(f"{path}: a key of another kind, expected {_KINDS}")


def read_public(content: bytes, where: str) -> PublicKey:
    """A public key in PEM.

    Raises:
        ValueError: It is none, or of another kind; ``where`` says whose it is.
    """
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{where}: not a readable public key in PEM: {error}") from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    raise ValueError(f"{where}: a key of another kind, expected {_KINDS}")


def public_pem(key: PublicKey) -> bytes:
    """A public key in PEM."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(key: PublicKey) -> str:
    """SHA-256 of a public key's PEM, in hexadecimal: the hint that model signatures carry."""
    return hashlib.sha256(public_pem(key)).hexdigest()


def sign(key: PrivateKey, message: bytes) -> bytes:
    """A signature of ``message``."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    _, algorithm = _CURVES[key.curve.name]
    return key.sign(message, ec.ECDSA(algorithm()))


def is_signed(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` is one of ``message`` by the owner of ``key``."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            _, algorithm = _CURVES[key.curve.name]
            key.verify(signature, message, ec.ECDSA(algorithm()))
    except InvalidSignature:
        return False
    return True


def read_signers(path: Path) -> Signers:
    """The agreed signers.

    Raises:
        ValueError: There is no such file, or it does not say who they are.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected the agreed signers")
    try:
        return signers_of(parse(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def signers_of(document: object) -> Signers:
    """The agreed signers that a document names, wherever it stands.

    Raises:
        ValueError: It does not say who they are.
    """
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise ValueError(f"expected format {FORMAT!r}")
    need, listed = document.get("need"), document.get("signers")
    if document.keys() != {"format", "need", "signers"} or not isinstance(listed, Mapping):
        raise ValueError("expected the keys format, need and signers, and nothing else")
    if not isinstance(need, int):
        raise ValueError(f"need={need!r}, expected a whole number")
    keys = {name: _decoded(text, f"signer {name!r}") for name, text in listed.items()}
    return Signers(need=need, keys=keys)


def write_signers(path: Path, signers: Signers) -> None:
    """Write the agreed signers."""
    write_json(path, signers_document(signers))


def signers_document(signers: Signers) -> dict[str, Any]:
    """The agreed signers as plain values: a name and the key's DER in base64 for each."""
    listed = {
        name: base64.b64encode(
            key.public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        ).decode()
        for name, key in sorted(signers.keys.items())
    }
    return {"format": FORMAT, "need": signers.need, "signers": listed}


def _decoded(text: object, where: str) -> PublicKey:
    if not isinstance(text, str):
        raise ValueError(f"{where}: {text!r}, expected a public key in base64")
    pem = f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"
    return read_public(pem.encode(), where)
