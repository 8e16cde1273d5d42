"""A federation whose aggregator gets sums alone: it sees noise, and makes the plain run's model."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate_experiment
from openfl_flows.ops.files import load_state
from openfl_flows.ops.run import RunDirectory
from openfl_flows.taskrunner.parity import compare_rounds
from tests.e2e.test_federation_faults import KILLED, log, restart, running
from tests.fx_processes import TOY

SITES = ("site-1", "site-2", "site-3")
PARTIES = ("aggregator", *SITES)
# Parameters that nothing trains: whatever is sent for them is mask alone.
PADDING = 4000
PLAIN = (*TOY, "federation.sites=3", f"model.padding={PADDING}")
SUMMED = (*PLAIN, "federation.secure_aggregation=true", "network.max_norm_ratio=null")


def simulated(out: Path, *overrides: str) -> RunDirectory:
    return simulate_experiment(Experiment.from_config(compose(overrides)), out)


@contextlib.contextmanager
def capturing(out: Path) -> Iterator[dict[tuple[int, str], Path]]:
    """Updates as the aggregator has them, by round and site: links to the files of its inbox."""
    found: dict[tuple[int, str], Path] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.001):
            for file in (out / "aggregator" / "local_state" / "inbox").glob("*/*/train.*"):
                which = int(file.parents[1].name) + 1, file.parent.name
                if which not in found and file.suffix == ".safetensors":
                    copy = out / f"captured-{which[0]}-{which[1]}.safetensors"
                    with contextlib.suppress(OSError):
                        os.link(file, copy)
                        found[which] = copy

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def words(file: Path) -> np.ndarray:
    sent = load_state(file)
    (name,) = [name for name in sent if '"trained"' in name]
    return sent[name]


@pytest.fixture(scope="module")
def simulation(tmp_path_factory) -> RunDirectory:
    return simulated(tmp_path_factory.mktemp("simulated") / "summed", *SUMMED)


@pytest.fixture
def parties(federation: Callable[..., Path]) -> Path:
    return federation(*SUMMED)


def assert_parity(simulation: RunDirectory, out: Path) -> None:
    made = RunDirectory.open(out / "run")
    assert [row.equal for row in compare_rounds(simulation, made)] == [True] * 4
    assert made.record["metrics"] == simulation.record["metrics"]


def test_the_model_is_that_of_the_plain_run(simulation, tmp_path):
    plain = simulated(tmp_path / "plain", *PLAIN)
    for name, array in plain.model().items():
        assert simulation.model()[name] == pytest.approx(array, rel=1e-6, abs=1e-6)
    sent = [run.record["rounds"][-1]["bytes_up"] for run in (plain, simulation)]
    assert 1.8 < sent[1] / sent[0] <= 2
    movement = [run.record["rounds"][-1]["movement"] for run in (plain, simulation)]
    assert movement[0]["update_norm"] == pytest.approx(movement[1]["update_norm"], rel=1e-5)
    assert "drift" not in movement[1]


def test_the_aggregator_sees_noise_and_makes_the_same_model(parties, simulation):
    with capturing(parties) as captured, running(parties, names=PARTIES) as processes:
        assert [process.wait() for process in processes.values()] == [0] * 4
    assert_parity(simulation, parties)
    by_round = [[words(captured[r, s]) for s in SITES if (r, s) in captured] for r in (1, 2, 3)]
    whole = [found for found in by_round if len(found) == 3]
    assert whole, "no round was captured"
    for found in whole:
        for sent in found:
            # The last values of the bucket are the padding, which no site has moved.
            assert stats.kstest(sent[-PADDING:] / 2.0**64, "uniform").pvalue > 1e-9
        pairs = found[0] + found[1], found[0] + found[2], found[1] + found[2]
        for left in pairs:
            assert np.count_nonzero(left[-PADDING:]) > PADDING - 10
        assert not (found[0] + found[1] + found[2])[-PADDING:].any()
    secrets = parties / "site-1" / "local_state" / "site-1" / "masks.json"
    assert secrets.stat().st_mode & 0o777 == 0o600


# The 11th file notes which update the masks of round 1 hide.
@pytest.mark.parametrize(
    "die_at",
    [
        {"site-2": 12},
        pytest.param({"site-2": 11}, marks=pytest.mark.slow),
        pytest.param({"aggregator": 14}, marks=pytest.mark.slow),
    ],
)
def test_a_party_that_was_killed_comes_back_with_the_same_masks(parties, simulation, die_at):
    (killed,) = die_at
    with running(parties, names=PARTIES, **die_at) as processes:
        assert processes[killed].wait() == KILLED
        restart(parties, processes, killed)
        statuses = {name: process.wait() for name, process in processes.items()}
        assert statuses == dict.fromkeys(PARTIES, 0), log(parties, killed)
    assert_parity(simulation, parties)


def test_a_site_without_its_secrets_is_refused(parties):
    with running(parties, names=PARTIES) as processes:
        secrets = parties / "site-2" / "local_state" / "site-2" / "masks.json"
        kept = parties / "aggregator" / "local_state" / "announcements" / "site-2.json"
        processes["site-2"].kill_when(kept.exists)
        secrets.unlink()
        restart(parties, processes, "site-2")
        assert processes["site-2"].wait() == 1
    assert "its key is another one than before" in log(parties, "site-2")


def test_all_sites_of_the_plan_have_to_be_there(parties):
    cols = parties / "aggregator" / "plan" / "cols.yaml"
    cols.write_text("collaborators: [site-1, site-2]\n")
    with running(parties, names=("aggregator",)) as processes:
        assert processes["aggregator"].wait() == 1
    assert "cols.yaml does not name site-3, expected all sites" in log(parties, "aggregator")
