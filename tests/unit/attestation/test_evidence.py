"""Evidence in certificates and files, where it comes from, and what plug-ins add."""

import datetime as dt
import json
import stat
import subprocess
import sys
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from openfl_flows.attestation import cbor
from openfl_flows.attestation.claims import claims_bytes, key_digest, read_claims, report_data
from openfl_flows.attestation.evidence import (
    TAGGED_EVIDENCE,
    Evidence,
    evidence_certificate,
    evidence_of,
    from_bytes,
    to_bytes,
)
from openfl_flows.attestation.quoters import (
    GramineQuoter,
    TsmQuoter,
    make_evidence,
    quoter,
    read_report,
)
from openfl_flows.attestation.verifiers import ENDORSERS, FILE, verifiers_of
from openfl_flows.attestation.verify import RefusedEvidence
from openfl_flows.pki.certificates import new_key, pem
from tests.quoted_bytes import DOMAIN, ENCLAVE
from tests.quoting_authority import (
    ROOT,
    Authority,
    SyntheticQuoter,
    sgx_alternative,
    tdx_alternative,
    write_quoter,
)
from tests.unit.attestation.conftest import OWN, claiming


@pytest.mark.parametrize("host", ["aggregator.example", "10.0.0.7"])
def test_a_certificate_carries_evidence_of_its_own_key(party, host):
    key = new_key()
    claims = claiming(role="aggregator", name=host, key=key_digest(key.public_key()))
    evidence = replace(party.shows(claims=claims), endorsements={"gpu": b"token"})
    certificate = evidence_certificate(evidence, key, host, hours=2)
    assert evidence_of(certificate) == evidence
    assert from_bytes(pem(certificate)) == evidence
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [host]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lasts == dt.timedelta(hours=2, minutes=5)
    policy = {"roles": {"aggregator": [sgx_alternative()]}}
    expected = {"role": "aggregator", "name": host, "policy": policy}
    own = key_digest(certificate.public_key())
    party.verified(evidence_of(certificate), public_key_sha256=own, **expected)
    stolen = evidence_certificate(evidence, new_key(), host)
    with pytest.raises(RefusedEvidence, match="of the TLS key"):
        party.verified(
            evidence_of(stolen), public_key_sha256=key_digest(stolen.public_key()), **expected
        )


def test_other_implementations_can_read_the_certificate(party):
    """RA-TLS: tag 60000 of [quote, claims]; in the claims, pubkey-hash is [1, SHA-256]."""
    certificate = evidence_certificate(party.shows(), new_key(), "host")
    tagged = cbor.decode(certificate.extensions.get_extension_for_oid(TAGGED_EVIDENCE).value.value)
    assert tagged.tag == 60000
    quote, claims = tagged.value
    assert quote[368:432] == report_data(claims)
    assert cbor.decode(cbor.decode(claims)["pubkey-hash"]) == [1, OWN.key]


def test_files_hold_evidence_in_one_way_only(party):
    evidence = replace(party.shows(), endorsements={"gpu": b"token"})
    content = to_bytes(evidence)
    assert from_bytes(content) == evidence
    document = json.loads(content)
    for other in (
        json.dumps(document, indent=1).encode(),
        content + b"\n",
        json.dumps({**document, "kind": 1}).encode(),
        json.dumps({**document, "quote": "%"}).encode(),
        json.dumps({**document, "endorsements": ["gpu"]}).encode(),
        json.dumps({**document, "more": 1}).encode(),
        json.dumps({key: value for key, value in document.items() if key != "quote"}).encode(),
        b"x" * (2**20 + 1),
    ):
        with pytest.raises(RefusedEvidence):
            from_bytes(other)


def test_claims_come_back_as_they_were():
    content = claims_bytes(OWN)
    assert read_claims(content) == OWN
    found = cbor.decode(content)
    with pytest.raises(RefusedEvidence, match="others than those"):
        read_claims(cbor.encode({**found, "more": 1}))
    with pytest.raises(RefusedEvidence, match="no 'role'"):
        read_claims(cbor.encode({key: value for key, value in found.items() if key != "role"}))


@pytest.mark.parametrize(
    "changes", [{"role": "director"}, {"federation": "ab"}, {"policy": "AB" * 32}, {"key": b""}]
)
def test_claims_that_nobody_can_make_are_refused(changes):
    with pytest.raises(ValueError, match="expected"):
        claiming(**changes)


def test_evidence_is_made_of_what_a_quoter_gives(party, authority):
    for of in (ENCLAVE, DOMAIN):
        party.verified(make_evidence(SyntheticQuoter(authority=authority, of=of), OWN))


def test_gramine_s_files_give_a_quote(tmp_path, authority):
    with pytest.raises(ValueError, match="expected to run under gramine-sgx"):
        GramineQuoter(folder=tmp_path).quote(bytes(64))
    (tmp_path / "quote").write_bytes(authority.sgx(bytes(64)))
    quoted = GramineQuoter(folder=tmp_path).quote(bytes([1] * 64))
    assert (tmp_path / "user_report_data").read_bytes() == bytes([1] * 64)
    assert (quoted.kind, quoted.quote) == ("sgx", (tmp_path / "quote").read_bytes())


def test_linux_files_give_a_quote_without_what_hosts_put_behind_it(tmp_path, party, authority):
    with pytest.raises(ValueError, match="expected a confidential machine"):
        TsmQuoter(folder=tmp_path / "none").quote(bytes(64))
    evidence = party.shows(DOMAIN)
    for name, content in (("generation", b"0\n"), ("provider", b"tdx_guest\n")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "outblob").write_bytes(evidence.quote + bytes(70))
    quoted = read_report(tmp_path, report_data(evidence.claims))
    assert (quoted.kind, quoted.quote) == ("tdx", evidence.quote)
    assert (tmp_path / "inblob").read_bytes() == report_data(evidence.claims)
    (tmp_path / "provider").write_text("sev_guest\n")
    assert read_report(tmp_path, bytes(64)).kind == "snp"
    (tmp_path / "provider").write_text("arm_cca_guest\n")
    with pytest.raises(ValueError, match="provider arm_cca_guest"):
        read_report(tmp_path, bytes(64))


def test_a_process_finds_a_quoter_on_its_path(tmp_path, authority):
    with pytest.raises(ValueError, match="no quoter 'synthetic', expected one of gramine, tsm"):
        quoter("synthetic")
    write_quoter(tmp_path, authority, of=replace(ENCLAVE, svn=9))
    code = (
        "import sys; from openfl_flows.attestation.quoters import quoter;"
        "sys.stdout.buffer.write(quoter('synthetic').quote(bytes(range(64))).quote)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout[368:432] == bytes(range(64))
    assert done.stdout[48 + 258] == 9
    assert Authority.load(tmp_path / "authority").root_sha256 == authority.root_sha256


PROGRAM = """\
#!{python}
import base64, hashlib, json, sys
asked = json.load(sys.stdin)
token = base64.b64decode(asked["evidence"]).decode()
nonce, _, gpu = token.partition("/")
if nonce != asked["nonce"]:
    sys.exit(f"the token is of nonce {{nonce}}\\nexpected {{asked['nonce']}}")
print(json.dumps({{"gpu": gpu, "secure_boot": True, "driver": 570}}))
"""
ENDORSER = """\
#!{python}
import json, sys
print(json.load(sys.stdin)["nonce"] + "/H100", end="")
"""


@pytest.fixture
def workspace(tmp_path):
    """A party's, with a program that verifies GPUs and one that endorses its own."""
    for name, text, file, key in (
        ("verify", PROGRAM, FILE, "verifiers"),
        ("endorse", ENDORSER, ENDORSERS, "endorsers"),
    ):
        program = tmp_path / name
        program.write_text(text.format(python=sys.executable))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(f"{key}:\n  gpu: [{program}]\n")
    return tmp_path


def endorsed(**claims):
    endorsements = {"gpu": {"claims": claims}}
    return {"roles": {"collaborator": [tdx_alternative(endorsements=endorsements)]}}


def test_a_gpu_vouches_for_a_party_by_a_program_of_the_verifier_s(workspace, party, authority):
    source = SyntheticQuoter(authority=authority, of=DOMAIN)
    evidence = make_evidence(source, OWN, workspace=workspace)
    verifiers = verifiers_of(workspace)
    policy = endorsed(gpu=["H100", "H200"], secure_boot=True)
    verified = party.verified(evidence, policy=policy, verifiers=verifiers)
    assert verified.endorsements == ("gpu",)

    for wanted, reason in (
        ({"gpu": "H200"}, "gpu: claim gpu is 'H100', expected 'H200'"),
        ({"secure_boot": 1}, "claim secure_boot is True, expected 1"),
        ({"debug": False}, "claim debug is missing, expected False"),
    ):
        with pytest.raises(RefusedEvidence, match=reason):
            party.verified(evidence, policy=endorsed(**wanted), verifiers=verifiers)
    with pytest.raises(RefusedEvidence, match="no endorsement 'gpu', which the policy asks for"):
        party.verified(party.shows(DOMAIN), policy=policy, verifiers=verifiers)
    with pytest.raises(RefusedEvidence, match="no verifier 'gpu' here"):
        party.verified(evidence, policy=policy)
    relayed = replace(evidence, endorsements={"gpu": b"00/H100"})
    with pytest.raises(RefusedEvidence, match="status 1: the token is of nonce 00 expected"):
        party.verified(relayed, policy=policy, verifiers=verifiers)


def test_quotes_of_other_processors_go_the_same_way(workspace, party, authority):
    claims = claims_bytes(OWN)
    nonce = report_data(claims)[:32].hex()
    evidence = Evidence(kind="gpu", quote=f"{nonce}/H100".encode(), claims=claims)
    alternative = {"kind": "gpu", "measurement": "gpu", "claims": {"gpu": "H100"}}
    policy, verifiers = {"roles": {"collaborator": [alternative]}}, verifiers_of(workspace)
    verified = party.verified(evidence, policy=policy, verifiers=verifiers, collateral=None)
    assert (verified.kind, verified.measurement, verified.status) == ("gpu", "H100", "")
    other = replace(evidence, claims=claims_bytes(claiming(key=bytes(32))))
    with pytest.raises(RefusedEvidence, match="the token is of nonce"):
        party.verified(
            other, policy=policy, verifiers=verifiers, collateral=None, public_key_sha256=bytes(32)
        )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gpu: [/bin/true]", "expected the key verifiers"),
        ("verifiers: {gpu: /bin/true}", "verifiers.gpu"),
        ("verifiers: {gpu: []}", "expected an absolute path first"),
        ("verifiers: {gpu: [true]}", "verifiers.gpu.0"),
        ("verifiers: {gpu: ['verify.sh']}", "expected an absolute path first"),
        ("[", "not readable as YAML"),
    ],
)
def test_a_file_of_programs_that_cannot_be_meant_is_refused(workspace, text, reason):
    (workspace / FILE).write_text(text)
    with pytest.raises(ValueError, match=reason):
        verifiers_of(workspace)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("/bin/true", "not readable as JSON"),
        ("/bin/false", "ended with status 1: it says nothing"),
        ("/bin/cat", "claim gpu is missing"),
        ("/no/such/program", "No such file"),
    ],
)
def test_a_program_that_does_not_answer_as_it_should_refuses(workspace, party, program, reason):
    (workspace / FILE).write_text(f"verifiers: {{gpu: [{program}]}}")
    evidence = replace(party.shows(DOMAIN), endorsements={"gpu": b"token"})
    with pytest.raises(RefusedEvidence, match=reason):
        party.verified(evidence, policy=endorsed(gpu="H100"), verifiers=verifiers_of(workspace))
