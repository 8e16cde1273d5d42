"""One site alone, fine-tuning after a federation, and which model is tested: on the toy."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from openfl_flows.baselines import train_centralized, train_local
from openfl_flows.cli import main
from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment, Runtime
from openfl_flows.flows.simulation import simulate
from openfl_flows.joins.ema import at_sync
from openfl_flows.joins.recipes import fedavg
from openfl_flows.learners.base import Budget, Progress, TrainReport
from openfl_flows.learners.toy import ToyLearner, ToyTask
from openfl_flows.metrics.mean import Means
from openfl_flows.ops.files import load_state
from openfl_flows.ops.run import RunDirectory
from openfl_flows.state import State
from tests.refusals import refused

SITES = ("site-1", "site-2", "site-3")
TOY = ("experiment=toy", "federation.sites=3", "federation.rounds=2", "runtime.quiet=true")
BUDGET = Budget(steps=5)
QUIET = Runtime(quiet=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["openfl-flows"])
    return tmp_path


def record(path: Path) -> dict[str, Any]:
    found = RunDirectory.open(path).record
    assert found["status"] == "finished"
    return found


def digests(path: Path) -> list[str]:
    return [entry["digest"] for entry in record(path)["rounds"]]


def curve(folder: Path, tag: str) -> dict[int, float]:
    events = EventAccumulator(str(folder)).Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_one_site_alone_is_a_federation_of_that_site(folder) -> None:
    assert main(["local", *TOY, "site=site-2", "out=local"]) == 0
    alone = (*TOY, "federation.sites=[site-2]", "join=fedavg")
    assert main(["simulate", *alone, "out=federated"]) == 0
    local, federated = record(folder / "local"), record(folder / "federated")
    assert digests(folder / "local") == digests(folder / "federated")
    assert local["metrics"] == federated["metrics"]
    assert local["best"] == federated["best"]
    assert (local["kind"], local["config"]["site"]) == ("local", "site-2")
    for one, other in zip(local["rounds"], federated["rounds"], strict=True):
        assert list(one["sites"]) == ["site-2"]
        assert one["metrics"] == other["metrics"]
        assert one["bytes_up"] == one["bytes_down"] == 0
    for file in ("report.html", "model.safetensors", "best.safetensors", "partition.json"):
        assert (folder / "local" / file).is_file()


def test_it_learns_its_own_data_and_knows_no_others(folder) -> None:
    task = ToyTask(sites=SITES)
    runs = {
        site: train_local(task, site=site, rounds=5, budget=BUDGET, out=folder / site)
        for site in SITES
    }
    assert len({run.record["digest"] for run in runs.values()}) == len(SITES)
    for site, run in runs.items():
        learner = task.learner(site)
        learner.receive(run.model())
        assert run.record["metrics"]["test_mse"] == learner.test()["test_mse"].value
        losses = [run.record["initial"], *run.record["rounds"]]
        assert losses[-1]["metrics"]["mse"] < 0.5 * losses[0]["metrics"]["mse"]


def test_local_and_federated_curves_lie_in_one_tensorboard_plot(folder) -> None:
    assert main(["local", *TOY, "site=site-1", "out=runs/local"]) == 0
    assert main(["simulate", *TOY, "out=runs/federated"]) == 0
    for name in ("local", "federated"):
        found = record(folder / "runs" / name)
        measured = [found["initial"], *found["rounds"]]
        expected = {round_: entry["metrics"]["mse"] for round_, entry in enumerate(measured)}
        shown = curve(folder / "runs" / name / "tensorboard" / "global", "mse")
        assert shown == pytest.approx(expected, rel=1e-6)
        assert len(shown) == 3
        site = curve(folder / "runs" / name / "tensorboard" / "site-1", "train_loss")
        assert sorted(site) == [1, 2]


def test_a_local_run_goes_on_and_ends_as_if_never_stopped(folder) -> None:
    words = ("local", *TOY, "site=site-3")
    assert main([*words, "out=whole", "federation.rounds=3"]) == 0
    assert main([*words, "out=run"]) == 0
    assert main(["local", "resume=run", "federation.rounds=3"]) == 0
    assert digests(folder / "run") == digests(folder / "whole")
    assert record(folder / "run")["metrics"] == record(folder / "whole")["metrics"]


def test_runs_of_another_command_or_site_are_not_gone_on_with(folder, capsys) -> None:
    assert main(["local", *TOY, "site=site-1", "out=run"]) == 0
    assert "site=site-2 contradicts" in refused(capsys, "local", "resume=run", "site=site-2")
    assert "site=site-1 is of the command local" in refused(capsys, "simulate", "resume=run")
    with pytest.raises(ValueError, match="a local run, expected a centralized one"):
        train_centralized(
            ToyTask(sites=SITES), rounds=2, budget=BUDGET, out=folder / "run", resume=True
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("local",), r"site=null, expected the site .* one of site-1, site-2, site-3"),
        (("local", "site=site-9"), r"site=site-9, expected one of site-1, site-2, site-3"),
        (("simulate", "site=site-1"), r"site=site-1 is of the command local.* simulate takes all"),
        (("centralize", "site=site-1"), r"site=site-1 is of the command local"),
        (("export", "site=site-1", "w"), r"site=site-1 is of the command local"),
        (("export", "federation.tested=best", "w"), r"tested=best: a federation tests the last"),
        (("simulate", "federation.tested=first"), r"federation\.tested='first'"),
        (("simulate", "federation.tested=best", "ema=at_sync"), r"expected ema=none or"),
    ],
    ids=["none", "unknown", "simulate", "centralize", "export", "export best", "first", "average"],
)
def test_a_plan_that_cannot_be_used_is_one_line(folder, capsys, arguments, message) -> None:
    command, *more = arguments
    line = refused(capsys, command, *TOY, *more)
    assert re.search(message, line), line
    assert not list(folder.iterdir())


def test_fine_tuning_begins_where_the_federation_ended(folder) -> None:
    assert main(["simulate", *TOY, "out=federated"]) == 0
    begun = shutil.copytree(folder / "federated", folder / "begun")
    assert main(["simulate", f"resume={folder / 'federated'}", "federation.rounds=3"]) == 0
    # What the sites said of the model of round 2 when they received it in round 3.
    received = record(folder / "federated")["rounds"][2]["sites"]
    for site in SITES:
        words = (*TOY, f"site={site}", f"initial={begun}/model.safetensors")
        assert main(["local", *words, f"out={site}"]) == 0
        tuned = record(folder / site)
        assert tuned["initial"]["digest"] == record(begun)["digest"]
        assert tuned["initial"]["metrics"] == received[site]["received"]
        assert tuned["rounds"][-1]["metrics"]["mse"] < tuned["initial"]["metrics"]["mse"]


seen: list[tuple[str, str]] = []
"""What learners were asked: validate or test, and of which model."""


class WatchedLearner(ToyLearner):
    """Notes what it measures, and unlearns from the fourth round on: the last is not the best."""

    def train(self, budget: Budget, progress: Progress) -> TrainReport:
        """As the toy, then uphill."""
        if self._step >= 3 * BUDGET.num_steps(0):
            self._optimizer.param_groups[0]["lr"] = -0.02
        return super().train(budget, progress)

    def validate(self) -> Means:
        """As the toy."""
        seen.append(("validate", self.send().digest()))
        return super().validate()

    def test(self) -> Means:
        """As the toy."""
        seen.append(("test", self.send().digest()))
        return {"test_mse": super().validate()["mse"]}


@dataclass(frozen=True, kw_only=True)
class WatchedTask(ToyTask):
    """The toy with learners that note what they measure, and an evaluation that does, too."""

    def _on(self, data: Any, site: str) -> ToyLearner:
        return WatchedLearner(*data, seed=len(site))

    def evaluate(self, state: State, folder: Path) -> Means:
        """Note it."""
        seen.append(("evaluate", state.digest()))
        return {}


def federate(out: Path, **options: Any) -> RunDirectory:
    """All sites together."""
    task = WatchedTask(sites=SITES)
    return simulate(task, join=fedavg(), rounds=6, budget=BUDGET, out=out, runtime=QUIET, **options)


def alone(out: Path, **options: Any) -> RunDirectory:
    """One site."""
    task = WatchedTask(sites=SITES)
    return train_local(task, site="site-2", rounds=6, budget=BUDGET, out=out, **options)


def pooled(out: Path, **options: Any) -> RunDirectory:
    """All sites' data in one place."""
    task = WatchedTask(sites=SITES)
    return train_centralized(task, rounds=6, budget=BUDGET, match="steps", out=out, **options)


@pytest.mark.parametrize("train", [federate, alone, pooled])
@pytest.mark.parametrize("tested", ["last", "best"])
def test_only_the_chosen_model_sees_test_data_and_once(
    folder, train: Callable[..., RunDirectory], tested
) -> None:
    seen.clear()
    run = train(folder / "run", tested=tested)
    values = [e["metrics"]["mse"] for e in (run.record["initial"], *run.record["rounds"])]
    best = values.index(min(values))
    assert run.record["best"]["round"] == best
    assert 0 < best < 6
    expected = {
        "last": {"round": 6, "digest": run.record["digest"]},
        "best": {"round": best, "digest": run.record["best"]["digest"]},
    }[tested]
    assert run.record["tested"] == expected
    once = [digest for what, digest in seen if what == "test"]
    assert once == [expected["digest"]] * (3 if train is federate else 1)
    assert [digest for what, digest in seen if what == "evaluate"] == [expected["digest"]]
    # The choice is made when the last model is validated, too.
    first_test = [what for what, _ in seen].index("test")
    assert ("validate", run.record["digest"]) in seen[:first_test]
    assert run.record["metrics"]["test_mse"] == pytest.approx(values[expected["round"]], rel=1e-6)
    assert load_state(folder / "run" / "model.safetensors").digest() == run.record["digest"]


@dataclass(frozen=True, kw_only=True)
class InterruptedTask(WatchedTask):
    """Stopped when all is measured and nothing of it is written."""

    def evaluate(self, state: State, folder: Path) -> Means:
        """Stop."""
        raise KeyboardInterrupt


@pytest.mark.parametrize("train", [federate, alone])
def test_stopped_while_it_tests_it_goes_on_to_the_same_end(
    folder, monkeypatch, train: Callable[..., RunDirectory]
) -> None:
    whole = train(folder / "whole", tested="best").record
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "WatchedTask", InterruptedTask)
        with pytest.raises(KeyboardInterrupt):
            train(folder / "run", tested="best")
    assert not RunDirectory.open(folder / "run").finished
    again = train(folder / "run", tested="best", resume=True).record
    assert again["status"] == "finished"
    for key in ("digest", "best", "tested", "metrics"):
        assert again[key] == whole[key]


def test_a_sweep_over_sites_trains_each_alone(folder) -> None:
    words = ("experiment=toy", "federation.rounds=1", "site=site-1,site-2", "out=sweep", "-m")
    try:
        status = main(("local", *words))
    except SystemExit as end:
        status = int(str(end.code))
    assert status == 0
    runs = sorted((folder / "sweep").glob("*/run.json"))
    assert [record(file.parent)["config"]["site"] for file in runs] == ["site-1", "site-2"]


@pytest.mark.slow
def test_what_is_tested_changes_no_training(folder) -> None:
    last, best = (federate(folder / tested, tested=tested).record for tested in ("last", "best"))
    assert digests(folder / "last") == digests(folder / "best")
    assert best["best"] == last["best"]
    assert best["metrics"]["test_mse"] < last["metrics"]["test_mse"]


def test_the_best_average_is_tested_where_the_average_is_validated(folder) -> None:
    options: dict[str, Any] = {"ema": at_sync(decay=0.9), "tested": "best"}
    with pytest.raises(ValueError, match=r"federation\.tested=best tests what is validated"):
        federate(folder / "refused", **options)
    assert not (folder / "refused").exists()
    run = federate(folder / "run", validate="average", **options)
    assert run.record["tested"]["digest"] == run.record["best"]["digest"] != run.record["digest"]
    assert load_state(run.path / "best.safetensors").digest() == run.record["tested"]["digest"]
    assert run.record["metrics"]["test_mse"] == pytest.approx(run.record["best"]["value"])


def test_the_plan_says_which_model_is_tested(folder) -> None:
    words = (*TOY, "federation.tested=best", "join=diloco", "join.lr=1", "join.momentum=0.9")
    assert Experiment.from_config(compose(words)).tested == "best"
    assert main(["simulate", *words, "federation.rounds=6", "out=run"]) == 0
    found = json.loads((folder / "run" / "run.json").read_text())
    assert found["tested"] == {key: found["best"][key] for key in ("round", "digest")}
    assert found["tested"]["round"] < 6
    old = compose(TOY)
    del old["federation"]["tested"], old["site"]
    assert Experiment.from_config(old).tested == "last"
