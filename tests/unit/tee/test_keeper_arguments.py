"""The keeper in a manifest: who needs one, which is named, and what comes encrypted."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from openfl_flows.cli import main
from openfl_flows.release.keys import make_key, read_public
from openfl_flows.taskrunner import start
from openfl_flows.tee.lint import lint
from openfl_flows.tee.lint_mounts import GIVEN, SEALED
from openfl_flows.tee.manifest import PARTY, START
from openfl_flows.tee.render import read_keeper_key
from tests.unit.tee.conftest import PARTIES


def test_a_party_that_is_given_something_needs_a_keeper(
    toy: Path, gramine: Path, keeper_key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A site always; an aggregator only where the plan does not have it make its own key."""
    render = ["tee", "render", str(toy), "--gramine", str(gramine)]
    aggregator = [*render, "--role", "aggregator"]
    assert main([*render, "--role", "collaborator", "--name", "site-1"]) == 1
    assert "expected who gives site-1 the key of its data" in capsys.readouterr().err
    assert main(aggregator) == 1
    assert "with network.attestation.required=none" in capsys.readouterr().err
    plan = toy / "plan" / "plan.yaml"
    plan.write_text(plan.read_text().replace("required: none", "required: aggregator"))
    assert main(aggregator) == 0
    document = tomllib.loads(capsys.readouterr().out)
    assert not lint(document)
    start = document["fs"]["start_dir"]
    assert {m["key_name"] for m in document["fs"]["mounts"] if "key_name" in m} == {SEALED}
    assert not [m for m in document["fs"]["mounts"] if m["path"].startswith(f"{start}/cert/s")]
    assert main([*aggregator, "--state-key", "party"]) == 1
    assert "--state-key=party without --keeper" in capsys.readouterr().err
    keeper = ["--keeper", "keeper.example:7000", "--keeper-key", str(keeper_key)]
    assert main([*aggregator, "--state-key", "party", *keeper]) == 0
    document = tomllib.loads(capsys.readouterr().out)
    assert not lint(document)
    assert {m["key_name"] for m in document["fs"]["mounts"] if "key_name" in m} == {PARTY}


def test_the_keepers_key_is_the_one_in_its_file(tmp_path: Path, keeper_key: Path) -> None:
    public = read_public(keeper_key.read_bytes(), "keeper")
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert read_keeper_key(keeper_key) == raw.hex()
    make_key(tmp_path / "other", "p256")
    pem = keeper_key.read_text()
    (tmp_path / "two.pub").write_text(pem + pem)
    (tmp_path / "x25519.pub").write_text(pem.replace("MCowBQYDK2Vw", "MCowBQYDK2Vu"))
    for name in ("other.pub", "other", "two.pub", "x25519.pub"):
        with pytest.raises(ValueError, match="no Ed25519 key, expected the keeper's"):
            read_keeper_key(tmp_path / name)


def test_names_are_those_that_the_start_goes_by() -> None:
    assert start.__name__ == START
    assert start.KEY == PARTY


def test_a_key_comes_from_the_keeper_that_is_named(documents: dict[str, Any]) -> None:
    for role in PARTIES:
        argv = documents[role]["loader"]["argv"]
        assert argv[5:11:2] == ["-m", "--keeper", "--keeper-key"]
        assert argv[6] == START
        for words in (
            [],
            argv[5:7],
            argv[5:9],
            [*argv[5:7], *argv[9:11], *argv[7:9]],
            [*argv[5:11], "--keys", "/tmp"],
            [*argv[5:7], "--keys", "/tmp", *argv[7:11]],
            [*argv[5:6], "openfl_flows", *argv[7:11]],
            [*argv[5:8], "0.0.0.0:0", *argv[9:11]],
            [*argv[5:10], argv[10][:-1]],
            [*argv[5:10], argv[10].upper()],
        ):
            changed = copy.deepcopy(documents[role])
            changed["loader"]["argv"] = [*argv[:5], *words, *argv[11:]]
            rules = {finding.rule for finding in lint(changed)}
            assert rules & {"no-keeper", "no-role"}, words
            assert ("no-role" in rules) == bool(words)


@pytest.mark.parametrize("role", PARTIES)
def test_no_part_of_what_is_secret_is_there_in_plain(role: str, documents: dict[str, Any]) -> None:
    """Measured, a key is still for the host to read."""
    folders = [folder for names in GIVEN.values() for folder in names]
    for name in (*folders, *(f"{folder}/agg_host.key" for folder in folders)):
        changed = copy.deepcopy(documents[role])
        file = f"{changed['fs']['start_dir']}/{name}"
        changed["fs"]["mounts"].append({"path": file, "uri": f"file:{file}"})
        entry = {"uri": f"file:{file}", "sha256": "00" * 32}
        changed["sgx"]["trusted_files"].append(entry)
        assert "not-encrypted" in {finding.rule for finding in lint(changed)}
