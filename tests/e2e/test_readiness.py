"""`openfl-flows check`: each thing that is wrong at a site is told before round 1."""

import contextlib
import datetime as dt
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from openfl.transport.grpc.common import create_grpc_server

from openfl_flows.cli.plan import compose
from openfl_flows.pki.authority import create_authority, issue, sign
from openfl_flows.pki.certificates import key_pem, new_key
from openfl_flows.pki.party import CHAIN
from openfl_flows.pki.plan import Party as Member
from openfl_flows.readiness.dry_step import apart, dry_step
from openfl_flows.readiness.findings import KEPT_AT_SITE, Finding
from openfl_flows.readiness.machine import Machine
from openfl_flows.readiness.site import FOLDER, Case, look
from openfl_flows.release.keys import (
    Signers,
    make_key,
    read_public,
    signers_document,
)
from openfl_flows.taskrunner import readiness
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.readiness import case_of, direct_line
from openfl_flows.taskrunner.workspace import read_workspace
from tests.federation_host import Host, hosting
from tests.fx_processes import TOY
from tests.processes import run
from tests.tiny import OVERRIDES

SITE, OTHER = (Member(role="collaborator", name=name) for name in ("site-1", "site-2"))
NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def host(prepared: Callable[..., Path], tmp_path_factory) -> Iterator[Host]:
    """An aggregator that waits for its sites; site-1 has taken its dry step."""
    with hosting(prepared(*TOY), tmp_path_factory.mktemp("host")) as found:
        log = found.out / "check.log"
        status = run("check", str(found.out / "site-1"), "--site", "site-1", log=log)
        assert status == 0, log.read_text()
        yield found


@dataclass
class Scene:
    """A copy of site-1's workspace, and what a test changes of what it sees."""

    host: Host
    folder: Path
    machine: Callable[[Machine], Machine] = lambda machine: machine
    case: Callable[[Case], Case] = lambda case: case
    line: Callable[[Any], Any] = lambda line: line

    def findings(self) -> list[Finding]:
        plan = read_workspace(self.folder)
        line = None
        with contextlib.suppress(ValueError):
            line = self.line(direct_line(self.folder, "site-1", plan))
        case = self.case(case_of(self.folder, "site-1", plan=plan))
        return look(case, self.machine(Machine.here(self.folder, case.pins)), line)[0]

    def edit(self, name: str, *keys: str, value: Any) -> None:
        file = self.folder / "plan" / f"{name}.yaml"
        document = yaml.safe_load(file.read_text())
        section = document
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value
        file.write_text(yaml.safe_dump(document, sort_keys=False))


@pytest.fixture
def scene(host: Host, tmp_path: Path) -> Scene:
    return Scene(host, Path(shutil.copytree(host.out / "site-1", tmp_path / "site-1")))


def certified(scene: Scene, days_ago: float) -> None:
    key, start = new_key(), NOW - dt.timedelta(days=days_ago)
    SITE.file(scene.folder, ".key").write_bytes(key_pem(key))
    content = sign(scene.host.out / "ca", SITE, key.public_key(), start=start)
    SITE.file(scene.folder, ".crt").write_bytes(content)


def with_files_of_another(scene: Scene, *suffixes: str) -> None:
    for suffix in suffixes:
        other = OTHER.file(scene.host.out / "site-2", suffix)
        shutil.copy(other, SITE.file(scene.folder, suffix))


def trusting_another_authority(scene: Scene) -> None:
    create_authority(scene.folder.with_name("ca"))
    shutil.copy(scene.folder.with_name("ca") / "root.crt", scene.folder / CHAIN)


def of_another_authority(scene: Scene) -> None:
    create_authority(scene.folder.with_name("ca"))
    issue(scene.folder.with_name("ca"), scene.folder, SITE)


def on(**changes: Any) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        scene.machine = lambda machine: replace(machine, **changes)

    return change


def versions(**changes: str) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        scene.machine = lambda machine: replace(machine, versions={**machine.versions, **changes})

    return change


def rules(**changes: Any) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        scene.case = lambda case: replace(case, rules=replace(case.rules, **changes))

    return change


def planned(name: str, *keys: str, value: Any) -> Callable[[Scene], None]:
    return lambda scene: scene.edit(name, *keys, value=value)


def without(*path: str) -> Callable[[Scene], None]:
    return lambda scene: scene.folder.joinpath(*path).unlink()


def network(**values: Any) -> Callable[[Scene], None]:
    """Where the site thinks that the aggregator is; its plan is as agreed."""

    def change(scene: Scene) -> None:
        def there(case: Case) -> Case:
            assert case.destination is not None
            return replace(case, destination=replace(case.destination, **values))

        scene.case = there

    return change


def at_a_port_where(serve: Callable[[socket.socket], None]) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        network(host="localhost", port=server.getsockname()[1])(scene)

    return change


def babbling(server: socket.socket) -> None:
    connection, _ = server.accept()
    with server, connection:
        connection.sendall(b"SSH-2.0-nobody\r\n")
        connection.recv(4096)


def at_an_impostor(scene: Scene) -> None:
    folder = scene.folder.with_name("impostor")
    # The name is the aggregator's: only what the certificate is for tells it from the true one.
    poser = Member(role="collaborator", name="localhost")
    issue(scene.host.out / "ca", folder, poser)
    key, certificate = (str(poser.file(folder, suffix)) for suffix in (".key", ".crt"))
    roots = str(folder / CHAIN)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = create_grpc_server(f"127.0.0.1:{port}", True, key, certificate, roots, True)
    server.start()
    threading.Timer(20, server.stop, [0]).start()
    network(port=port)(scene)


def stepping(take: Callable[[], Any]) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        scene.case = lambda case: replace(case, step=take)

    return change


def ended_by_the_system() -> Any:
    return apart(lambda: os.kill(os.getpid(), signal.SIGKILL))  # type: ignore[arg-type,return-value]


def diverging(scene: Scene) -> None:
    scene.case = lambda case: replace(case, step=lambda: replace(case.step(), finite=False))


def clock_off(seconds: float) -> Callable[[Scene], None]:
    def change(scene: Scene) -> None:
        def shifted(line: Any) -> Any:
            told = line.clock
            line.clock = lambda: told() + seconds
            return line

        scene.line = shifted

    return change


def cut_off(scene: Scene) -> None:
    def broken(line: Any) -> Any:
        def upload(count: int) -> None:
            raise ValueError("UNAVAILABLE: Socket closed")

        line.upload = upload
        return line

    scene.line = broken


def through_a_proxy(scene: Scene) -> None:
    on(environment={"https_proxy": "http://127.0.0.1:9"})(scene)

    def unanswered(line: Any) -> Any:
        def clock() -> float:
            raise ValueError("UNAVAILABLE: failed to connect to all addresses")

        line.clock = clock
        return line

    scene.line = unanswered


def all_other_lines(scene: Scene) -> None:
    (scene.folder / "plan" / "data.yaml").write_text("site-2,data/site-2\n")


def without_a_policy(scene: Scene) -> None:
    make_key(scene.folder / "board.key")
    board = read_public((scene.folder / "board.key.pub").read_bytes(), "board")
    rules = {
        "required": "aggregator",
        "signers": signers_document(Signers(need=1, keys={"board": board})),
    }
    scene.edit("plan", "network", "settings", "attestation", value=rules)


EXPERIMENT = ("task_runner", "settings", "experiment")
INSTALL = "openfl-flows pki install"
# What is changed, the probe that finds it, what it says, and what of the remedy.
CASES: dict[str, tuple[Callable[[Scene], None], str, str, str]] = {
    "expired": (lambda s: certified(s, 40), "certificate", "is valid from", INSTALL),
    "not yet valid": (lambda s: certified(s, -2), "certificate", "is valid from", INSTALL),
    "another site's certificate": (
        lambda s: with_files_of_another(s, ".key", ".crt"), "certificate", "name 'site-2'", INSTALL,
    ),
    "another key": (
        lambda s: with_files_of_another(s, ".key"), "certificate", "not of the key in", INSTALL,
    ),
    "rights of the key": (
        lambda s: SITE.file(s.folder, ".key").chmod(0o644), "certificate", "rights 0644",
        "chmod 600",
    ),
    "trust in another CA": (
        trusting_another_authority, "certificate", "does not chain up to a trusted root", INSTALL,
    ),
    "no certificate": (without("cert", "client", "col_site-1.crt"), "certificate", "no such file",
                       INSTALL),
    "no key": (without("cert", "client", "col_site-1.key"), "certificate", "no such file", INSTALL),
    "no roots": (without("cert", "cert_chain.crt"), "certificate", "no such file", INSTALL),
    "another CA": (of_another_authority, "reach", "its certificate is not good", "the same CA"),
    "not in cols": (
        planned("cols", "collaborators", value=["site-2"]), "plan", "collaborators names site-2",
        "plan/cols.yaml",
    ),
    "an unsafe plan": (
        planned("plan", "network", "settings", "use_tls", value=False), "plan", "use_tls=false",
        "get the plan anew",
    ),
    "one other number": (
        planned("plan", *EXPERIMENT, "federation", "steps", value=21), "aggregator",
        "'site-1' has another plan than the aggregator", "have the plan that the aggregator has",
    ),
    "no line for its data": (all_other_lines, "plan", "data.yaml: no line for", "add the line"),
    "another numpy": (versions(numpy="1.26.4"), "versions", "numpy 1.26.4, expected", "pip"),
    "another torch": (versions(torch="2.0.0"), "versions", "torch 2.0.0, expected", "pip install"),
    "a package less": (versions(rdkit="not installed"), "versions", "rdkit not installed", "pip"),
    "no pins": (without("requirements.txt"), "versions", "requirements.txt: no versions", "pip"),
    "too few processors": (on(processors=0), "processors", "runtime.threads=1", "processors"),
    "no policy": (without_a_policy, "enclave", "policy.sha256: no such file", "attest pin"),
    "a full disk": (on(disk_bytes=100), "disk", "100 bytes free", "free disk space"),
    "too little memory": (on(memory_bytes=10**6), "memory", "1.00 MB available", "more memory"),
    "killed for memory": (stepping(ended_by_the_system), "step", "signal 9", "larger machine"),
    "a loss that is no number": (diverging, "step", "not a finite number", "learning rate"),
    "a clock behind": (clock_off(300), "clock", "s behind the aggregator's", "time server"),
    "a clock ahead": (clock_off(-300), "clock", "s ahead of the aggregator's", "time server"),
    "nobody listens": (network(port=1), "reach", "localhost:1: Connection refused", "agg_port"),
    "nobody has the name": (network(host="absent.invalid"), "reach", "absent.invalid", "agg_addr"),
    "another address": (network(host="127.0.0.2"), "reach", "certificate is not good", "agg_addr"),
    "a stranger": (at_a_port_where(babbling), "reach", "TLS fails", "agg_port"),
    "an impostor": (at_an_impostor, "reach", "its certificate is not good", "same CA"),
    "a proxy": (through_a_proxy, "aggregator", "UNAVAILABLE", "unset https_proxy"),
    "a thin line": (rules(least_mbit=1e9), "bandwidth", "expected at least 1e+09", "plan-link"),
    "a line that is cut": (cut_off, "bandwidth", "upload: UNAVAILABLE", "small messages"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_at_a_site_is_found_with_a_remedy(name: str, scene: Scene) -> None:
    change, probe, said, remedy = CASES[name]
    change(scene)
    red = {finding.probe: finding for finding in scene.findings() if not finding.green}
    assert probe in red, red
    assert said in red[probe].found
    assert remedy in red[probe].remedy
    assert "\n" not in red[probe].found


def test_a_site_as_it_should_be_is_green(scene: Scene) -> None:
    findings = scene.findings()
    assert [finding for finding in findings if not finding.green] == []
    assert {f.probe for f in findings} >= {"clock", "bandwidth", "memory", "disk", "reach"}
    kept = json.loads((scene.folder / FOLDER / "site-1.json").read_text())["said"]
    assert kept["measured"]["upload_bytes_per_second"] > 1e4
    assert kept["measured"]["download_bytes_per_second"] > 1e4
    # What it has measured and sent was no part of round 1.
    assert not (scene.host.out / "aggregator/local_state/readiness/site-1.json").exists()


BAD_DATA = {
    "no folder": (lambda folder: shutil.rmtree(folder), "no such file"),
    "empty": (lambda folder: (folder / "molecules.csv").write_text(""), "molecules.csv"),
    "columns": (
        lambda folder: (folder / "molecules.csv").write_text("smiles,dipole\nCCO,1\n"), "no column",
    ),
    "no number": (
        lambda folder: (folder / "molecules.csv").write_text(
            "smiles,dipole_debye,homo_ev\nCANARY,nan,-5\n"), "molecules.csv",
    ),
    "too few": (
        lambda folder: (folder / "molecules.csv").write_text(
            "smiles,dipole_debye,homo_ev\nCCO,1.5,-7\n"), "molecules",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def digress(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "workspace"
    export_workspace(compose(("experiment=demo", *OVERRIDES)), folder)
    return folder


@pytest.mark.parametrize("name", BAD_DATA)
def test_what_is_wrong_with_data_is_told_at_the_site_alone(name, digress, tmp_path) -> None:
    folder = Path(shutil.copytree(digress, tmp_path / "workspace"))
    change, said = BAD_DATA[name]
    change(folder / "data" / "site-1")
    plan = read_workspace(folder)
    experiment = readiness.Experiment.from_config(plan.config)
    case = replace(
        case_of(folder, "site-1", plan=plan),
        step=lambda: dry_step(experiment, "site-1", folder / "data" / "site-1", folder / "logs"),
    )
    findings, verdict = look(case, Machine.here(folder, case.pins), None)
    (found,) = [finding for finding in findings if finding.probe == "data"]
    assert not found.green
    assert said in found.found
    assert "plan/data.yaml" in found.remedy
    (sent,) = [finding for finding in verdict.findings if finding.probe == "data"]
    assert sent.found == KEPT_AT_SITE
    assert "CANARY" not in str(verdict)


def test_the_dry_step_of_a_model_is_measured(digress) -> None:
    plan = read_workspace(digress)
    experiment = readiness.Experiment.from_config(plan.config)
    step = dry_step(experiment, "site-1", digress / "data" / "site-1", digress / "logs")
    initial = experiment.initial_state()
    assert (step.spec, step.frozen) == (initial.spec.digest(), initial.kept().digest())
    assert step.finite
    assert step.seconds > 0
    assert step.model_bytes == sum(array.nbytes for array in initial.values())
