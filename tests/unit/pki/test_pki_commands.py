import argparse
import shutil
from pathlib import Path

import pytest

from openfl_flows.pki.commands import add_pki


def pki(*arguments: object) -> list[str]:
    parser = argparse.ArgumentParser()
    add_pki(parser.add_subparsers())
    options = parser.parse_args(["pki", *map(str, arguments)])
    return list(options.lines(options))


def test_a_rehearsal_in_two_commands(tmp_path, workspace):
    pki("init", tmp_path / "ca")
    lines = pki("issue", tmp_path / "ca", workspace)
    assert [line.split()[0] for line in lines] == [
        "root",
        "aggregator",
        "collaborator",
        "collaborator",
    ]
    assert pki("check", workspace) == lines
    before = (workspace / "cert/client/col_site-1.key").read_bytes()
    pki("issue", tmp_path / "ca", workspace, "--site", "site-2")
    assert (workspace / "cert/client/col_site-1.key").read_bytes() == before


@pytest.mark.parametrize("who", [["--aggregator"], ["--site", "site-1"]], ids=["agg", "site"])
def test_a_real_party_asks_and_gets(tmp_path, workspace, who):
    """The party's workspace and the authority's are on two machines; only two files travel."""
    ca, theirs, post = tmp_path / "ca", tmp_path / "theirs", tmp_path / "post"
    shutil.copytree(workspace, theirs)
    post.mkdir()
    pki("init", ca)
    asked = pki("request", workspace, *who)
    shutil.copy(asked[0].removeprefix("request "), post / "party.csr")
    signed = pki("sign", ca, theirs, post / "party.csr", *who)
    assert signed[1] == f"{asked[1]}: compare it with the party's"
    installed = pki("install", workspace, post / "party.pem", *who)
    assert "restart it" in installed[0]
    assert installed[2].startswith("trusts Root CA ")
    assert not (theirs / "cert").exists()
    assert len(pki("check", workspace)) == 2


def test_signing_beside_a_certificate_in_use_leaves_it_alone(tmp_path, workspace):
    pki("init", tmp_path / "ca")
    pki("issue", tmp_path / "ca", workspace)
    before = (workspace / "cert/client/col_site-1.crt").read_bytes()
    pki("request", workspace, "--site", "site-1")
    pki(
        "sign",
        tmp_path / "ca",
        workspace,
        workspace / "cert/client/col_site-1.csr",
        "--site=site-1",
    )
    assert (workspace / "cert/client/col_site-1.crt").read_bytes() == before
    pki("install", workspace, workspace / "cert/client/col_site-1.pem", "--site=site-1")
    assert (workspace / "cert/client/col_site-1.crt").read_bytes() != before
    pki("check", workspace)


def test_check_lists_everything_and_then_fails_in_one_line(tmp_path, workspace):
    pki("init", tmp_path / "ca")
    pki("issue", tmp_path / "ca", workspace)
    parser = argparse.ArgumentParser()
    add_pki(parser.add_subparsers())
    options = parser.parse_args(["pki", "check", str(workspace), "--days", "60"])
    lines = options.lines(options)
    assert len([next(lines) for _ in range(4)]) == 4
    with pytest.raises(ValueError, match=r"ends on .* expected 60 more days.* \(and 2 more\)$"):
        next(lines)


def test_the_ca_stays_out_of_workspaces(workspace):
    with pytest.raises(ValueError, match="is in the workspace"):
        pki("init", workspace / "cert" / "ca")
    assert not (workspace / "cert").exists()


def test_a_bad_request_is_named(tmp_path, workspace):
    pki("init", tmp_path / "ca")
    request = tmp_path / "x.csr"
    for content, message in ((None, "no such file"), (b"hello", "no certificate signing request")):
        if content is not None:
            request.write_bytes(content)
        with pytest.raises(ValueError, match=rf"x\.csr: .*{message}"):
            pki("sign", tmp_path / "ca", workspace, request, "--site", "site-1")
    with pytest.raises(ValueError, match="no site 'site-9'"):
        pki("sign", tmp_path / "ca", workspace, request, "--site", "site-9")


def test_a_certificate_file_that_is_missing_is_named(workspace):
    with pytest.raises(ValueError, match="answer: no such file, expected a certificate"):
        pki("install", workspace, Path("answer"), "--aggregator")
