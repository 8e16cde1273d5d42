"""The runbook: its commands, at the party they are for, in a federation that runs."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate_experiment
from openfl_flows.ops.run import RunDirectory
from tests.e2e.test_federation_page import Machine
from tests.fx_processes import Party

PAGE = Path(__file__).parents[2] / "docs" / "runbook.md"
BLOCK = re.compile(r"^```bash (\S+) (\S+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(PAGE.read_text())
PARTIES = ("aggregator", "site-1", "site-2")
TOY = ("experiment=toy", "join=diloco", "federation.rounds=12", "federation.steps=200")
WAIT = 120.0


class Consortium:
    """Machines with systemd: units are what `openfl-flows deploy` writes, run by this process."""

    def __init__(self, parties: Path, root: Path) -> None:
        for name in PARTIES:
            shutil.copytree(parties / name, root / name / "federation", symlinks=True)
        shutil.copytree(parties / "ca", root / "authority" / "ca")
        shutil.copytree(parties / "aggregator", root / "authority" / "federation")
        self.root = root
        self.machines = {name: Machine(name, root) for name in (*PARTIES, "authority")}
        for name in PARTIES:
            self.machines[name].folder = root / name / "federation"
        self.units: dict[str, Party] = {}
        plan = yaml.safe_load((self.folder("aggregator") / "plan" / "plan.yaml").read_text())
        self.port = plan["network"]["settings"]["agg_port"]

    def folder(self, name: str) -> Path:
        return self.machines[name].folder

    @property
    def run(self) -> RunDirectory:
        return RunDirectory.open(self.folder("aggregator") / "local_state" / "run")

    def do(self, scene: str) -> None:
        """What the page says for a scene, in its order."""
        found = [(party, commands) for name, party, commands in BLOCKS if name == scene]
        assert found, f"the page has no scene {scene}"
        for party, commands in found:
            for part in re.split(r"^(systemctl .*\n)", commands, flags=re.MULTILINE):
                if part.startswith("systemctl"):
                    self.systemctl(party, *part.split()[1:])
                elif part.strip():
                    machine = self.machines[party]
                    machine.finish(machine.start(f"export PORT={self.port}\n{part}"))

    def systemctl(self, party: str, verb: str, unit: str) -> None:
        assert unit == f"openfl-{party}"
        if verb in ("stop", "restart") and party in self.units:
            self.units.pop(party).kill()
        if verb in ("start", "restart"):
            site = ("collaborator", "start", "-n", party)
            arguments = ("aggregator", "start") if party == "aggregator" else site
            self.units[party] = Party(self.folder(party), *arguments)

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT
        while not reached():
            ended = [name for name, unit in self.units.items() if unit.poll() not in (None, 0)]
            assert not ended, self.log(ended[0])
            assert time.monotonic() < end, self.log("aggregator")
            time.sleep(0.02)

    def reaches(self, round_: int) -> None:
        record = self.folder("aggregator") / "local_state" / "run" / "run.json"
        self.until(lambda: record.is_file() and self.run.round >= round_)

    def ends(self) -> RunDirectory:
        for name in PARTIES:
            assert self.units[name].wait() == 0, self.log(name)
        assert self.run.finished
        return self.run

    def log(self, name: str) -> str:
        return (self.folder(name) / "logs" / "fx.log").read_text()[-3000:]


@pytest.fixture
def consortium(prepared: Callable[..., Path], tmp_path: Path) -> Iterator[Consortium]:
    made = Consortium(prepared(*TOY), tmp_path / "machines")
    made.do("go-on")
    try:
        yield made
    finally:
        for unit in made.units.values():
            unit.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The models of the rounds where nothing happens."""
    experiment = Experiment.from_config(compose([*TOY, "runtime.quiet=true"]))
    run = simulate_experiment(experiment, tmp_path_factory.mktemp("simulated") / "run")
    return digests(run)


def digests(run: RunDirectory) -> list[str]:
    return [round_["digest"] for round_ in run.record["rounds"]]


def sites(run: RunDirectory) -> list[list[str]]:
    return [sorted(round_["sites"]) for round_ in run.record["rounds"]]


def test_every_block_says_what_it_is_for() -> None:
    assert PAGE.read_text().count("```bash") == len(BLOCKS)
    assert {party for _, party, _ in BLOCKS} == {*PARTIES, "authority"}


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target


@pytest.mark.slow
def test_pause_and_go_on(consortium: Consortium, undisturbed: list[str]) -> None:
    consortium.reaches(2)
    consortium.do("pause")
    assert not consortium.units
    paused = consortium.run.round
    assert paused < 12
    time.sleep(0.5)
    assert consortium.run.round == paused
    consortium.do("go-on")
    consortium.do("look")
    assert digests(consortium.ends()) == undisturbed


def test_a_site_is_left_out_and_taken_back(consortium: Consortium) -> None:
    consortium.reaches(1)
    consortium.systemctl("site-2", "stop", "openfl-site-2")
    consortium.do("leave-out")
    left = consortium.run.round
    consortium.reaches(left + 2)
    consortium.do("take-back")
    took_part = sites(consortium.ends())
    both = ["site-1", "site-2"]
    assert took_part[0] == took_part[-1] == both
    assert ["site-1"] in took_part


def test_a_key_is_replaced(consortium: Consortium, undisturbed: list[str]) -> None:
    consortium.reaches(1)
    key = consortium.folder("site-1") / "cert" / "client" / "col_site-1.key"
    before = key.read_bytes()
    consortium.do("rotate")
    assert key.read_bytes() != before
    assert digests(consortium.ends()) == undisturbed


@pytest.mark.slow
def test_a_stolen_key_is_of_no_use(consortium: Consortium, undisturbed: list[str]) -> None:
    consortium.reaches(1)
    stolen = shutil.copytree(consortium.folder("site-1"), consortium.root / "thief")
    consortium.do("stolen")
    # The thief and the site alike.
    assert consortium.units.pop("site-1").wait() == 1
    consortium.do("pause")
    consortium.do("new-authority")
    with Party(stolen, "collaborator", "start", "-n", "site-1") as thief:
        assert digests(consortium.ends())[0] == undisturbed[0]
        assert thief.poll() != 0
    assert "CERTIFICATE_VERIFY_FAILED" in (stolen / "logs" / "fx.log").read_text()


@pytest.mark.slow
def test_go_back_to_a_model(consortium: Consortium) -> None:
    consortium.reaches(2)
    consortium.do("pause")
    best = consortium.run.record["best"]["digest"]
    consortium.do("go-back")
    run = consortium.ends()
    assert run.path.parts[-3] == "again"
    assert run.record["initial"]["digest"] == best
    assert run.round == 3


@pytest.mark.slow
def test_a_lost_aggregator(consortium: Consortium, undisturbed: list[str]) -> None:
    consortium.reaches(2)
    consortium.do("backup")
    kept = consortium.run.round
    consortium.reaches(kept + 1)
    consortium.systemctl("aggregator", "stop", "openfl-aggregator")
    for part in ("local_state", "cert", "plan", "save"):
        shutil.rmtree(consortium.folder("aggregator") / part)
    consortium.do("restore")
    assert digests(consortium.ends()) == undisturbed
