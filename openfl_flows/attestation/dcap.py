"""Quotes of SGX and TDX: signatures by ``dcap-qvl``, and what that library leaves to its caller.

The library checks every signature from the root down to the report, revocation, dates, and which
state the platform is in. Here: that the quote ends where it ends (:mod:`.quote`), stands under a
root that the policy names, in chains that have the names that Intel gives them; that collateral is
of this platform and not older than the policy says; and that state and weaknesses are accepted.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from openfl_flows.attestation.collateral import Collateral, read_collateral
from openfl_flows.attestation.policy import Policy
from openfl_flows.attestation.quote import Quote
from openfl_flows.attestation.refusal import UNREADABLE, RefusedEvidence
from openfl_flows.pki.certificates import common_name

_LEAF = "Intel SGX PCK Certificate"
_ISSUERS = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA")
_SIGNER = "Intel SGX TCB Signing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """The platform that has signed a quote.

    Attributes:
        status: In which state it is.
        advisories: Its known weaknesses.
    """

    status: str
    advisories: tuple[str, ...]


def verify_quote(
    quote: Quote, policy: Policy, collateral: bytes | None, now: dt.datetime
) -> Platform:
    """Verify who has signed a quote; what it quotes is the caller's.

    Raises:
        RefusedEvidence: It is not accepted.
    """
    if quote.root_sha256 not in policy.authorities:
        raise RefusedEvidence(
            f"quote stands under the root {quote.root_sha256}, "
            f"expected {' or '.join(policy.authorities)}"
        )
    _expect_names(quote)
    known = _collateral_for(quote, collateral)
    _check_age(known, policy, now)
    try:
        report = dcap_qvl.verify_with_root_ca(
            quote.raw,
            known.for_library(),
            quote.root.public_bytes(Encoding.DER),
            int(now.timestamp()),
        )
    except ValueError as error:
        raise RefusedEvidence(f"quote: {error}") from None
    platform = Platform(status=report.status, advisories=tuple(sorted({*report.advisory_ids})))
    if platform.status not in policy.tcb.statuses:
        named = ", ".join(platform.advisories) or "no advisory"
        raise RefusedEvidence(
            f"platform's TCB is {platform.status} ({named}), "
            f"expected {' or '.join(policy.tcb.statuses)}"
        )
    unknown = [name for name in platform.advisories if name not in policy.tcb.advisories]
    if unknown:
        accepted = ", ".join(policy.tcb.advisories) or "none"
        raise RefusedEvidence(
            f"platform has {', '.join(unknown)}, which the policy does not accept (it has "
            f"{accepted})"
        )
    return platform


def _expect_names(quote: Quote) -> None:
    for certificate, expected in ((quote.leaf, (_LEAF,)), (quote.issuer, _ISSUERS)):
        found = common_name(certificate)
        if found not in expected:
            raise RefusedEvidence(
                f"quote's chain has a certificate of {found!r}, expected {' or '.join(expected)!r}"
            )


def _collateral_for(quote: Quote, content: bytes | None) -> Collateral:
    if content is None:
        raise RefusedEvidence(
            "no collateral to judge the platform by, expected some (openfl-flows attest collateral)"
        )
    try:
        known = read_collateral(content)
        extension = dcap_qvl.parse_pck_extension_from_pem(quote.leaf.public_bytes(Encoding.PEM))
    except ValueError as error:
        raise RefusedEvidence(str(error)) from None
    fmspc, pce_id = extension.fmspc.hex(), extension.pce_id.hex()
    for each in known:
        if (each.kind, each.fmspc, each.pce_id) == (quote.kind, fmspc, pce_id):
            _expect_signers(each)
            return each
    there = ", ".join(f"{each.kind} {each.fmspc}/{each.pce_id}" for each in known) or "nothing"
    raise RefusedEvidence(
        f"platform is {quote.kind} {fmspc}/{pce_id} (FMSPC/PCE), but the collateral is of {there}"
    )


def _expect_signers(collateral: Collateral) -> None:
    """A platform's own key must not have signed how it is judged."""
    for name in ("tcb_info_issuer_chain", "qe_identity_issuer_chain"):
        try:
            chain: Sequence[x509.Certificate] = x509.load_pem_x509_certificates(
                collateral.parts[name].encode()
            )
        except UNREADABLE as error:
            raise RefusedEvidence(f"collateral: {name}: {error}") from None
        found = common_name(chain[0])
        if found != _SIGNER:
            raise RefusedEvidence(f"collateral: {name} is of {found!r}, expected {_SIGNER!r}")


def _check_age(collateral: Collateral, policy: Policy, now: dt.datetime) -> None:
    least = policy.tcb.min_evaluation
    if collateral.evaluation < least:
        raise RefusedEvidence(
            f"collateral has TCB evaluation data number {collateral.evaluation}, "
            f"expected at least {least}"
        )
    days = policy.collateral.max_age_days
    if now - collateral.issued > dt.timedelta(days=days):
        raise RefusedEvidence(
            f"collateral was issued on {collateral.issued:%Y-%m-%d}, expected at most {days} days "
            f"before {now:%Y-%m-%d}"
        )
