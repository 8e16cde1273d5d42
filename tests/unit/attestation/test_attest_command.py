"""openfl-flows attest: what a person verifies by hand."""

import json

import pytest
from cryptography import x509

from openfl_flows.attestation.claims import Claims, key_digest
from openfl_flows.attestation.evidence import Evidence, evidence_certificate, to_bytes
from openfl_flows.attestation.quoters import make_evidence
from openfl_flows.cli import main
from openfl_flows.pki.certificates import new_key, pem
from tests.quoted_bytes import DOMAIN, ENCLAVE, Domain, Enclave
from tests.quoting_authority import SyntheticQuoter, policy_document, sgx_alternative
from tests.refusals import refused

HOST, PLAN = "aggregator.example", "ab" * 48


@pytest.fixture
def folder(tmp_path, authority, monkeypatch, capsys):
    """What a party has: a policy that it pinned, collateral, and the aggregator's certificate."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attestation").mkdir()
    policy = tmp_path / "attestation" / "policy.yaml"
    policy.write_text(json.dumps(policy_document(authority)))
    assert main(["release", "key", "a.key"]) == 0
    assert main(["release", "signers", "signers.json", "a=a.key.pub", "--need", "1"]) == 0
    assert main(["attest", "sign", str(policy), "--key", "a.key"]) == 0
    assert main(["attest", "pin", ".", "--signers", "signers.json"]) == 0
    (tmp_path / "collateral.json").write_bytes(authority.collateral())
    key = new_key()
    evidence = evidence_for(authority, policy_sha256(tmp_path), key)
    (tmp_path / "server.pem").write_bytes(pem(evidence_certificate(evidence, key, HOST)))
    (tmp_path / "evidence.json").write_bytes(to_bytes(evidence))
    capsys.readouterr()
    return tmp_path


def policy_sha256(folder) -> str:
    return (folder / "attestation" / "policy.sha256").read_text().split()[0]


def evidence_for(authority, policy, key, of=ENCLAVE) -> Evidence:
    own = key_digest(key.public_key())
    claims = Claims(role="aggregator", name=HOST, federation=PLAN, policy=policy, key=own)
    return make_evidence(SyntheticQuoter(authority=authority, of=of), claims)


def verify(evidence="server.pem", **options):
    given = {
        "policy": "attestation/policy.yaml",
        "signers": "signers.json",
        "role": "aggregator",
        "name": HOST,
        "federation": PLAN,
        "collateral": "collateral.json",
        **options,
    }
    words = [w for k, v in given.items() if v is not None for w in (f"--{k}", v) if w is not True]
    return ["attest", "verify", evidence, *words]


def test_a_certificate_is_accepted(folder, capsys):
    assert main(verify(pin=policy_sha256(folder))) == 0
    assert f"accepted: aggregator {HOST}" in capsys.readouterr().out
    assert main([*verify(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["accepted"], found["status"], found["svn"]) == (True, "UpToDate", 3)
    assert found["policy_sha256"] == policy_sha256(folder)


def test_a_file_of_evidence_is_held_against_the_key_that_was_shown(folder, capsys):
    assert "expected --certificate or --key" in refused(capsys, *verify("evidence.json"))
    certificate = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    own = key_digest(certificate.public_key()).hex()
    assert main(verify("evidence.json", certificate="server.pem")) == 0
    assert main(verify("evidence.json", key=own)) == 0
    assert "of the TLS key" in refused(capsys, *verify("evidence.json", key="00" * 32))
    assert "--key zz" in refused(capsys, *verify("evidence.json", key="zz"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "other.example"}, f"of the party {HOST}, expected other.example"),
        ({"role": "collaborator"}, "of the role aggregator, expected collaborator"),
        ({"federation": "cd" * 48}, "of the plan"),
        ({"pin": "00" * 32}, "expected 0000"),
        ({"collateral": None}, "no collateral to judge the platform by"),
        ({"time": "2020-01-01T00:00:00Z"}, "future"),
        ({"time": "2020-01-01"}, "expected a time zone"),
        ({"policy": "none.yaml"}, "none.yaml: no such file"),
        ({"signers": "none.json"}, "none.json: no such file"),
    ],
    ids=str,
)
def test_one_line_says_why_not(folder, capsys, options, reason):
    assert reason in refused(capsys, *verify(**options))


def test_a_refusal_is_json_too(folder, capsys):
    assert main([*verify(name="other.example"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["accepted"] is False
    assert "expected other.example" in found["reason"]


def test_evidence_is_of_the_policy_that_it_is_verified_by(folder, capsys, authority):
    """An enclave that was told another policy is not one that was told this one."""
    path = folder / "attestation" / "policy.yaml"
    roles = {"aggregator": [sgx_alternative(), sgx_alternative(prod_id=8)]}
    path.write_text(json.dumps(policy_document(authority, version=2, roles=roles)))
    assert main(["attest", "sign", str(path), "--key", "a.key"]) == 0
    assert "of the policy" in refused(capsys, *verify())


def test_show_says_that_nothing_was_verified(folder, capsys, authority):
    for file in ("server.pem", "evidence.json"):
        assert main(["attest", "show", file]) == 0
        out = capsys.readouterr().out
        assert sgx_alternative()["mrenclave"][0] in out
        assert "nothing was verified" in out
    assert main(["attest", "show", "server.pem", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verified"], found["root"]) == (False, authority.root_sha256)
    (folder / "evidence.json").write_bytes(b"{}")
    assert "evidence: " in refused(capsys, "attest", "show", "evidence.json")


@pytest.mark.parametrize(
    ("of", "measurement", "why"),
    [
        (Enclave(attributes=0x7), ENCLAVE.mrenclave.hex(), "have DEBUG"),
        (Enclave(misc=1), ENCLAVE.mrenclave.hex(), "MISCSELECT"),
        (Domain(attributes=1 << 28 | 1), DOMAIN.mrtd.hex(), "have DEBUG"),
    ],
)
def test_show_shows_what_no_policy_accepts(folder, capsys, authority, of, measurement, why):
    evidence = evidence_for(authority, policy_sha256(folder), new_key(), of)
    (folder / "evidence.json").write_bytes(to_bytes(evidence))
    assert main(["attest", "show", "evidence.json"]) == 0
    out = capsys.readouterr().out
    assert measurement in out
    (line,) = [line for line in out.splitlines() if line.startswith("attributes")]
    assert "REFUSED under any policy" in line
    assert why in line


def test_a_pin_is_told_by_its_whole_hash(folder, capsys):
    pin = ["attest", "pin", ".", "--signers", "signers.json", "--sha256"]
    assert main([*pin, policy_sha256(folder)]) == 0
    assert "expected" in refused(capsys, *pin, policy_sha256(folder)[:8])


def test_collateral_that_cannot_be_fetched_changes_nothing(folder, capsys):
    before = (folder / "collateral.json").read_bytes()
    words = ["attest", "collateral", "evidence.json", "--out", "collateral.json", "--pccs"]
    assert "no collateral" in refused(capsys, *words, "http://127.0.0.1:9")
    assert (folder / "collateral.json").read_bytes() == before
