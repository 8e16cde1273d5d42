"""What an enclave says of itself, and binds to its hardware by the hash that it has quoted.

A deterministic CBOR map. ``pubkey-hash`` is as in the interoperable RA-TLS format, a byte string
that holds the array [1 (SHA-256), hash]; the others stand beside it. The report data is::

    SHA-256(claims) || 32 zero bytes

Source: CCC Attestation SIG, interoperable RA-TLS, as Gramine >= 1.8 writes it.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from openfl_flows.attestation import cbor
from openfl_flows.attestation.refusal import RefusedEvidence
from openfl_flows.pki.plan import Role

FORMAT = "openfl_flows.claims/1"
REPORT_DATA = 64
"""Bytes of the report data."""

NONCE = 32
"""How many of them are the hash: what verifiers of other devices take as their nonce."""

_SHA_256 = 1
_T = TypeVar("_T")
_ROLES: tuple[Role, ...] = ("aggregator", "collaborator")


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Who somebody says to be.

    Attributes:
        role: What it does in the federation.
        name: The site's name, or the aggregator's address.
        federation: SHA-384 of the plan, the whole of it, in hexadecimal.
        policy: SHA-256 of the policy's file in hexadecimal.
        key: SHA-256 of the public key of its TLS certificate (SubjectPublicKeyInfo in DER).
    """

    role: Role
    name: str
    federation: str
    policy: str
    key: bytes

    def __post_init__(self) -> None:
        """Refuse what nobody can be.

        Raises:
            ValueError: A value is not of its kind.
        """
        if self.role not in _ROLES:
            raise ValueError(f"role={self.role!r}, expected one of {', '.join(_ROLES)}")
        for name, length in (("federation", 96), ("policy", 64)):
            value = getattr(self, name)
            if len(value) != length or not set(value) <= set("0123456789abcdef"):
                raise ValueError(f"{name}={value!r}, expected {length} hexadecimal digits")
        if len(self.key) != 32:
            raise ValueError(f"key has {len(self.key)} bytes, expected the 32 of a SHA-256")


def claims_bytes(claims: Claims) -> bytes:
    """Claims as they are hashed and sent."""
    return cbor.encode(
        {
            "pubkey-hash": cbor.encode([_SHA_256, claims.key]),
            "format": FORMAT,
            "role": claims.role,
            "name": claims.name,
            "federation": bytes.fromhex(claims.federation),
            "policy": bytes.fromhex(claims.policy),
        }
    )


def read_claims(content: bytes) -> Claims:
    """The claims in ``content``.

    Raises:
        RefusedEvidence: It is not what :func:`claims_bytes` writes.
    """
    try:
        found = cbor.decode(content)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"expected the format {FORMAT}")
        claims = Claims(
            role=found["role"],
            name=_of(str, found["name"]),
            federation=_of(bytes, found["federation"]).hex(),
            policy=_of(bytes, found["policy"]).hex(),
            key=_key(_of(bytes, found["pubkey-hash"])),
        )
        if claims_bytes(claims) != content:
            raise ValueError("there are others than those of the format")
    except KeyError as error:
        raise RefusedEvidence(f"claims: no {error}") from None
    except (ValueError, TypeError) as error:
        raise RefusedEvidence(f"claims: {error}") from None
    return claims


def report_data(content: bytes) -> bytes:
    """What has to be quoted so that the quote is of these claims: 64 bytes."""
    return hashlib.sha256(content).digest().ljust(REPORT_DATA, b"\0")


def key_digest(key: CertificatePublicKeyTypes) -> bytes:
    """SHA-256 of a public key's SubjectPublicKeyInfo in DER."""
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).digest()


def _key(content: bytes) -> bytes:
    found = cbor.decode(content)
    if not isinstance(found, list) or len(found) != 2 or found[0] != _SHA_256:
        raise ValueError("pubkey-hash is no SHA-256")
    return _of(bytes, found[1])


def _of(kind: type[_T], value: Any) -> _T:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} where {kind.__name__} is expected")
    return value
