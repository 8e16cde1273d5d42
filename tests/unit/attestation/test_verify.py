"""Evidence of every kind that must be accepted or refused, each with the reason that is given."""

import datetime as dt
import hashlib
from dataclasses import replace

import pytest

from openfl_flows.attestation.collateral import read_collateral
from openfl_flows.attestation.policy import INTEL_SGX_ROOT_CA, policy_of
from openfl_flows.attestation.verify import RefusedEvidence
from tests.quoted_bytes import DOMAIN, ENCLAVE
from tests.quoting_authority import (
    Authority,
    Judgement,
    policy_document,
    sgx_alternative,
    tdx_alternative,
)
from tests.unit.attestation.conftest import PLAN, POLICY, Party, claiming

KINDS = pytest.mark.parametrize("of", [ENCLAVE, DOMAIN], ids=["sgx", "tdx"])
OTHER = "0123" * 16
WEAK = ("INTEL-SA-00615",)


@KINDS
def test_a_party_as_the_policy_has_it_is_accepted(party, of):
    verified = party.verified(party.shows(of))
    is_enclave = of == ENCLAVE
    assert verified.measurement == (ENCLAVE.mrenclave if is_enclave else DOMAIN.mrtd).hex()
    assert (verified.status, verified.advisories) == ("UpToDate", ())
    assert (verified.prod_id, verified.svn) == ((7, 3) if is_enclave else (0, 0))
    assert verified.policy_sha256 == POLICY


@KINDS
@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"role": "aggregator"}, "of the role aggregator, expected collaborator"),
        ({"name": "site-2"}, "of the party site-2, expected site-1"),
        ({"federation": "ef" * 48}, f"of the plan {'ef' * 48}, expected {PLAN}"),
        ({"federation": PLAN[:-1] + "c"}, f"expected {PLAN}"),
        ({"policy": OTHER}, f"of the policy {OTHER}, expected {POLICY}"),
        ({"key": bytes(32)}, f"of the TLS key {'00' * 32}, expected 0001"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_evidence_of_somebody_else_is_refused(party, of, claims, reason):
    with pytest.raises(RefusedEvidence, match=reason):
        party.verified(party.shows(of, claims=claiming(**claims)))


@KINDS
def test_a_genuine_quote_of_other_claims_is_refused(party, of):
    """Relayed: claims name the thief's key, the quote is of the victim's."""
    theirs = party.shows(of)
    relayed = replace(theirs, claims=party.shows(of, claims=claiming(key=bytes(32))).claims)
    with pytest.raises(RefusedEvidence, match="the hash of the claims beside it"):
        party.verified(relayed, public_key_sha256=bytes(32))


@KINDS
def test_report_data_has_nothing_beside_the_hash(party, of):
    said = hashlib.sha256(party.shows(of).claims).digest().ljust(63, b"\0") + b"\1"
    with pytest.raises(RefusedEvidence, match="report data"):
        party.verified(party.shows(of, said=said))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"mrenclave": bytes(32)},
            f"MRENCLAVE\\) is {'0' * 64}, expected {ENCLAVE.mrenclave.hex()}",
        ),
        ({"prod_id": 8}, "product is 8, expected 7"),
        ({"svn": 2}, "security version is 2, expected at least 3"),
        ({"attributes": 0x7}, "have DEBUG"),
        ({"attributes": 0x15}, "have PROVISION_KEY"),
        ({"attributes": 0x25}, "have EINITTOKEN_KEY"),
        ({"attributes": 0x85}, "have KSS"),
        ({"attributes": 0x5 | 1 << 63}, "have bit 63"),
        ({"attributes": 0x4}, "lack INIT"),
        ({"attributes": 0x1}, "lack MODE64BIT"),
        ({"misc": 1}, "expected zeros"),
        ({"config_id": b"x".ljust(64, b"\0")}, "expected zeros"),
    ],
    ids=str,
)
def test_another_enclave_is_refused(party, changes, reason):
    with pytest.raises(RefusedEvidence, match=reason):
        party.verified(party.shows(replace(ENCLAVE, **changes)))


def test_another_signer_is_refused_where_one_is_pinned(party):
    pinned = sgx_alternative(mrsigner=[ENCLAVE.mrsigner.hex()])
    roles = {"roles": {"collaborator": [pinned]}}
    party.verified(party.shows(), policy=roles)
    with pytest.raises(RefusedEvidence, match="MRSIGNER"):
        party.verified(party.shows(replace(ENCLAVE, mrsigner=bytes(32))), policy=roles)


def test_a_newer_security_version_is_accepted(party):
    assert party.verified(party.shows(replace(ENCLAVE, svn=4))).svn == 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mrtd": bytes(48)}, "MRTD\\) is 0000"),
        *(
            (
                {"registers": (*DOMAIN.registers[:n], bytes(48), *DOMAIN.registers[n + 1 :])},
                f"RTMR{n} is 0000",
            )
            for n in range(4)
        ),
        ({"attributes": 1 << 28 | 1}, "have DEBUG"),
        ({"attributes": 1 << 28 | 1 << 29}, "have MIGRATABLE"),
        ({"attributes": 1 << 28 | 1 << 17}, "have SERVTD_EXT"),
        ({"attributes": 1 << 28 | 1 << 4}, "have bit 4"),
        ({"attributes": 0}, "lack SEPT_VE_DISABLE"),
        ({"owner": b"x".ljust(48, b"\0")}, "MROWNER is 78"),
    ],
    ids=str,
)
def test_another_domain_is_refused(party, changes, reason):
    with pytest.raises(RefusedEvidence, match=reason):
        party.verified(party.shows(replace(DOMAIN, **changes)))


def test_a_domain_on_an_older_module_is_refused(party):
    def policy(least: str) -> dict:
        return {"roles": {"collaborator": [tdx_alternative(min_tcb_svn=least)]}}

    party.verified(party.shows(DOMAIN), policy=policy("030005" + "00" * 13))
    for least in ("040005", "030105", "030006"):
        with pytest.raises(RefusedEvidence, match="security versions are 030005"):
            party.verified(party.shows(DOMAIN), policy=policy(least + "00" * 13))


@KINDS
@pytest.mark.parametrize(
    ("judgement", "reason"),
    [
        ({"status": "OutOfDate"}, "TCB is OutOfDate"),
        ({"status": "SWHardeningNeeded", "advisories": WEAK}, "SWHardeningNeeded .INTEL-SA-00615"),
        ({"status": "Revoked"}, "Revoked"),
        ({"advisories": WEAK}, "has INTEL-SA-00615, which the policy does not accept"),
        ({"leaf_revoked": True}, "quote: .*[Rr]evoked"),
        ({"issuer_revoked": True}, "quote: .*[Rr]evoked"),
        ({"cpu_svn": bytes([12] * 16)}, "No matching TCB level"),
        ({"qe_svn": 9}, "QE ISVSVN 8 is below"),
        ({"fmspc": bytes(6)}, "platform is .* 00a067110000/0000 .* the collateral is of"),
        ({"issued": dt.timedelta(days=-31)}, "issued on .*, expected at most 30 days"),
        ({"issued": dt.timedelta(days=-29), "valid": dt.timedelta(days=28)}, "expired"),
        ({"issued": dt.timedelta(days=1)}, "in the future"),
        ({"signer": "leaf"}, "is of 'Intel SGX PCK Certificate', expected 'Intel SGX TCB Signing'"),
    ],
    ids=str,
)
def test_a_platform_that_is_not_as_it_should_be_is_refused(party, of, judgement, reason):
    with pytest.raises(RefusedEvidence, match=reason):
        party.verified(party.shows(of), judgement=Judgement(**judgement))


@KINDS
def test_what_a_policy_accepts_of_a_platform_is_accepted(party, of):
    judgement = Judgement(status="SWHardeningNeeded", advisories=WEAK)
    tcb = {"statuses": ["UpToDate", "SWHardeningNeeded"], "advisories": list(WEAK)}
    verified = party.verified(party.shows(of), judgement=judgement, policy={"tcb": tcb})
    assert (verified.status, verified.advisories) == ("SWHardeningNeeded", WEAK)
    both = replace(judgement, advisories=(*WEAK, "INTEL-SA-00999"))
    with pytest.raises(RefusedEvidence, match="has INTEL-SA-00999, which"):
        party.verified(party.shows(of), judgement=both, policy={"tcb": tcb})


def test_an_older_judgement_than_the_policy_wants_is_refused(party):
    party.verified(party.shows(), policy={"tcb": {"min_evaluation": 17}})
    with pytest.raises(RefusedEvidence, match="number 17, expected at least 18"):
        party.verified(party.shows(), policy={"tcb": {"min_evaluation": 18}})


def test_collateral_of_the_age_that_the_policy_wants(party):
    judgement = Judgement(issued=dt.timedelta(days=-8))
    party.verified(party.shows(), judgement=judgement, policy={"collateral": {"max_age_days": 8}})
    with pytest.raises(RefusedEvidence, match="at most 7 days"):
        party.verified(
            party.shows(), judgement=judgement, policy={"collateral": {"max_age_days": 7}}
        )


def test_the_collateral_of_the_quote_s_platform_is_taken_of_several(party, authority):
    other = authority.collateral("sgx", Judgement(fmspc=bytes(6)))
    files = [other, authority.collateral("tdx"), authority.collateral("sgx")]
    content = b"[" + b",".join(files) + b"]"
    assert [each.kind for each in read_collateral(content)] == ["sgx", "tdx", "sgx"]
    party.verified(party.shows(), collateral=content)
    party.verified(party.shows(DOMAIN), collateral=content)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"[{}]", b'{"tcb_info": 1}'])
def test_without_collateral_nothing_is_accepted(party, content):
    with pytest.raises(RefusedEvidence, match="collateral"):
        party.verified(party.shows(), collateral=content)


@KINDS
def test_another_maker_s_platform_is_refused(party, authority, of):
    """Everything genuine, under a root of the attacker's own."""
    attacker = Party(authority=Authority(authority.now))
    with pytest.raises(RefusedEvidence, match=f"under the root {attacker.authority.root_sha256}"):
        party.verified(attacker.shows(of), collateral=attacker.authority.collateral("sgx"))


@KINDS
def test_intel_s_root_is_the_only_one_by_default(party, of):
    document = policy_document(party.authority, roles={"collaborator": [sgx_alternative()]})
    del document["authorities"]
    assert policy_of(document).authorities == (INTEL_SGX_ROOT_CA,)
    with pytest.raises(RefusedEvidence, match="under the root .*, expected 44a0196b2b99"):
        party.verified(party.shows(of), policy={"authorities": [INTEL_SGX_ROOT_CA]})


@KINDS
def test_the_right_root_at_the_end_of_another_s_chain_does_not_help(party, authority, of):
    attacker = Party(authority=Authority(authority.now))
    attacker.authority.certificates["root"] = authority.certificates["root"]
    with pytest.raises(RefusedEvidence, match="quote: "):
        party.verified(attacker.shows(of))


def test_a_role_that_the_policy_does_not_have_is_refused(party):
    with pytest.raises(RefusedEvidence, match="the policy has no such role"):
        party.verified(
            party.shows(claims=claiming(role="aggregator", name="host")),
            role="aggregator",
            name="host",
        )


def test_evidence_of_another_kind_than_the_role_s_is_refused(party):
    roles = {"roles": {"collaborator": [tdx_alternative()]}}
    with pytest.raises(RefusedEvidence, match="of kind 'sgx', expected tdx"):
        party.verified(party.shows(), policy=roles)
    with pytest.raises(RefusedEvidence, match="version 3 and TEE type 0x0, expected 4 and 0x81"):
        party.verified(replace(party.shows(), kind="tdx"), policy=roles)


def test_each_of_a_role_s_alternatives_is_accepted_whole(party):
    """Not the measurement of one with the product of another."""
    other = replace(ENCLAVE, mrenclave=bytes([1] * 32), prod_id=9)
    roles = {"roles": {"collaborator": [sgx_alternative(), sgx_alternative(other)]}}
    for enclave in (ENCLAVE, other):
        party.verified(party.shows(enclave), policy=roles)
    with pytest.raises(RefusedEvidence, match="MRENCLAVE.*; or product is 7, expected 9"):
        party.verified(party.shows(replace(other, prod_id=7)), policy=roles)
