"""Collateral: what the makers of processors say of platforms and of what was revoked, with dates.

A file holds what ``dcap-qvl`` calls QuoteCollateralV3, or a list of them: one for each model of
platform (FMSPC) and kind of quote. A party fetches it from a service that it chose itself; every
part is signed by the authority that signs platforms, so that the service cannot change it.
"""

import asyncio
import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dcap_qvl
from cryptography import x509

from openfl_flows.attestation.refusal import UNREADABLE
from openfl_flows.strict_json import parse

LARGEST = 2**24

_TEXTS = (
    "pck_crl_issuer_chain",
    "tcb_info_issuer_chain",
    "tcb_info",
    "qe_identity_issuer_chain",
    "qe_identity",
)
_BINARY = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
_CHAIN = "pck_certificate_chain"


@dataclass(frozen=True, kw_only=True)
class Collateral:
    """Collateral of one model of platform, read but not verified.

    Attributes:
        parts: The fields of QuoteCollateralV3, binary ones in hexadecimal.
        kind: Whose quotes it is for: ``sgx`` or ``tdx``.
        fmspc: The model of platform, hexadecimal in lower case.
        pce_id: The provisioning enclave, likewise.
        evaluation: The lower one of its two TCB evaluation data numbers.
        issued: Date of its oldest part but for the root's list of revocations.
    """

    parts: dict[str, str]
    kind: str
    fmspc: str
    pce_id: str
    evaluation: int
    issued: dt.datetime

    def for_library(self) -> Any:
        """As ``dcap_qvl`` takes it. The platform's certificate is always the quote's own."""
        values = [self.parts[name] for name in _ORDER]
        binary = [
            bytes.fromhex(v) if n in _BINARY else v for n, v in zip(_ORDER, values, strict=True)
        ]
        return dcap_qvl.QuoteCollateralV3(*binary)


_ORDER = (
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "tcb_info_signature",
    "qe_identity_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
)


def read_collateral(content: bytes) -> list[Collateral]:
    """All collateral in a file.

    Raises:
        ValueError: It is not readable.
    """
    if len(content) > LARGEST:
        raise ValueError(f"collateral of {len(content)} bytes, expected at most {LARGEST}")
    try:
        document = parse(content)
        listed = document if isinstance(document, list) else [document]
        return [_read(each) for each in listed]
    except UNREADABLE as error:
        raise ValueError(f"collateral: {error}") from None


def write_collateral(collateral: Sequence[Collateral]) -> bytes:
    """Collateral as a file."""
    return f"{json.dumps([each.parts for each in collateral], indent=1)}\n".encode()


def fetch_collateral(url: str, quote: bytes) -> Collateral:
    """Fetch what a quote asks for.

    Args:
        url: A caching service (PCCS) that the party chose, or Intel's.
        quote: The quote.

    Raises:
        ValueError: The service does not answer, or not with collateral.
    """
    # The library would ask a service of its maker's choice instead.
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url!r}: expected the URL of a service, http:// or https://")

    async def asked() -> Any:
        return await dcap_qvl.get_collateral(url, quote)

    try:
        found = asyncio.run(asked())
    except (ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"{url}: no collateral: {' '.join(str(error).split())}") from None
    (collateral,) = read_collateral(found.to_json().encode())
    return collateral


def merged(known: Sequence[Collateral], new: Sequence[Collateral]) -> list[Collateral]:
    """All of them, the newer in place of what was known of the same platforms."""
    by_platform = {(each.kind, each.fmspc, each.pce_id): each for each in [*known, *new]}
    return [by_platform[platform] for platform in sorted(by_platform)]


def _read(document: Any) -> Collateral:
    if not isinstance(document, dict) or document.keys() - {_CHAIN} != {*_TEXTS, *_BINARY}:
        raise ValueError(f"expected the keys {', '.join(_ORDER)}")
    for name in _ORDER:
        if not isinstance(document[name], str):
            raise ValueError(f"{name} is a {type(document[name]).__name__}, expected text")
    for name in _BINARY:
        _hexadecimal(name, document[name])
    tcb, enclave = _object(document, "tcb_info"), _object(document, "qe_identity")
    try:
        crl = x509.load_der_x509_crl(bytes.fromhex(document["pck_crl"]))
        dates = [_date(tcb["issueDate"]), _date(enclave["issueDate"]), crl.last_update_utc]
        return Collateral(
            parts={name: document[name] for name in _ORDER},
            kind=str(tcb["id"]).lower(),
            fmspc=_hexadecimal("fmspc", tcb["fmspc"]).hex(),
            pce_id=_hexadecimal("pceId", tcb["pceId"]).hex(),
            evaluation=min(int(part["tcbEvaluationDataNumber"]) for part in (tcb, enclave)),
            issued=min(dates),
        )
    except KeyError as error:
        raise ValueError(f"no {error} in tcb_info or qe_identity") from None
    except TypeError as error:
        raise ValueError(f"tcb_info or qe_identity: {error}") from None


def _object(document: dict[str, str], name: str) -> dict[str, Any]:
    try:
        found = parse(document[name].encode())
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{name} is no object")
    return found


def _date(text: Any) -> dt.datetime:
    date = dt.datetime.fromisoformat(str(text))
    if date.tzinfo is None:
        raise ValueError(f"date {text} without a time zone")
    return date


def _hexadecimal(name: str, text: Any) -> bytes:
    try:
        return bytes.fromhex(text)
    except (ValueError, TypeError):
        raise ValueError(f"{name} is not hexadecimal") from None
