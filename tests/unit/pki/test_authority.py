import datetime as dt
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from openfl_flows.atomic import SECRET, write_atomically
from openfl_flows.pki.authority import (
    create_authority,
    issue,
    issue_party,
    renew_authority,
    sign,
    sign_request,
)
from openfl_flows.pki.certificates import common_name, new_key, request_for
from openfl_flows.pki.plan import Party

AGGREGATOR = Party(role="aggregator", name="agg.example.org")
SITE = Party(role="collaborator", name="site-1")


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def openssl_accepts(workspace: Path, party: Party, purpose: str) -> bool:
    leaf = party.file(workspace, ".crt")
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", purpose]
        + ["-CAfile", workspace / "cert" / "cert_chain.crt", "-untrusted", leaf, leaf],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "unsuitable certificate purpose" in done.stderr or done.returncode == 0, done.stderr
    return done.returncode == 0


def test_each_role_is_good_for_its_own_purpose_alone_by_strict_rules(authority, workspace):
    for party in (AGGREGATOR, SITE):
        issue(authority, workspace, party)
    assert openssl_accepts(workspace, AGGREGATOR, "sslserver")
    assert openssl_accepts(workspace, SITE, "sslclient")
    assert not openssl_accepts(workspace, AGGREGATOR, "sslclient")
    assert not openssl_accepts(workspace, SITE, "sslserver")


def test_files_lie_where_openfl_looks_and_keys_are_their_owners_alone(authority, workspace):
    issue_party(authority, workspace, aggregator="Agg.Example.org")
    issue_party(authority, workspace, site="site-1")
    cert = workspace / "cert"
    files = {str(path.relative_to(cert)) for path in cert.rglob("*") if path.is_file()}
    assert files == {
        "cert_chain.crt",
        "server/agg_agg.example.org.crt",
        "server/agg_agg.example.org.key",
        "client/col_site-1.crt",
        "client/col_site-1.key",
    }
    for key in [*cert.rglob("*.key"), *authority.rglob("*.key")]:
        assert rights(key) == 0o600
    assert rights(authority / "private") == 0o700


def test_a_key_never_has_wider_rights_whatever_the_umask(tmp_path):
    """Seen from outside: the rights of every file that ever appears while it is written."""
    code = (
        "import os, sys, pathlib\n"
        "from openfl_flows.atomic import write_atomically\n"
        "from openfl_flows.atomic import SECRET\n"
        "os.umask(0)\n"
        "def seen(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).startswith(sys.argv[1]):\n"
        "        assert arguments[2] & os.O_EXCL, 'not a new file'\n"
        "    if event in ('os.rename', 'os.chmod'):\n"
        "        print(event, oct(os.stat(arguments[0]).st_mode & 0o777))\n"
        "sys.addaudithook(seen)\n"
        "write_atomically(pathlib.Path(sys.argv[1], 'a.key'), b'secret', SECRET)\n"
    )
    (tmp_path / "a.key").write_bytes(b"old")
    os.chmod(tmp_path / "a.key", 0o666)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "os.rename 0o600\n"
    assert (tmp_path / "a.key").read_bytes() == b"secret"
    assert [path.name for path in tmp_path.iterdir()] == ["a.key"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    (tmp_path / "a.crt").mkdir()
    with pytest.raises(OSError, match="a.crt"):
        write_atomically(tmp_path / "a.crt", b"new", SECRET)
    assert [path.name for path in tmp_path.iterdir()] == ["a.crt"]


def test_a_certificate_says_what_it_must(authority):
    bundle = sign(authority, AGGREGATOR, new_key().public_key(), days=30)
    leaf, issuer, root = x509.load_pem_x509_certificates(bundle)
    assert [common_name(c) for c in (leaf, issuer)] == ["agg.example.org", "Aggregator CA"]
    assert (issuer.issuer, root.issuer) == (root.subject, root.subject)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("agg.example.org")]
    assert isinstance(leaf.signature_hash_algorithm, hashes.SHA384)
    assert leaf.public_key().curve.name == "secp384r1"
    lengths = [
        c.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        for c in (root, issuer, leaf)
    ]
    assert lengths == [1, 0, None]
    assert leaf.not_valid_after_utc - dt.datetime.now(dt.UTC) <= dt.timedelta(days=30)


def test_the_names_in_a_request_are_ignored(authority):
    """OpenFL's own CA signs them: a site gets a certificate that is good for the aggregator."""
    asked = Party(role="aggregator", name="agg.example.org")
    bundle, _ = sign_request(authority, SITE, request_for(asked, new_key()))
    leaf = x509.load_pem_x509_certificates(bundle)[0]
    assert common_name(leaf) == "site-1"
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_what_was_issued_is_on_record(tmp_path):
    create_authority(tmp_path / "ca")
    bundle = sign(tmp_path / "ca", SITE, new_key().public_key())
    leaf = x509.load_pem_x509_certificates(bundle)[0]
    entry = json.loads((tmp_path / "ca" / "issued.jsonl").read_text())
    assert (entry["role"], entry["name"]) == ("collaborator", "site-1")
    assert entry["sha256"] == leaf.fingerprint(hashes.SHA256()).hex(":").upper()


def request_of(key) -> bytes:
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256K1()),
    ],
    ids=["short", "not in TLS stacks", "odd curve"],
)
def test_weak_or_unusual_keys_are_refused(authority, key):
    with pytest.raises(ValueError, match="expected P-256, P-384, P-521 or RSA from 3072"):
        sign_request(authority, SITE, request_of(key))


def test_strong_keys_of_others_are_signed(authority):
    for key in (
        rsa.generate_private_key(public_exponent=65537, key_size=3072),
        ec.generate_private_key(ec.SECP256R1()),
    ):
        bundle, public = sign_request(authority, SITE, request_of(key))
        assert x509.load_pem_x509_certificates(bundle)[0].public_key() == public
        assert public == key.public_key()


def test_a_request_must_be_signed_by_its_own_key(authority):
    request = x509.load_pem_x509_csr(request_for(SITE, new_key()))
    other = x509.load_pem_x509_csr(request_for(SITE, new_key()))
    old, new = (
        r.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for r in (request, other)
    )
    swapped = x509.load_der_x509_csr(
        request.public_bytes(serialization.Encoding.DER).replace(old, new)
    )
    assert swapped.public_key() == other.public_key()
    with pytest.raises(ValueError, match="not signed by its own key"):
        sign_request(authority, SITE, swapped.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(ValueError, match="no certificate signing request"):
        sign_request(authority, SITE, b"hello")


def test_no_certificate_outlives_its_issuer(tmp_path):
    create_authority(tmp_path / "ca", days=20)
    for _ in range(2):
        with pytest.raises(ValueError, match="days=21: Collaborator CA ends on"):
            sign(tmp_path / "ca", SITE, new_key().public_key(), days=21)
        renew_authority(tmp_path / "ca", days=100)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=21)
    with pytest.raises(ValueError, match="the root has ended"):
        renew_authority(tmp_path / "ca", start=later)
    with pytest.raises(ValueError, match="days=0, expected at least 1"):
        sign(tmp_path / "ca", SITE, new_key().public_key(), days=0)


def test_after_a_renewal_the_parties_trust_what_they_trusted(tmp_path, workspace):
    ca = tmp_path / "ca"
    create_authority(ca, start=dt.datetime.now(dt.UTC) - dt.timedelta(days=350))
    issue(ca, workspace, SITE, days=10)
    root = (workspace / "cert" / "cert_chain.crt").read_bytes()
    with pytest.raises(ValueError, match="Collaborator CA ends on"):
        issue(ca, workspace, SITE, days=30)
    renew_authority(ca)
    issue(ca, workspace, SITE, days=30)
    assert (workspace / "cert" / "cert_chain.crt").read_bytes() == root
    assert openssl_accepts(workspace, SITE, "sslclient")


def test_signing_needs_no_root_key(tmp_path):
    create_authority(tmp_path / "ca")
    (tmp_path / "ca" / "private" / "root.key").unlink()
    assert sign(tmp_path / "ca", SITE, new_key().public_key())
    with pytest.raises(ValueError, match=r"root\.key: no such file, expected a CA"):
        renew_authority(tmp_path / "ca")


def test_an_authority_is_never_overwritten_nor_half_made(tmp_path):
    create_authority(tmp_path / "ca")
    before = (tmp_path / "ca" / "root.crt").read_bytes()
    with pytest.raises(ValueError, match="is not empty"):
        create_authority(tmp_path / "ca")
    assert (tmp_path / "ca" / "root.crt").read_bytes() == before
    with pytest.raises(ValueError, match="days=0"):
        create_authority(tmp_path / "other", days=0)
    assert [path.name for path in tmp_path.iterdir()] == ["ca"]
