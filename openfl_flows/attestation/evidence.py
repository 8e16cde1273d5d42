"""Evidence: a quote, the claims that it is of, and what other devices add; as a file, as X.509.

In a certificate, the extension 2.23.133.5.4.9 holds CBOR tag 60000 of [quote, claims], which other
implementations of RA-TLS read, too; what they do not know stands in an extension of our own. A
certificate that carries evidence is self-signed: the quote vouches for its key, no authority does.
"""

import base64
import binascii
import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from openfl_flows.attestation import cbor
from openfl_flows.attestation.refusal import UNREADABLE, RefusedEvidence
from openfl_flows.pki.certificates import Key, address
from openfl_flows.strict_json import canonical, parse

FORMAT = "openfl_flows.evidence/1"
TAGGED_EVIDENCE = ObjectIdentifier("2.23.133.5.4.9")
"""TCG DICE's tagged evidence."""
BESIDE = ObjectIdentifier("2.25.74154812819570278231362281346939747382")
"""What stands beside a quote: its kind, and endorsements."""
LARGEST = 2**20
"""Most bytes of any evidence."""

_TAG = 60000
_SKEW = dt.timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a party shows.

    Attributes:
        kind: Of the quote: ``sgx``, ``tdx``, or a plug-in's.
        quote: As the hardware signed it.
        claims: What it is of, see :mod:`openfl_flows.attestation.claims`.
        endorsements: What plug-ins verify besides, by their names: a GPU's token.
    """

    kind: str
    quote: bytes
    claims: bytes
    endorsements: Mapping[str, bytes] = field(default_factory=dict)


def to_bytes(evidence: Evidence) -> bytes:
    """Evidence as a file, and as it is sent."""
    return canonical(
        {
            "format": FORMAT,
            "kind": evidence.kind,
            "quote": _text(evidence.quote),
            "claims": _text(evidence.claims),
            "endorsements": {name: _text(each) for name, each in evidence.endorsements.items()},
        }
    )


def from_bytes(content: bytes) -> Evidence:
    """Evidence that :func:`to_bytes` wrote, or that a certificate in PEM carries.

    Raises:
        RefusedEvidence: It is neither.
    """
    if len(content) > LARGEST:
        raise RefusedEvidence(f"evidence of {len(content)} bytes, expected at most {LARGEST}")
    if content.lstrip().startswith(b"-----BEGIN"):
        try:
            certificate = x509.load_pem_x509_certificate(content)
        except UNREADABLE as error:
            raise RefusedEvidence(f"evidence: no readable certificate: {error}") from None
        return evidence_of(certificate)
    try:
        found = parse(content)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"expected the format {FORMAT}, or a certificate in PEM")
        evidence = Evidence(
            kind=_kind(found["kind"]),
            quote=_bytes(found["quote"]),
            claims=_bytes(found["claims"]),
            endorsements=_endorsements(found["endorsements"]),
        )
        if to_bytes(evidence) != content:
            raise ValueError("not as it was written")
    except KeyError as error:
        raise RefusedEvidence(f"evidence: no {error}") from None
    except ValueError as error:
        raise RefusedEvidence(f"evidence: {error}") from None
    return evidence


def digest(evidence: Evidence) -> str:
    """SHA-256 of evidence as it is sent, in hexadecimal."""
    return hashlib.sha256(to_bytes(evidence)).hexdigest()


def evidence_certificate(
    evidence: Evidence, key: Key, host: str, *, hours: int = 24, now: dt.datetime | None = None
) -> x509.Certificate:
    """A server's certificate that carries evidence of its key.

    Args:
        evidence: Of claims that name this key.
        key: The server's.
        host: Name or IP address under which it is reached.
        hours: How long it is valid.
        now: From when; the clock's time by default.
    """
    now = now or dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    tagged = cbor.encode(cbor.Tagged(_TAG, [evidence.quote, evidence.claims]))
    beside = {
        "kind": evidence.kind,
        "endorsements": {name: _text(each) for name, each in evidence.endorsements.items()},
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + dt.timedelta(hours=hours))
    )
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectAlternativeName([address(host)]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.UnrecognizedExtension(TAGGED_EVIDENCE, tagged), False),
        (x509.UnrecognizedExtension(BESIDE, canonical(beside)), False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA384())


def evidence_of(certificate: x509.Certificate) -> Evidence:
    """The evidence that a certificate carries; nothing is verified.

    Raises:
        RefusedEvidence: It carries none, or none that can be read.
    """
    try:
        tagged = cbor.decode(_extension(certificate, TAGGED_EVIDENCE))
        if not isinstance(tagged, cbor.Tagged) or tagged.tag != _TAG:
            raise ValueError(f"no tag {_TAG}")
        if not isinstance(tagged.value, list) or list(map(type, tagged.value)) != [bytes, bytes]:
            raise ValueError("no quote and claims")
        beside = parse(_extension(certificate, BESIDE))
        if not isinstance(beside, dict) or beside.keys() != {"kind", "endorsements"}:
            raise ValueError("no kind and endorsements")
        quote, claims = tagged.value
        return Evidence(
            kind=_kind(beside["kind"]),
            quote=quote,
            claims=claims,
            endorsements=_endorsements(beside["endorsements"]),
        )
    except UNREADABLE as error:
        raise RefusedEvidence(f"evidence in the certificate: {error}") from None


def _extension(certificate: x509.Certificate, oid: ObjectIdentifier) -> bytes:
    try:
        value = certificate.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        raise ValueError(f"there is none (extension {oid.dotted_string})") from None
    assert isinstance(value, x509.UnrecognizedExtension)
    return bytes(value.value)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bytes(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"a {type(text).__name__}, expected base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not readable as base64") from None


def _kind(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"kind is a {type(value).__name__}, expected a name")
    return value


def _endorsements(found: Any) -> dict[str, bytes]:
    if not isinstance(found, dict):
        raise ValueError(f"endorsements are a {type(found).__name__}, expected them by name")
    return {name: _bytes(text) for name, text in found.items()}
