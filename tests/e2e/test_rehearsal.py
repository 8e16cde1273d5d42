"""A federation of real processes under mTLS makes, round by round, the bits of a simulation."""

import json
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from openfl_flows.cli.plan import compose
from openfl_flows.data.source import SAMPLE
from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate_experiment
from openfl_flows.ops.run import RunDirectory
from openfl_flows.report.html import write_report
from openfl_flows.report.samples import draw_samples
from openfl_flows.taskrunner import rehearsal
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.parity import compare_rounds
from openfl_flows.taskrunner.parties import Launch, launch_fx
from openfl_flows.taskrunner.rehearsal import rehearse
from tests.fx_processes import TOY, launch, living
from tests.processes import Process
from tests.tiny import OVERRIDES

DIGRESS = (
    *OVERRIDES, "experiment=demo", "federation.sites=2", "federation.rounds=2",
    "federation.epochs=1", "runtime.quiet=true",
)  # fmt: skip
OPENFOLD3 = (
    "experiment=of3_demo", "federation.rounds=2", "federation.steps=2", "runtime.quiet=true",
    "model.network.diffusion_samples=2", "model.training.crops.tokens=16",
    "model.training.optimization.warmup_steps=1",
    "model.training.validation_crops=2", "model.training.validation_rollouts=1",
    "model.training.test_rollouts=0", "model.predictions=1",
)  # fmt: skip
NATIVE = ("model.training.kernels=native", "model.training.precision=bfloat16")
IN_FRAGMENTS = (
    "federation.rounds=4", "federation.epochs=null", "federation.steps=3",
    "federation.streaming={fragments: 2, delay: 1, mixing: 0.5}",
)  # fmt: skip
COMPILED = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


def simulated(out: Path, *overrides: str) -> RunDirectory:
    return simulate_experiment(Experiment.from_config(compose(overrides)), out)


def rehearsed(out: Path, launch: Launch, *overrides: str) -> RunDirectory:
    export_workspace(compose(overrides), out / "workspace")
    return rehearse(out / "workspace", out=out / "parties", launch=launch)


def assert_parity(a: RunDirectory, b: RunDirectory, *, rounds: int) -> None:
    compared = compare_rounds(a, b)
    assert [row.equal for row in compared] == [True] * (rounds + 1)
    assert len({row.a for row in compared}) == rounds + 1
    assert a.record["metrics"] == b.record["metrics"]
    for x, y in zip(a.record["rounds"], b.record["rounds"], strict=True):
        for key in ("metrics", "bytes_up", "bytes_down", "frames"):
            assert x[key] == y[key]
        for site in x["sites"]:
            fleeting = dict.fromkeys(
                ("seconds", "peak_rss_bytes", "rss_bytes", "bytes_up", "bytes_down")
            )
            assert {**x["sites"][site], **fleeting} == {**y["sites"][site], **fleeting}


# The real `fx` costs seconds of imports for every command, so each kind of plan has it once.
@pytest.mark.parametrize(
    ("plan", "rounds", "start"),
    [
        pytest.param((*TOY, "join=fedavg"), 3, launch_fx, marks=pytest.mark.slow),
        pytest.param((*TOY, "ema=at_sync"), 3, launch, marks=pytest.mark.slow),
        ((*DIGRESS, "join=diloco", "ema=at_sync", "codec=int4"), 2, launch_fx),
        pytest.param((*DIGRESS, "join=fedavg"), 2, launch, marks=pytest.mark.slow),
        pytest.param(
            (*DIGRESS, "join=diloco", "codec=int2", *IN_FRAGMENTS),
            4,
            launch,
            marks=pytest.mark.slow,
        ),
        pytest.param((*DIGRESS, *NATIVE), 2, launch, marks=[COMPILED, pytest.mark.slow]),
        pytest.param(OPENFOLD3, 2, launch, marks=pytest.mark.slow),
        pytest.param(OPENFOLD3, 2, launch_fx, marks=pytest.mark.slow),
    ],
    ids=[
        "toy-fedavg-fx",
        "toy-diloco-ema",
        "digress-diloco-ema-int4-fx",
        "digress-fedavg",
        "digress-fragments-int2",
        "native",
        "openfold3",
        "openfold3-fx",
    ],
)
def test_a_federation_is_its_simulation(
    plan: tuple[str, ...], rounds: int, start: Launch, tmp_path: Path
):
    run = rehearsed(tmp_path, start, *plan)
    assert living(tmp_path) == []
    expected = simulated(tmp_path / "simulation", *plan)
    assert_parity(run, expected, rounds=rounds)
    assert run.path == tmp_path / "parties" / "run"
    assert (run.path / "partition.json").read_bytes() == (
        expected.path / "partition.json"
    ).read_bytes()
    for file in expected.path.glob("samples/*"):
        assert (run.path / file.relative_to(expected.path)).read_bytes() == file.read_bytes()
    draw_samples(run.path / "samples")
    assert write_report(run.path).read_text().count(run.record["digest"][:12])


@pytest.mark.slow
def test_other_numbers_of_sites(tmp_path: Path):
    export_workspace(compose(TOY), tmp_path / "workspace")
    run = rehearse(tmp_path / "workspace", out=tmp_path / "parties", sites=3, launch=launch)
    assert sorted(run.record["rounds"][0]["sites"]) == ["site-1", "site-2", "site-3"]
    expected = simulated(tmp_path / "simulation", *TOY, "federation.sites=3")
    assert_parity(run, expected, rounds=3)


@pytest.mark.slow
def test_what_the_plan_has_elsewhere_is_not_needed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    plan = (*DIGRESS, "federation.rounds=1", "data=csv", f"data.path={SAMPLE}")
    run = rehearsed(tmp_path, launch, *plan)
    assert "molecules.csv: no such file" in caplog.text
    assert run.finished
    assert not (run.path / "samples").exists()
    expected = simulated(tmp_path / "simulation", *plan)
    assert [row.equal for row in compare_rounds(run, expected)] == [True, True]
    assert run.record["metrics"].items() <= expected.record["metrics"].items()
    assert write_report(run.path).is_file()


def test_the_aggregator_has_no_data_and_the_sites_no_key_but_their_own(
    federation: Callable[..., Path],
):
    parties = federation(*DIGRESS)
    assert {path.name for path in parties.iterdir()} == {
        "aggregator", "ca", "run", "site-1", "site-2",
    }  # fmt: skip
    assert not list((parties / "aggregator" / "data").iterdir())
    for site, other in (("site-1", "site-2"), ("site-2", "site-1")):
        assert [path.name for path in (parties / site / "data").iterdir()] == [site]
        assert [key.name for key in (parties / site).rglob("*.key")] == [f"col_{site}.key"]
        assert not list((parties / site).rglob(f"*{other}*"))


def test_one_party_that_fails_ends_all(toy_federation: Path):
    (toy_federation / "site-2" / "cert" / "client" / "col_site-2.key").unlink()
    with pytest.raises(ValueError, match=r"^site-2 ended with exit status 1: .*col_site-2.key"):
        rehearse(Path(), out=toy_federation, resume=True, launch=launch)
    assert living(toy_federation) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_rehearsal(how: signal.Signals, toy_federation: Path):
    log = toy_federation / "rehearsal.log"
    with Process(_go_on, toy_federation, log=log) as process:
        _wait(lambda: len(living(toy_federation)) == 3)
        process.send(how)
        assert process.wait() != 0
    _wait(lambda: not living(toy_federation))


def test_a_rehearsal_goes_on_where_it_was_killed(toy_federation: Path, tmp_path: Path):
    def rounds() -> int:
        file = toy_federation / "run" / "run.json"
        return len(json.loads(file.read_text())["rounds"]) if file.is_file() else 0

    with Process(_go_on, toy_federation, log=toy_federation / "rehearsal.log") as process:
        process.kill_when(lambda: rounds() == 1)
    _wait(lambda: not living(toy_federation))
    run = rehearse(Path(), out=toy_federation, resume=True, launch=launch)
    assert_parity(run, simulated(tmp_path / "simulation", *TOY), rounds=3)
    digest = run.record["digest"]
    again = rehearse(Path(), out=toy_federation, resume=True, launch=_launch_nothing)
    assert again.record["digest"] == digest


def test_a_folder_that_is_taken_is_refused(tmp_path: Path, toy_federation: Path):
    with pytest.raises(ValueError, match=r"^out=.* exists and is not empty: .*"):
        rehearse(toy_federation / "aggregator", out=toy_federation)
    with pytest.raises(ValueError, match="no rehearsal to go on with"):
        rehearse(toy_federation / "aggregator", out=tmp_path / "nowhere", resume=True)


def test_a_port_that_is_taken_is_refused(toy_federation: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rehearsal, "PORT_SECONDS", 0.1)
    plan = yaml.safe_load((toy_federation / "aggregator" / "plan" / "plan.yaml").read_text())
    port = plan["network"]["settings"]["agg_port"]
    with socket.create_server(("", port)), pytest.raises(ValueError, match=f"={port} is taken"):
        rehearse(Path(), out=toy_federation, resume=True, launch=_launch_nothing)


def _go_on(out: Path) -> None:
    rehearse(Path(), out=out, resume=True, quiet=True, launch=launch_fx)


def _launch_nothing(*_: object) -> Process:
    raise AssertionError("nothing is left to do")


def _wait(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end, "what the test waits for did not come"
        time.sleep(0.01)
