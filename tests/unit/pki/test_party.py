import datetime as dt
import multiprocessing
import shutil
import signal
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from openfl.cryptography.ca import generate_root_cert, sign_certificate
from openfl.cryptography.participant import generate_csr

from openfl_flows.pki.authority import create_authority, issue, sign, sign_request
from openfl_flows.pki.certificates import new_key, pem
from openfl_flows.pki.check import check_party
from openfl_flows.pki.party import install, make_request, read_public_key
from openfl_flows.pki.plan import Party
from tests.processes import kill_at_replacement

AGGREGATOR = Party(role="aggregator", name="agg.example.org")
SITE = Party(role="collaborator", name="site-1")
NOW = dt.datetime.now(dt.UTC)


def files(workspace: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in (workspace / "cert").rglob("*") if p.is_file()}


def finding(workspace: Path, party: Party) -> str | None:
    return check_party(workspace, party).finding


def test_a_party_makes_its_own_key_and_takes_what_the_authority_answers(authority, workspace):
    request = make_request(workspace, SITE)
    bundle, key = sign_request(authority, SITE, request)
    install(workspace, SITE, bundle)
    assert read_public_key(SITE.file(workspace, ".key")) == key
    assert finding(workspace, SITE) is None
    assert sorted(p.name for p in (workspace / "cert" / "client").iterdir()) == [
        "col_site-1.crt",
        "col_site-1.key",
    ]


def test_asked_twice_the_request_is_for_the_same_key(workspace):
    first, second = (x509.load_pem_x509_csr(make_request(workspace, SITE)) for _ in range(2))
    assert first.public_key() == second.public_key()


def test_a_rotation_keeps_the_pair_in_use_until_the_new_one_is_there(authority, workspace):
    issue(authority, workspace, SITE)
    before = files(workspace)
    bundle, _ = sign_request(authority, SITE, make_request(workspace, SITE))
    assert before.items() <= files(workspace).items()
    assert finding(workspace, SITE) is None
    install(workspace, SITE, bundle)
    after = files(workspace)
    assert finding(workspace, SITE) is None
    assert after.keys() == before.keys()
    changed = {Path(name).name for name in before if before[name] != after[name]}
    assert changed == {"col_site-1.key", "col_site-1.crt"}
    install(workspace, SITE, bundle)
    assert files(workspace) == after


def _install_and_die(workspace: Path, bundle: bytes, count: int) -> None:
    kill_at_replacement(count)
    install(workspace, SITE, bundle)


@pytest.mark.parametrize(("replaces", "rotation"), [(3, False), (2, True)])
def test_killed_at_any_moment_an_installation_can_be_run_again(
    authority, workspace, replaces, rotation
):
    for count in range(1, replaces + 2):
        shutil.rmtree(workspace / "cert", ignore_errors=True)
        if rotation:
            issue(authority, workspace, SITE)
        before = files(workspace)
        bundle, key = sign_request(authority, SITE, make_request(workspace, SITE))
        process = multiprocessing.get_context("spawn").Process(
            target=_install_and_die, args=(workspace, bundle, count)
        )
        process.start()
        process.join(60)
        assert process.exitcode == (-signal.SIGKILL if count <= replaces else 0)
        if rotation and count == 1:
            assert before.items() <= files(workspace).items()
            assert finding(workspace, SITE) is None
        if rotation and count == 2:
            assert "run `pki install` again" in str(finding(workspace, SITE))
        install(workspace, SITE, bundle)
        assert read_public_key(SITE.file(workspace, ".key")) == key
        assert finding(workspace, SITE) is None


def test_the_key_of_another_is_not_taken(authority, workspace):
    make_request(workspace, SITE)
    before = files(workspace)
    bundle = sign(authority, SITE, new_key().public_key())
    with pytest.raises(ValueError, match="no certificate of a key of collaborator site-1"):
        install(workspace, SITE, bundle)
    assert files(workspace) == before


def test_a_certificate_of_another_name_or_role_is_not_taken(authority, workspace):
    for mine, signed_as, wrong in (
        (SITE, Party(role="collaborator", name="site-2"), "common name 'site-2'"),
        (
            SITE,
            Party(role="aggregator", name="site-1"),
            "key usage serverAuth, expected clientAuth",
        ),
        (AGGREGATOR, Party(role="collaborator", name="agg.example.org"), "expected serverAuth"),
        (AGGREGATOR, Party(role="aggregator", name="other.org"), "no matching subjectAltName"),
    ):
        bundle, _ = sign_request(authority, signed_as, make_request(workspace, mine))
        with pytest.raises(ValueError, match=wrong):
            install(workspace, mine, bundle)


def test_an_expired_certificate_is_not_taken(tmp_path, workspace):
    start = NOW - dt.timedelta(days=40)
    create_authority(tmp_path / "ca", start=start)
    key = x509.load_pem_x509_csr(make_request(workspace, SITE)).public_key()
    bundle = sign(tmp_path / "ca", SITE, key, days=30, start=start)
    with pytest.raises(ValueError, match=r"site-1: the certificate is valid from .* to .* UTC"):
        install(workspace, SITE, bundle)


def test_the_trusted_root_changes_only_when_told(authority, tmp_path, workspace):
    issue(authority, workspace, SITE)
    create_authority(tmp_path / "other")
    bundle, _ = sign_request(tmp_path / "other", SITE, make_request(workspace, SITE))
    with pytest.raises(ValueError, match="does not chain up to a trusted root"):
        install(workspace, SITE, bundle)
    old, new = ((ca / "root.crt").read_bytes() for ca in (authority, tmp_path / "other"))
    with pytest.raises(ValueError, match="does not chain up"):
        install(workspace, SITE, bundle, roots=old)
    install(workspace, SITE, bundle, roots=old + new)
    assert (workspace / "cert" / "cert_chain.crt").read_bytes() == old + new
    assert finding(workspace, SITE) is None


def company_answer(request: bytes, *purposes: x509.ObjectIdentifier) -> tuple[bytes, bytes]:
    """What a company's CA may give: RSA, one issuer for all, the names asked for; and its root."""
    asked = x509.load_pem_x509_csr(request)
    keys = [rsa.generate_private_key(public_exponent=65537, key_size=3072) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in ("Root X", "CA X")]
    made = []
    for subject, key, length in (
        (names[0], keys[0].public_key(), 1),
        (names[1], keys[1].public_key(), 0),
        (asked.subject, asked.public_key(), None),
    ):
        issuer = max(len(made) - 1, 0)
        signs = length is not None
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
            + ("encipher_only", "decipher_only"),
            False,
        )
        builder = (
            x509.CertificateBuilder(names[issuer], subject, key, x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(days=1))
            .not_valid_after(NOW + dt.timedelta(days=90))
            .add_extension(x509.BasicConstraints(signs, length), True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, **usage
                ),
                True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[issuer].public_key()), False
            )
        )
        if not signs and purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), False)
        made.append(builder.sign(keys[issuer], hashes.SHA256()))
    return pem(made[1], made[2]), pem(made[0])


def test_a_companys_own_ca_can_answer(workspace):
    bundle, root = company_answer(make_request(workspace, SITE), ExtendedKeyUsageOID.CLIENT_AUTH)
    with pytest.raises(ValueError, match="expected --root FILE"):
        install(workspace, SITE, bundle)
    install(workspace, SITE, bundle, roots=root)
    assert finding(workspace, SITE) is None
    assert (workspace / "cert" / "cert_chain.crt").read_bytes() == root


def test_a_companys_certificate_for_more_than_one_purpose_is_not_taken(workspace):
    both = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    bundle, root = company_answer(make_request(workspace, SITE), *both)
    with pytest.raises(ValueError, match="serverAuth and clientAuth, expected clientAuth alone"):
        install(workspace, SITE, bundle, roots=root)
    bundle, root = company_answer(make_request(workspace, SITE))
    with pytest.raises(ValueError, match="key usage none, expected clientAuth alone"):
        install(workspace, SITE, bundle, roots=root)


def test_what_openfls_own_ca_signs_is_not_taken(workspace):
    """It drops the extended key usage, so a site's certificate is as good as the aggregator's."""
    root_key, root = generate_root_cert()
    key, request = generate_csr("site-1")
    path = SITE.file(workspace, ".key")
    path.parent.mkdir(parents=True)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    leaf = sign_certificate(request, root_key, root.subject)
    with pytest.raises(ValueError, match="key usage none, expected clientAuth alone"):
        install(workspace, SITE, pem(leaf), roots=pem(root))


def test_garbage_is_named(workspace):
    make_request(workspace, SITE)
    with pytest.raises(ValueError, match="certificate to install: no readable certificates"):
        install(workspace, SITE, b"hello")
    SITE.file(workspace, ".next.key").write_text("hello")
    with pytest.raises(ValueError, match=r"col_site-1\.next\.key: not a readable private key"):
        make_request(workspace, SITE)
