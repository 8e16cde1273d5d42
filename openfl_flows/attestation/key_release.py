"""A secret for one enclave: asked for with evidence, answered to a key that lives in the enclave.

Before it can read what is encrypted for it, an enclave needs a key that its host must not have::

    enclave   x, an X25519 key made for this; evidence of claims that name SHA-256 of its public key
              request  = {evidence, X}
    keeper    verifies the evidence, with X as the key that it has to be of; y, made for this answer
              binding  = format || SHA-256(request) || Y
              key      = HKDF-SHA256(X25519(y, X), info=binding)
              answer   = {Y, ChaCha20-Poly1305(key, secret, aad=binding), Ed25519(binding || box)}

The evidence is of X, and the answer signed with the key that the enclave's measured arguments name:
a host can neither ask with a key of its own, nor give an enclave a secret of its own choice. A
request that is recorded and sent again gets an answer that only the first enclave can open.

Source: RFC 7748 (X25519), RFC 5869 (HKDF), RFC 8439 (ChaCha20-Poly1305), RFC 8032 (Ed25519).
"""

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from openfl_flows.attestation import evidence as evidences
from openfl_flows.attestation.evidence import Evidence
from openfl_flows.attestation.refusal import RefusedEvidence, one_line
from openfl_flows.attestation.verify import Verified
from openfl_flows.release.keys import is_signed
from openfl_flows.strict_json import canonical, parse

REQUEST, ANSWER = "openfl_flows.secret_request/1", "openfl_flows.secret_answer/1"
SECRET_BYTES = 16
"""Of a key of Gramine's encrypted files."""
LARGEST_REQUEST = 2 * evidences.LARGEST
LARGEST_ANSWER = 2**14

Judge = Callable[[Evidence, CertificatePublicKeyTypes], Verified]
"""Accepts evidence of a key, or raises RefusedEvidence."""

_TAG_BYTES, _SIGNATURE_BYTES, _POINT_BYTES = 16, 64, 32
# Each key encrypts one message.
_NONCE = bytes(12)


def request(evidence: Evidence, key: X25519PublicKey) -> bytes:
    """What an enclave sends.

    Args:
        evidence: Of claims that name ``key``.
        key: Of a pair that was made for this, whose other half never leaves the enclave.
    """
    shown = evidences.to_bytes(evidence).decode()
    return canonical({"format": REQUEST, "evidence": shown, "key": _text(_raw(key))})


def read_request(content: bytes) -> tuple[Evidence, X25519PublicKey]:
    """The evidence in a request, and the key that the answer is for; nothing is verified.

    Raises:
        RefusedEvidence: It is no request.
    """
    try:
        found = _fields(content, REQUEST, {"evidence", "key"})
        point = _bytes(found["key"], _POINT_BYTES)
        return evidences.from_bytes(found["evidence"].encode()), X25519PublicKey.from_public_bytes(
            point
        )
    except ValueError as error:
        raise RefusedEvidence(f"request: {error}") from None


def answer(content: bytes, *, secret: bytes, key: Ed25519PrivateKey, judge: Judge) -> bytes:
    """The answer to a request that is accepted.

    Args:
        content: The request.
        secret: What the enclave gets.
        key: The keeper's.
        judge: Decides on the evidence.

    Raises:
        RefusedEvidence: It is no request, or its evidence is not accepted.
    """
    evidence, theirs = read_request(content)
    judge(evidence, theirs)
    own = X25519PrivateKey.generate()
    binding = _binding(content, _raw(own.public_key()))
    try:
        box = _cipher(own, theirs, binding).encrypt(_NONCE, secret, binding)
    except ValueError:
        raise RefusedEvidence("request: a key of a small group, with which all share") from None
    return canonical(
        {
            "format": ANSWER,
            "key": _text(_raw(own.public_key())),
            "secret": _text(box),
            "signature": _text(key.sign(binding + box)),
        }
    )


def refusal(reason: object) -> bytes:
    """The answer to a request that is not accepted. Nobody signs it: it can only cost a start."""
    return canonical({"format": ANSWER, "refused": one_line(str(reason))})


def opened(
    content: bytes, *, request: bytes, key: X25519PrivateKey, keeper: Ed25519PublicKey
) -> bytes:
    """The secret in an answer.

    Args:
        content: The answer.
        request: What was sent, byte by byte.
        key: The other half of the key in it.
        keeper: Whose answer counts.

    Raises:
        ValueError: The keeper has refused, or it is no answer of the keeper's to this request.
    """
    found = _fields(content, ANSWER, {"key", "secret", "signature"}, {"refused"})
    if "refused" in found:
        raise ValueError(f"the keeper gives no key: {one_line(found['refused'])}")
    point, box = _bytes(found["key"], _POINT_BYTES), _bytes(found["secret"])
    binding = _binding(request, point)
    if not is_signed(keeper, _bytes(found["signature"], _SIGNATURE_BYTES), binding + box):
        raise ValueError(
            "the answer is not signed by the keeper for this request, expected it by the key that "
            "the arguments name"
        )
    try:
        cipher = _cipher(key, X25519PublicKey.from_public_bytes(point), binding)
        secret = cipher.decrypt(_NONCE, box, binding)
    except (ValueError, InvalidTag):
        raise ValueError("the answer is signed, but not for the key of this request") from None
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"the keeper gives {len(secret)} bytes, expected {SECRET_BYTES}")
    return secret


def _binding(request: bytes, point: bytes) -> bytes:
    return ANSWER.encode() + b"\0" + hashlib.sha256(request).digest() + point


def _cipher(own: X25519PrivateKey, theirs: X25519PublicKey, binding: bytes) -> ChaCha20Poly1305:
    shared = own.exchange(theirs)
    derived = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=binding).derive(shared)
    return ChaCha20Poly1305(derived)


def _fields(content: bytes, format_: str, *choices: set[str]) -> dict[str, str]:
    """The texts in a document of that format, which has one of these sets of keys."""
    found: Any = parse(content)
    if not isinstance(found, dict) or found.pop("format", None) != format_:
        raise ValueError(f"expected the format {format_}")
    if found.keys() not in choices or not all(isinstance(text, str) for text in found.values()):
        expected = " or ".join(", ".join(sorted(choice)) for choice in choices)
        raise ValueError(f"expected texts for {expected}")
    return found


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: str, size: int | None = None) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    # There is one way to write it.
    if not content or _text(content) != text:
        raise ValueError("not readable as base64")
    if size is not None and len(content) != size:
        raise ValueError(f"{len(content)} bytes, expected {size}")
    return content
