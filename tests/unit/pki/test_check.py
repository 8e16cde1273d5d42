import datetime as dt
from pathlib import Path

import pytest

from openfl_flows.pki.authority import create_authority, issue
from openfl_flows.pki.check import check_workspace
from openfl_flows.pki.plan import Party, aggregator_of, parties_of, party_of

AGGREGATOR = Party(role="aggregator", name="agg.example.org")
SITE = Party(role="collaborator", name="site-1")


def findings(workspace: Path, **options) -> list[str]:
    return [s.finding for s in check_workspace(workspace, **options) if s.finding]


@pytest.fixture
def site(authority, workspace) -> Path:
    issue(authority, workspace, SITE)
    return workspace


def test_every_certificate_is_listed(authority, site):
    issue(authority, site, AGGREGATOR)
    found = check_workspace(site)
    assert [(s.role, s.name, s.issuer) for s in found[1:]] == [
        ("aggregator", "agg.example.org", "Aggregator CA"),
        ("collaborator", "site-1", "Collaborator CA"),
    ]
    assert (found[0].role, found[0].name) == ("root", found[0].issuer)
    assert not findings(site)
    assert str(found[2]).startswith("collaborator site-1  issuer Collaborator CA  expires 20")


def test_what_ends_soon_is_said(site):
    assert not findings(site, days=29)
    (found,) = findings(site, days=31)
    assert "col_site-1.crt: site-1 ends on 20" in found
    assert found.endswith("expected 31 more days: replace it")


def test_what_has_ended_is_said(site):
    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=31)
    assert "site-1: the certificate is valid from" in findings(site, now=later)[0]


def test_an_issuer_or_root_that_ends_first_counts(tmp_path, workspace):
    start = dt.datetime.now(dt.UTC) - dt.timedelta(days=10)
    create_authority(tmp_path / "ca", days=15, start=start)
    issue(tmp_path / "ca", workspace, SITE, days=4)
    assert ["Root CA" in f for f in findings(workspace, days=5)] == [True, False]
    assert not findings(workspace, days=3)


def test_a_key_that_others_can_read_is_said(site):
    SITE.file(site, ".key").chmod(0o640)
    assert "has rights 0640, expected 0600" in findings(site)[0]


def test_a_key_of_another_certificate_is_said(authority, site, tmp_path):
    issue(authority, tmp_path / "other", SITE)
    SITE.file(site, ".key").write_bytes(SITE.file(tmp_path / "other", ".key").read_bytes())
    assert "not of the key in" in findings(site)[0]
    SITE.file(site, ".key").unlink()
    assert "no such file, expected a private key" in findings(site)[0]


def test_another_root_is_said(site, tmp_path):
    create_authority(tmp_path / "other")
    (site / "cert" / "cert_chain.crt").write_bytes((tmp_path / "other" / "root.crt").read_bytes())
    assert "site-1: the certificate does not chain up to a trusted root" in findings(site)[0]


def test_a_certificate_under_anothers_name_is_said(authority, site):
    other = Party(role="collaborator", name="site-2")
    for suffix in (".key", ".crt"):
        SITE.file(site, suffix).rename(other.file(site, suffix))
    assert "has common name 'site-1', expected 'site-2'" in findings(site)[0]


def test_openfls_ca_in_the_workspace_is_said(site):
    (site / "cert" / "ca").mkdir()
    assert "keys of a CA" in findings(site)[0]


def test_nothing_to_check_is_an_error(workspace):
    with pytest.raises(ValueError, match="no certificate of a party of the plan"):
        check_workspace(workspace)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("plan.yaml", "network: {settings: {agg_addr: auto}}", "agg_addr=auto, expected the agg"),
        ("plan.yaml", "network: {}", "agg_addr=None, expected"),
        ("plan.yaml", "network: {settings: {agg_addr: ../../x}}", r"agg_addr=\.\./"),
        ("plan.yaml", "a: [", "not readable as YAML"),
        ("plan.yaml", "hello", "holds no mapping"),
        ("cols.yaml", "collaborators: []", "expected a list of sites' names"),
        ("cols.yaml", "collaborators: [../x]", r"'\.\./x', expected lower-case"),
        ("cols.yaml", "collaborators: [Site-1]", "'Site-1', expected lower-case"),
    ],
)
def test_names_that_cannot_be_files_are_refused(workspace, file, text, message):
    (workspace / "plan" / file).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        parties_of(workspace)
    assert str(workspace / "plan" / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_parties_of_the_plan_have_names(workspace):
    assert party_of(workspace, None) == aggregator_of(workspace) == AGGREGATOR
    assert party_of(workspace, "site-1") == SITE
    with pytest.raises(ValueError, match="no site 'site-3', expected one of site-1, site-2"):
        party_of(workspace, "site-3")
