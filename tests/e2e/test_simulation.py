"""A simulated federation: the same bits however it runs, and a record that machines can read."""

import dataclasses
import json
import math
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from openfl_flows.baselines import train_centralized
from openfl_flows.codecs.exchange import exact_bytes
from openfl_flows.codecs.recipes import build_compression
from openfl_flows.experiment import Runtime
from openfl_flows.flows.simulation import simulate
from openfl_flows.joins.base import Join, Updates, screened
from openfl_flows.joins.ema import at_sync
from openfl_flows.joins.recipes import build_join, diloco, fedavg
from openfl_flows.joins.robust import finite
from openfl_flows.learners.base import Budget
from openfl_flows.learners.toy import ToyTask
from openfl_flows.ops.files import load_state
from openfl_flows.ops.run import RunDirectory
from openfl_flows.state import State
from openfl_flows.update import Update
from tests.tiny import digress

SITES = ("site-1", "site-2", "site-3")
QUIET = Runtime(quiet=True)


def run(task, out: Path, *, join=None, rounds=2, runtime=QUIET, **options) -> RunDirectory:
    budget = options.pop("budget", Budget(epochs=1))
    return simulate(
        task,
        join=join or diloco(),
        rounds=rounds,
        budget=budget,
        out=out,
        runtime=runtime,
        **options,
    )


def digests(run: RunDirectory) -> list[str]:
    return [round_["digest"] for round_ in run.record["rounds"]]


@pytest.mark.slow
def test_five_runs_of_one_seed_end_in_one_digest(tmp_path: Path) -> None:
    found = {tuple(digests(run(digress(), tmp_path / str(i)))) for i in range(5)}
    assert len(found) == 1


def test_another_seed_ends_in_another_digest(tmp_path: Path) -> None:
    assert digests(run(digress(seed=1), tmp_path / "a")) != digests(run(digress(), tmp_path / "b"))


@pytest.mark.parametrize("task", [lambda sites: ToyTask(sites=sites), digress])
def test_the_order_of_sites_changes_no_bit(tmp_path: Path, task) -> None:
    forward, backward = (run(task(s), tmp_path / s[0]) for s in (SITES, SITES[::-1]))
    assert digests(forward) == digests(backward)


@pytest.mark.parametrize("resident", [0, 1, 3])
def test_learners_kept_or_restored_give_the_same_bits(tmp_path: Path, resident: int) -> None:
    kept = run(ToyTask(sites=SITES), tmp_path / "a", runtime=Runtime(quiet=True, resident_sites=3))
    runtime = Runtime(quiet=True, resident_sites=resident)
    assert digests(run(ToyTask(sites=SITES), tmp_path / "b", runtime=runtime)) == digests(kept)


@pytest.mark.parametrize("actors", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ray_gives_the_bits_of_a_single_process(tmp_path: Path, actors: int) -> None:
    runtime = Runtime(backend="ray", ray_actors=actors, quiet=True)
    int2 = {"compression": build_compression("int2")}
    single = run(digress(), tmp_path / "single", **int2)
    assert digests(run(digress(), tmp_path / "ray", runtime=runtime, **int2)) == digests(single)


@pytest.mark.parametrize("task", [ToyTask(sites=("site-1",)), digress(("site-1",))])
def test_one_site_is_the_centralized_run(tmp_path: Path, task) -> None:
    federated = run(task, tmp_path / "federated", join=fedavg(), rounds=3)
    central = train_centralized(task, rounds=3, budget=Budget(epochs=1), out=tmp_path / "central")
    assert digests(federated) == digests(central)
    assert federated.record["metrics"] == central.record["metrics"]


def test_the_record_says_what_happened(tmp_path: Path) -> None:
    task = digress()
    run(task, tmp_path / "run", ema=at_sync(decay=0.9))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    model = load_state(tmp_path / "run" / "model.safetensors")

    assert record["status"] == "finished"
    assert record["digest"] == record["rounds"][-1]["digest"] == model.digest()
    assert record["peak_rss_bytes"] > 50e6
    assert {"openfl", "torch", "rdkit"} <= record["versions"].keys()
    assert [round_["round"] for round_ in record["rounds"]] == [1, 2]
    assert record["initial"]["digest"] == task.initial_state().digest()
    for round_ in record["rounds"]:
        assert round_["bytes_up"] == round_["bytes_down"] == 2 * exact_bytes(model.travelling())
        assert round_["metrics"]["nll"] > 0
        assert sum(site["num_samples"] for site in round_["sites"].values()) == 160
        assert round_["seconds"] >= max(
            sum(site["seconds"].values()) for site in round_["sites"].values()
        )
    for name in ("test_nll", "test_elbo", "test_mae", "validity", "ema_test_nll"):
        assert math.isfinite(record["metrics"][name])
    for file in ("join.safetensors", "ema.safetensors", "partition.json", "samples/samples.csv"):
        assert (tmp_path / "run" / file).is_file()
    for name in ("site-1", "site-2", "global"):
        assert list((tmp_path / "run" / "tensorboard" / name).glob("events.out.tfevents.*"))


def test_global_metrics_are_the_sites_samples_pooled(tmp_path: Path) -> None:
    record = run(ToyTask(sites=SITES), tmp_path / "run", rounds=3).record
    for before, after in zip(record["rounds"][:-1], record["rounds"][1:], strict=True):
        received = [site["received"]["mse"] for site in after["sites"].values()]
        assert before["metrics"]["mse"] == pytest.approx(sum(received) / len(received))


def test_training_learns_and_sites_agree_better_with_more_rounds(tmp_path: Path) -> None:
    record = run(ToyTask(sites=SITES), tmp_path / "run", join=fedavg(), rounds=12).record
    errors = [round_["metrics"]["mse"] for round_ in record["rounds"]]
    assert errors[-1] < 0.1 * record["initial"]["metrics"]["mse"]


def test_tensorboard_reads_every_round_of_sites_and_global(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def curve(name: str, tag: str) -> dict[int, float]:
        events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / name)).Reload()
        return {event.step: event.value for event in events.Scalars(tag)}

    record = run(ToyTask(sites=SITES), tmp_path / "run", rounds=3).record
    assert sorted(curve("site-1", "train_loss")) == [1, 2, 3]
    measured = [record["initial"], *record["rounds"]]
    expected = {step: round_["metrics"]["mse"] for step, round_ in enumerate(measured)}
    assert curve("global", "mse") == pytest.approx(expected, rel=1e-6)


@dataclass(frozen=True, kw_only=True)
class PoisonedTask(ToyTask):
    """The second site's measurements are broken."""

    def _data(self, site: str) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets = super()._data(site)
        return inputs, targets / 0 if site == "site-2" else targets


def test_an_update_that_is_not_finite_is_refused_and_the_last_round_kept(tmp_path: Path) -> None:
    task = PoisonedTask(sites=SITES)
    with pytest.raises(ValueError, match=r"site 'site-2' is not finite: tensor 'linear.weight'"):
        run(task, tmp_path / "run", join=build_join("fedavg"))
    assert RunDirectory.open(tmp_path / "run").model().digest() == task.initial_state().digest()


@pytest.mark.slow
def test_an_error_in_another_process_is_told_as_if_it_were_in_this_one(tmp_path: Path) -> None:
    task = ToyTask(sites=SITES)
    runtime = Runtime(backend="ray", quiet=True)
    with pytest.raises(
        ValueError, match=r"^update of site 'site-1' is not finite[^\n]*$"
    ) as caught:
        run(task, tmp_path / "run", join=overflowing(), runtime=runtime)
    assert type(caught.value) is ValueError


def overflowing() -> Join:
    """FedAvg that sees every update as infinite."""

    def poison(model: State, updates: Updates) -> Iterator[Update]:
        for update in updates:
            yield dataclasses.replace(update, state=update.state.map(lambda a: a * np.inf))

    return screened(fedavg(), poison, finite())


@pytest.mark.slow
def test_ray_attaches_to_a_running_cluster(tmp_path: Path) -> None:
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = ["start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    subprocess.run([*ray, *start], check=True, capture_output=True)
    try:
        command = [sys.executable, "-m", "openfl_flows", "simulate", "experiment=toy"]
        runtime = ["runtime=ray", f"runtime.ray_address=127.0.0.1:{port}", f"out={tmp_path}/ray"]
        done = subprocess.run([*command, *runtime], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run([*ray, "stop"], check=True, capture_output=True)
    names = ("site-1", "site-2")
    single = run(ToyTask(sites=names), tmp_path / "one", join=build_join("fedavg"), rounds=3,
                 budget=Budget(steps=5))  # fmt: skip
    assert digests(RunDirectory.open(tmp_path / "ray")) == digests(single)
