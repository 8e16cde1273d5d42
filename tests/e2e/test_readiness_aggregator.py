"""`openfl-flows check --aggregator`: what would be in its way is told before it starts."""

import datetime as dt
import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from openfl_flows.cli import main
from openfl_flows.pki.authority import sign
from openfl_flows.pki.certificates import key_pem, new_key
from openfl_flows.pki.plan import Party
from openfl_flows.readiness.machine import Machine
from openfl_flows.taskrunner.aggregator_readiness import aggregator_findings
from openfl_flows.taskrunner.readiness import pins_of
from openfl_flows.taskrunner.workspace import read_workspace
from tests.fx_processes import TOY

AGGREGATOR = Party(role="aggregator", name="localhost")


@pytest.fixture
def out(prepared: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared(*TOY), tmp_path / "parties", symlinks=True))


def expired(out: Path) -> None:
    key, start = new_key(), dt.datetime.now(dt.UTC) - dt.timedelta(days=40)
    folder = out / "aggregator"
    AGGREGATOR.file(folder, ".key").write_bytes(key_pem(key))
    content = sign(out / "ca", AGGREGATOR, key.public_key(), start=start)
    AGGREGATOR.file(folder, ".crt").write_bytes(content)


def planned(out: Path, section: str, **values: object) -> None:
    file = out / "aggregator" / "plan" / "plan.yaml"
    plan = yaml.safe_load(file.read_text())
    plan[section]["settings"] |= values
    file.write_text(yaml.safe_dump(plan, sort_keys=False))


CASES: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "expired": (expired, "certificate", "is valid from", "pki install"),
    "rights": (
        lambda out: AGGREGATOR.file(out / "aggregator", ".key").chmod(0o640), "certificate",
        "rights 0640", "chmod 600",
    ),
    "no initial model": (
        lambda out: (out / "aggregator/save/init.pbuf").unlink(), "initial", "no such file",
        "fx plan initialize",
    ),
    "a damaged initial model": (
        lambda out: (out / "aggregator/save/init.pbuf").write_bytes(b"x" * 50), "initial",
        "not a readable model", "fx plan initialize",
    ),
    "another version": (
        lambda out: (out / "aggregator/requirements.txt").write_text("numpy==0.1\n"), "versions",
        "numpy", "pip install",
    ),
    "an unsafe plan": (
        lambda out: planned(out, "network", require_client_auth=False), "plan",
        "require_client_auth=false", "export the plan anew",
    ),
    "too few sites": (
        lambda out: planned(out, "aggregator", readiness={"least_sites": 3}), "plan", "2 sites",
        "least_sites",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_at_the_aggregator_is_found_with_a_remedy(name: str, out: Path) -> None:
    change, probe, said, remedy = CASES[name]
    change(out)
    red = {f.probe: f for f in aggregator_findings(out / "aggregator") if not f.green}
    assert list(red) == [probe]
    assert said in red[probe].found
    assert remedy in red[probe].remedy


def test_a_port_that_is_taken_and_a_full_disk(out: Path) -> None:
    folder = out / "aggregator"
    port = read_workspace(folder).config["network"]["agg_port"]
    full = replace(Machine.here(folder, pins_of(folder)), disk_bytes=5)
    with socket.create_server(("", port)):
        red = {f.probe: f for f in aggregator_findings(folder, full) if not f.green}
    assert f"network.agg_port={port}: Address already in use" in red["port"].found
    assert "5 bytes free" in red["disk"].found


def test_another_initial_model_than_the_plans_is_refused(out: Path) -> None:
    file = out / "aggregator" / "plan" / "plan.yaml"
    agreed = yaml.safe_load(file.read_text())["task_runner"]["settings"]["experiment"]
    planned(out, "task_runner", experiment={**agreed, "initial_digest": "f" * 64})
    red = {f.probe: f for f in aggregator_findings(out / "aggregator") if not f.green}
    assert f"expected initial_digest={'f' * 64}" in red["initial"].found
    assert "without -i" in red["initial"].found


def test_the_command_says_it_for_people_and_machines(out: Path, capsys) -> None:
    folder = str(out / "aggregator")
    assert main(["check", folder, "--aggregator"]) == 0
    assert "certificate  green" in capsys.readouterr().out
    (out / "aggregator/save/init.pbuf").unlink()
    assert main(["check", folder, "--aggregator", "--json"]) == 1
    said = capsys.readouterr()
    assert said.err == (
        "openfl-flows: error: the aggregator is not ready: initial, expected green\n"
    )
    found = json.loads(said.out)
    assert not found["ready"]
    assert [f["probe"] for f in found["findings"] if not f["green"]] == ["initial"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "absent", "--site", "site-1"], "absent"),
        (["check", ".", "--site", "site-1"], "plan.yaml: no such file"),
        (["check", ".", "--aggregator"], "plan.yaml: no such file"),
    ],
)
def test_a_folder_that_is_no_workspace_is_refused(
    arguments, message, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
