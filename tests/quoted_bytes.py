"""Bytes that hardware would write: reports of enclaves and domains, a platform's extension."""

import hashlib
import struct
from dataclasses import dataclass

FMSPC, CPU_SVN, PCE_SVN = bytes.fromhex("00a067110000"), bytes([11] * 16), 13
SEAM_SIGNER = bytes(48)
EXTENSION = "1.2.840.113741.1.13.1"
MRENCLAVE, MRSIGNER = hashlib.sha256(b"enclave").digest(), hashlib.sha256(b"signer").digest()


@dataclass(frozen=True, kw_only=True)
class Enclave:
    """What an SGX quote is of."""

    mrenclave: bytes = MRENCLAVE
    mrsigner: bytes = MRSIGNER
    prod_id: int = 7
    svn: int = 3
    attributes: int = 0x5
    misc: int = 0
    config_id: bytes = bytes(64)


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What a TDX quote is of."""

    mrtd: bytes = hashlib.sha384(b"firmware").digest()
    registers: tuple[bytes, ...] = tuple(hashlib.sha384(b"%d" % n).digest() for n in range(4))
    attributes: int = 1 << 28
    tcb_svn: bytes = bytes([3, 0, 5] + [0] * 13)
    owner: bytes = bytes(48)


ENCLAVE, DOMAIN = Enclave(), Domain()


def enclave_report(report_data: bytes, enclave: Enclave) -> bytes:
    body = CPU_SVN + struct.pack("<I", enclave.misc) + bytes(28)
    body += struct.pack("<QQ", enclave.attributes, 0xE7) + enclave.mrenclave + bytes(32)
    body += enclave.mrsigner + bytes(32) + enclave.config_id
    body += struct.pack("<HH", enclave.prod_id, enclave.svn) + bytes(60) + report_data
    assert len(body) == 384
    return body


def domain_report(report_data: bytes, domain: Domain) -> bytes:
    body = domain.tcb_svn + bytes(48) + SEAM_SIGNER + bytes(8)
    body += struct.pack("<QQ", domain.attributes, 0xE7) + domain.mrtd + bytes(48)
    body += domain.owner + bytes(48) + b"".join(domain.registers) + report_data
    assert len(body) == 584
    return body


def platform_extension() -> bytes:
    """The extension of a platform's certificate: what it is and its security versions, in DER."""
    parts = [
        _sequence(_oid(f"{EXTENSION}.2.{n}"), _integer(value))
        for n, value in enumerate([*CPU_SVN, PCE_SVN], start=1)
    ]
    parts.append(_sequence(_oid(f"{EXTENSION}.2.18"), _tlv(4, CPU_SVN)))
    return _sequence(
        _sequence(_oid(f"{EXTENSION}.1"), _tlv(4, bytes([0x11] * 16))),
        _sequence(_oid(f"{EXTENSION}.2"), _sequence(*parts)),
        _sequence(_oid(f"{EXTENSION}.3"), _tlv(4, bytes(2))),
        _sequence(_oid(f"{EXTENSION}.4"), _tlv(4, FMSPC)),
        _sequence(_oid(f"{EXTENSION}.5"), _tlv(10, b"\0")),
    )


def _tlv(tag: int, body: bytes) -> bytes:
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes(2, "big").lstrip(b"\0")
    return bytes([tag, 0x80 | len(size)]) + size + body


def _sequence(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


def _integer(value: int) -> bytes:
    return _tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(dotted: str) -> bytes:
    first, second, *others = map(int, dotted.split("."))
    body = bytes([first * 40 + second])
    for number in others:
        septets = [number & 0x7F]
        while number := number >> 7:
            septets.insert(0, 0x80 | number & 0x7F)
        body += bytes(septets)
    return _tlv(6, body)
