"""Quotes of SGX enclaves (version 3) and of TDX domains (version 4), read to their last byte.

Everything little-endian::

    header 48 | body 384 (SGX) or 584 (TDX) | length u32 | signature 64 | attestation key 64 | ...
    SGX:  quoting enclave's report 384 | its signature 64 | u16, 32 bytes | u16 = 5, u32, chain
    TDX:  u16 = 6, u32 around the same

The library that verifies signatures takes bytes after the end, other types around the chain, and a
chain with more in it than it needs; none of that is taken here: what is verified is all there is.

Source: Intel, SGX ECDSA Quote Library API and TDX DCAP Quoting Library API, appendices "Quote
Format"; Intel SDM volume 3D, "REPORT"; Intel TDX Module ABI, "TDINFO".
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from openfl_flows.attestation.refusal import UNREADABLE, RefusedEvidence

Kind = Literal["sgx", "tdx"]

_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_ECDSA_P256 = 2
_HEADERS: dict[Kind, tuple[int, int]] = {"sgx": (3, 0), "tdx": (4, 0x81)}
_BODY = {"sgx": 384, "tdx": 584}
_CHAIN, _NESTED = 5, 6
_LONGEST_CHAIN = 2**14
_CERTIFICATE = re.compile(b"-----BEGIN CERTIFICATE-----\n.*?-----END CERTIFICATE-----\n", re.S)


@dataclass(frozen=True, kw_only=True, repr=False)
class Quote:
    """A quote whose layout is as it must be; no signature has been looked at.

    Attributes:
        kind: What it quotes.
        raw: All of it.
        body: What is quoted: an enclave's or a domain's report.
        leaf: The platform's certificate (PCK).
        issuer: Its issuer's.
        root: The root's.
    """

    kind: Kind
    raw: bytes
    body: bytes
    leaf: x509.Certificate
    issuer: x509.Certificate
    root: x509.Certificate

    @property
    def report_data(self) -> bytes:
        """What the enclave has put in, 64 bytes."""
        return self.body[-64:]

    @property
    def root_sha256(self) -> str:
        """SHA-256 of the root's certificate in DER, hexadecimal."""
        return hashlib.sha256(self.root.public_bytes(Encoding.DER)).hexdigest()


def parse_quote(raw: bytes, kind: Kind) -> Quote:
    """Read a quote.

    Raises:
        RefusedEvidence: It is none of this kind, or not one byte less or more than that.
    """
    part = _Reader(raw)
    version, key_type = part.number(2), part.number(2)
    tee, _, vendor, _ = part.number(4), part.take(4), part.take(16), part.take(20)
    if (version, tee) != _HEADERS[kind]:
        wanted = _HEADERS[kind]
        raise RefusedEvidence(
            f"quote has version {version} and TEE type {tee:#x}, "
            f"expected {wanted[0]} and {wanted[1]:#x} of {kind}"
        )
    if key_type != _ECDSA_P256:
        raise RefusedEvidence(f"quote has key type {key_type}, expected 2 (ECDSA on P-256)")
    if vendor != _VENDOR:
        raise RefusedEvidence(
            f"quote is by vendor {vendor.hex()}, expected Intel's quoting enclave"
        )
    body = part.take(_BODY[kind])
    signed = part.rest(part.number(4), "the quote")
    signed.take(64 + 64)
    if kind == "tdx":
        signed.expect(_NESTED)
        signed = signed.rest(signed.number(4), "the signature")
    signed.take(384 + 64)
    signed.take(signed.number(2))
    signed.expect(_CHAIN)
    chain = signed.rest(signed.number(4), "the certification data")
    leaf, issuer, root = _certificates(chain.take(chain.left))
    return Quote(kind=kind, raw=raw, body=body, leaf=leaf, issuer=issuer, root=root)


class _Reader:
    """Takes bytes from the front; whoever asks for more than there is refuses the quote."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    @property
    def left(self) -> int:
        return len(self._content) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise RefusedEvidence(f"quote is too short: {size} bytes expected, {self.left} left")
        self._at += size
        return self._content[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def expect(self, kind: int) -> None:
        """Certification data of this type, and no other."""
        found = self.number(2)
        if found != kind:
            raise RefusedEvidence(f"quote has certification data of type {found}, expected {kind}")

    def rest(self, size: int, what: str) -> "_Reader":
        """The last ``size`` bytes, which must be all that are left."""
        if size < self.left:
            raise RefusedEvidence(f"quote has {self.left - size} bytes after the end of {what}")
        return _Reader(self.take(size))


def _certificates(chain: bytes) -> list[x509.Certificate]:
    """Exactly three certificates, written as PEM is, with the zero that Intel's code may add."""
    found = _CERTIFICATE.findall(chain) if len(chain) <= _LONGEST_CHAIN else []
    if len(found) != 3 or b"".join(found) != chain.removesuffix(b"\0"):
        raise RefusedEvidence("quote holds no chain of exactly three certificates in PEM")
    certificates = []
    for text in found:
        try:
            certificate = x509.load_pem_x509_certificate(text)
            written = certificate.public_bytes(Encoding.PEM)
        except UNREADABLE as error:
            raise RefusedEvidence(f"quote holds an unreadable certificate: {error}") from None
        if written != text:
            raise RefusedEvidence("quote holds a certificate that is not as PEM is written")
        certificates.append(certificate)
    return certificates
