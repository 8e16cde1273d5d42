"""Policies: nothing pinned is refused, and a file is taken only as signed, as pinned, and newer."""

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from openfl_flows.attestation.policy import INTEL_SGX_ROOT_CA, policy_of
from openfl_flows.attestation.signed_policy import (
    PIN,
    POLICY,
    SIGNATURES,
    pin_policy,
    pinned_policy,
    read_policy,
    sign_policy,
)
from openfl_flows.release.signature import signed, statement
from tests.quoting_authority import agreed, policy_document, sgx_alternative, tdx_alternative

KEYS = {name: Ed25519PrivateKey.generate() for name in ("a", "b", "c")}
SIGNERS = agreed(KEYS, need=2)
ZERO = "0" * 96


def roles(*alternatives):
    return {"roles": {"aggregator": list(alternatives)}}


def without(alternative, key):
    return {name: value for name, value in alternative.items() if name != key}


PLUG_IN = {"kind": "snp", "measurement": "measurement", "claims": {"measurement": "ab"}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"roles": {}}, "nothing is pinned for any role"),
        (roles(), "nothing is pinned for aggregator"),
        ({"roles": {"director": [sgx_alternative()]}}, "director"),
        (roles(sgx_alternative(mrenclave=[])), "mrenclave is empty: nothing is pinned"),
        (roles(without(sgx_alternative(), "mrenclave")), "mrenclave: Field required"),
        (roles(without(sgx_alternative(), "prod_id")), "prod_id: Field required"),
        (roles(without(sgx_alternative(), "min_svn")), "min_svn: Field required"),
        (roles(sgx_alternative(mrenclave=["ab"])), "mrenclave.0='ab': expected 64 hexadecimal"),
        (roles(sgx_alternative(mrenclave=["AB" * 32])), "lower case"),
        (roles(sgx_alternative(mrenclave=[12])), "mrenclave.0=12"),
        (roles(sgx_alternative(prod_id=70000)), "prod_id=70000, expected 0 to 65535"),
        (roles(sgx_alternative(prod_id=True)), "prod_id=True"),
        (roles(sgx_alternative(debug=True)), "debug=True: Unexpected keyword argument"),
        *((roles(without(tdx_alternative(), f"rtmr{n}")), f"rtmr{n}: Field") for n in range(4)),
        (roles(without(tdx_alternative(), "mrtd")), "mrtd: Field required"),
        (roles(tdx_alternative(mrtd=ZERO)), "mrtd is zero: nothing is pinned"),
        (roles(tdx_alternative(rtmr1=ZERO)), "rtmr1 is zero: nothing is pinned"),
        (roles({**PLUG_IN, "claims": {}}), "claims is empty: nothing is pinned"),
        (roles({**PLUG_IN, "claims": {"measurement": []}}), "claims.measurement is empty"),
        (roles({**PLUG_IN, "claims": {"vmpl": 0}}), "no 'measurement': nothing is pinned"),
        (roles(sgx_alternative(endorsements={"gpu": {"claims": {}}})), "nothing is pinned"),
        ({"version": 0}, "version=0, expected at least 1"),
        ({"version": "1"}, "version='1'"),
        ({"format": "openfl_flows.policy/2"}, "format='openfl_flows.policy/2'"),
        ({"tcb": {"statuses": []}}, "statuses is empty"),
        ({"tcb": {"statuses": ["Revoked"]}}, "statuses.0='Revoked'"),
        ({"collateral": {"max_age_days": 400}}, "expected 1 to 365"),
        ({"authorities": []}, "authorities is empty"),
        ({"authorities": ["Intel"]}, "expected a root's certificate"),
        ({"authorities": ["-----BEGIN CERTIFICATE-----\n"]}, "not a readable certificate"),
        ({"exceptions": []}, "exceptions"),
    ],
    ids=str,
)  # fmt: skip
def test_a_policy_that_pins_nothing_or_cannot_be_meant_is_refused(authority, changes, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        policy_of(policy_document(authority, **changes))
    assert len(str(caught.value).splitlines()) == 1


def test_a_root_is_named_by_its_hash_or_as_it_is(authority):
    pem = authority._pem("root").decode()
    found = policy_of(policy_document(authority, authorities=[pem, INTEL_SGX_ROOT_CA]))
    assert found.authorities == (authority.root_sha256, INTEL_SGX_ROOT_CA)


@pytest.fixture
def workspace(tmp_path, authority):
    """One in which two of three have signed version 1."""
    write(tmp_path, policy_document(authority))
    return tmp_path


def write(workspace, document, signing=("a", "b")):
    path = workspace / POLICY
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    (workspace / SIGNATURES).unlink(missing_ok=True)
    return [sign_policy(path, workspace / SIGNATURES, KEYS[name]) for name in signing]


def refused(workspace, signers=SIGNERS):
    with pytest.raises(ValueError, match=".") as caught:
        pinned_policy(workspace, signers)
    return str(caught.value)


def test_a_pinned_policy_is_read(workspace):
    policy, digest = pin_policy(workspace, SIGNERS)
    assert pinned_policy(workspace, SIGNERS) == (policy, digest)
    assert (workspace / PIN).read_text() == f"{digest}  policy.yaml\n"


def test_without_a_pin_there_is_no_policy(workspace):
    assert "expected a pin" in refused(workspace)


def test_a_part_of_the_hash_is_no_pin(workspace):
    _, digest = pin_policy(workspace, SIGNERS)
    (workspace / PIN).write_text(digest[:8])
    assert "expected a SHA-256 in hexadecimal, whole" in refused(workspace)


def test_another_policy_than_the_pinned_one_is_refused_even_if_all_signed_it(workspace, authority):
    pin_policy(workspace, SIGNERS)
    write(workspace, policy_document(authority, version=2), signing=("a", "b", "c"))
    assert "which is pinned" in refused(workspace)


def test_an_older_version_is_refused_by_whoever_has_seen_a_newer_one(workspace, authority):
    write(workspace, policy_document(authority, version=3))
    pin_policy(workspace, SIGNERS)
    write(workspace, policy_document(authority, version=2))
    with pytest.raises(ValueError, match="version 2, expected at least 3"):
        pin_policy(workspace, SIGNERS)
    write(workspace, policy_document(authority, version=3, tcb={"min_evaluation": 1}))
    with pytest.raises(ValueError, match="version 3 is pinned with another content"):
        pin_policy(workspace, SIGNERS)


def test_a_pin_put_back_with_its_policy_is_refused(workspace, authority):
    pin_policy(workspace, SIGNERS)
    files = {name: (workspace / name).read_bytes() for name in (POLICY, SIGNATURES, PIN)}
    write(workspace, policy_document(authority, version=2))
    pin_policy(workspace, SIGNERS)
    for name, content in files.items():
        (workspace / name).write_bytes(content)
    assert "version 1, expected at least 2" in refused(workspace)


def test_who_has_gone_by_a_newer_one_refuses_an_older_one_with_its_pin(workspace, authority):
    """An enclave, whose host pins and puts back what it likes."""

    def given(version: int) -> None:
        write(workspace, policy_document(authority, version=version))
        digest = hashlib.sha256((workspace / POLICY).read_bytes()).hexdigest()
        (workspace / PIN).write_text(digest)

    for version in (2, 3):
        given(version)
        assert pinned_policy(workspace, SIGNERS)[0].version == version
    given(2)
    assert "version 2, expected at least 3" in refused(workspace)


def test_a_pin_is_of_the_hash_that_was_told(workspace):
    with pytest.raises(ValueError, match="expected 0000"):
        pin_policy(workspace, SIGNERS, "0" * 64)


def test_fewer_signers_than_agreed_are_not_enough(workspace, authority):
    pin_policy(workspace, SIGNERS)
    write(workspace, policy_document(authority), signing=("a",))
    assert "signed by a, expected 2" in refused(workspace)


def test_one_signer_twice_is_one(workspace, authority):
    pin_policy(workspace, SIGNERS)
    write(workspace, policy_document(authority), signing=("a", "a"))
    (line,) = (workspace / SIGNATURES).read_bytes().splitlines()
    (workspace / SIGNATURES).write_bytes(line + b"\n" + line + b"\n")
    assert "signed by a, expected 2" in refused(workspace)


def test_a_stranger_s_signature_is_refused(workspace):
    pin_policy(workspace, SIGNERS)
    sign_policy(workspace / POLICY, workspace / SIGNATURES, Ed25519PrivateKey.generate())
    assert "none of the agreed signers" in refused(workspace)


def test_no_byte_of_a_policy_or_its_signatures_can_be_changed(workspace):
    pin_policy(workspace, SIGNERS)
    for name in (POLICY, SIGNATURES):
        content = (workspace / name).read_bytes()
        for place in range(0, len(content), 23):
            changed = bytearray(content)
            changed[place] ^= 1
            (workspace / name).write_bytes(bytes(changed))
            refused(workspace)
        (workspace / name).write_bytes(content)
    pinned_policy(workspace, SIGNERS)


def test_a_signature_of_a_release_is_none_of_a_policy(workspace, authority):
    _, digest = pin_policy(workspace, SIGNERS)
    lines = [signed(statement({"policy.yaml": digest}), KEYS[name]) for name in ("a", "b")]
    (workspace / SIGNATURES).write_bytes(b"\n".join(lines))
    assert "of another file" in refused(workspace)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version: 1\nversion: 2\n", "'version' occurs twice"),
        (b"a: &x 1\n<<: *x\n", "merges others"),
        (b"!!python/object/apply:os.getcwd []\n", "not readable as YAML"),
        (b"[" * 1500, "not readable as YAML"),
        (b"\xff", "not readable as YAML"),
        (b"", "policy"),
    ],
    ids=["twice", "merge", "object", "deep", "bytes", "empty"],
)
def test_yaml_says_one_thing_only(tmp_path, content, reason):
    path = tmp_path / "policy.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        sign_policy(path, tmp_path / "policy.sig", KEYS["a"])


def test_a_policy_in_yaml_is_the_same_as_in_json(tmp_path, authority):
    document = policy_document(authority)
    (enclave,) = document["roles"]["aggregator"][0]["mrenclave"]
    path = tmp_path / "policy.yaml"
    path.write_text(
        f"""\
format: openfl_flows.policy/1
version: 1
roles:
  aggregator: &same
  - {{kind: sgx, mrenclave: ["{enclave}"], prod_id: 7, min_svn: 3}}
  collaborator: *same
authorities: ["{authority.root_sha256}"]
"""
    )
    for name in ("a", "b"):
        sign_policy(path, tmp_path / "policy.sig", KEYS[name])
    assert read_policy(path, tmp_path / "policy.sig", SIGNERS)[0] == policy_of(document)
