"""The verdict on evidence: is it this party, in this federation, on hardware that is accepted?

The order is from what costs nothing to what costs most, and nothing that a policy could allow comes
before what no policy may: the claims name everything that the verifier knows itself, the report
data binds them to the quote, the quote is verified, and only then judged by the policy.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from openfl_flows.attestation.claims import NONCE, read_claims, report_data
from openfl_flows.attestation.dcap import Platform, verify_quote
from openfl_flows.attestation.evidence import Evidence, digest
from openfl_flows.attestation.judge import judge
from openfl_flows.attestation.policy import Policy
from openfl_flows.attestation.quote import parse_quote
from openfl_flows.attestation.refusal import UNREADABLE, RefusedEvidence
from openfl_flows.attestation.report import SgxReport, TdxReport, read_sgx, read_tdx
from openfl_flows.attestation.verifiers import (
    Claimed,
    InstalledVerifiers,
    Verifier,
    check_claims,
    claims_of,
)
from openfl_flows.pki.plan import Role

__all__ = ["RefusedEvidence", "Verified", "verify"]

_WORDS = {
    "role": "the role",
    "name": "the party",
    "federation": "the plan",
    "policy": "the policy",
    "key": "the TLS key",
}


@dataclass(frozen=True, kw_only=True)
class Verified:
    """Evidence that was accepted, as it goes into records.

    Attributes:
        kind: Of the quote.
        measurement: MRENCLAVE, MRTD, or what a plug-in calls so; hexadecimal.
        status: State of the platform; empty where a plug-in judges it.
        advisories: Its known weaknesses, all accepted.
        prod_id: The enclave's product; 0 for others.
        svn: Its security version; 0 for others.
        evidence_sha256: SHA-256 of the evidence as it is sent.
        policy_sha256: SHA-256 of the policy's file.
        endorsements: Names of what else has vouched.
    """

    kind: str
    measurement: str
    status: str
    advisories: tuple[str, ...]
    prod_id: int
    svn: int
    evidence_sha256: str
    policy_sha256: str
    endorsements: tuple[str, ...] = ()


def verify(
    evidence: Evidence,
    policy: Policy,
    *,
    role: Role,
    name: str,
    federation: str,
    policy_digest: str,
    public_key_sha256: bytes,
    collateral: bytes | None,
    now: dt.datetime,
    verifiers: Mapping[str, Verifier] | None = None,
) -> Verified:
    """Accept evidence, or say why not.

    Args:
        evidence: What was shown.
        policy: What is accepted.
        role: Whom the verifier expects.
        name: The site's name, or the aggregator's address.
        federation: SHA-384 of the plan, whole, in hexadecimal.
        policy_digest: SHA-256 of the policy's file in hexadecimal.
        public_key_sha256: SHA-256 of the public key that the peer has shown to have (its TLS
            certificate's SubjectPublicKeyInfo in DER).
        collateral: Content of the verifier's own file of collateral; None where it has none.
        now: The verifier's clock, with a time zone.
        verifiers: Plug-ins by name; by default those that are installed.

    Raises:
        RefusedEvidence: One line says what was found and what was expected.
    """
    assert now.tzinfo is not None, "a moment with a time zone"
    _check_claims(evidence, role, name, federation, policy_digest, public_key_sha256)
    known = InstalledVerifiers() if verifiers is None else verifiers
    nonce = report_data(evidence.claims)
    alternatives = [each for each in policy.roles.get(role, ()) if each.kind == evidence.kind]
    if not alternatives:
        accepted = {each.kind for each in policy.roles.get(role, ())}
        raise RefusedEvidence(
            f"{role} {name} shows evidence of kind {evidence.kind!r}, "
            f"expected {' or '.join(sorted(accepted)) or 'none: the policy has no such role'}"
        )
    try:
        found, platform = _verified(evidence, policy, collateral, known, nonce, now)
    except RefusedEvidence:
        raise
    except UNREADABLE as error:
        raise RefusedEvidence(f"evidence is not readable: {error}") from None
    reasons = []
    for wanted in alternatives:
        try:
            measurement, prod_id, svn = judge(found, wanted)
            for each, endorsement in sorted(wanted.endorsements.items()):
                if each not in evidence.endorsements:
                    raise RefusedEvidence(f"no endorsement {each!r}, which the policy asks for")
                content = evidence.endorsements[each]
                claimed = claims_of(each, known, content, nonce[:NONCE], now)
                check_claims(each, claimed, endorsement.claims)
        except RefusedEvidence as error:
            reasons.append(str(error))
            continue
        return Verified(
            kind=evidence.kind,
            measurement=measurement,
            status=platform.status,
            advisories=platform.advisories,
            prod_id=prod_id,
            svn=svn,
            evidence_sha256=digest(evidence),
            policy_sha256=policy_digest,
            endorsements=tuple(sorted(wanted.endorsements)),
        )
    raise RefusedEvidence(f"{role} {name}: {'; or '.join(reasons)}")


def _check_claims(
    evidence: Evidence, role: Role, name: str, federation: str, policy: str, key: bytes
) -> None:
    claims = read_claims(evidence.claims)
    expected = {
        "role": role,
        "name": name,
        "federation": federation,
        "policy": policy,
        "key": key.hex(),
    }
    for what, value in expected.items():
        found = claims.key.hex() if what == "key" else getattr(claims, what)
        if found != value:
            raise RefusedEvidence(f"evidence is of {_WORDS[what]} {found}, expected {value}")


def _verified(
    evidence: Evidence,
    policy: Policy,
    collateral: bytes | None,
    verifiers: Mapping[str, Verifier],
    nonce: bytes,
    now: dt.datetime,
) -> tuple[SgxReport | TdxReport | Claimed, Platform]:
    """What the evidence is of, and the platform that vouches for it."""
    if evidence.kind not in ("sgx", "tdx"):
        claimed = claims_of(evidence.kind, verifiers, evidence.quote, nonce[:NONCE], now)
        return claimed, Platform(status="", advisories=())
    is_sgx = evidence.kind == "sgx"
    quote = parse_quote(evidence.quote, "sgx" if is_sgx else "tdx")
    if quote.report_data != nonce:
        raise RefusedEvidence(
            f"quote is of report data {quote.report_data.hex()}, expected {nonce.hex()}, "
            "the hash of the claims beside it"
        )
    report = read_sgx(quote.body) if is_sgx else read_tdx(quote.body)
    return report, verify_quote(quote, policy, collateral, now)
