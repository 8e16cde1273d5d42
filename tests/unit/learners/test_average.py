"""A site's own moving average: the aggregator's, to the last bit, and never sent."""

from pathlib import Path

import numpy as np
import pytest

from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate
from openfl_flows.joins.ema import at_sync, interpolated
from openfl_flows.joins.recipes import diloco
from openfl_flows.learners.average import SiteAverage
from openfl_flows.learners.base import Budget
from openfl_flows.learners.toy import ToyTask
from openfl_flows.metrics.mean import values
from openfl_flows.ops.files import load_state
from openfl_flows.ops.run import RunDirectory
from openfl_flows.state import State

TASK = ToyTask(sites=("a", "b"))
EMA = interpolated(decay=0.9)


def run(out: Path, rounds: int, *, resume: bool = False, validate="average") -> RunDirectory:
    return simulate(
        TASK,
        join=diloco(lr=0.8, momentum=0.1),
        rounds=rounds,
        budget=Budget(steps=3),
        out=out,
        ema=EMA,
        validate=validate,
        resume=resume,
    )


def test_every_site_computes_what_the_aggregator_does(tmp_path):
    two, three = run(tmp_path / "two", 2), run(tmp_path / "three", 3)
    for site in TASK.sites:
        own = load_state(three.site(site) / "average-00003.safetensors")
        assert own == two.average()
        assert own != two.model()


def test_what_is_validated_is_the_average(tmp_path):
    finished, other = run(tmp_path / "run", 3), run(tmp_path / "other", 3, validate="model")
    pooled = TASK.pooled_learner()
    pooled.receive(finished.average())
    expected = values(pooled.validate())["mse"]
    last = finished.record["rounds"][-1]["metrics"]["mse"]
    assert last == pytest.approx(expected, rel=1e-6)
    assert last != pytest.approx(other.record["rounds"][-1]["metrics"]["mse"], rel=1e-3)
    assert finished.model() == other.model()
    assert finished.best_model() == finished.average()


def test_a_resumed_run_has_the_same(tmp_path):
    whole, parts = run(tmp_path / "whole", 4), run(tmp_path / "parts", 2)
    parts = run(parts.path, 4, resume=True)
    assert parts.average() == whole.average()
    metrics = [[r["metrics"] for r in found.record["rounds"]] for found in (whole, parts)]
    assert metrics[0] == metrics[1]


def state(value: float) -> State:
    return State({"w": np.full(2, value, np.float32)})


def test_a_round_asked_for_again_gives_the_same(tmp_path):
    average = SiteAverage(tmp_path, at_sync(decay=0.5), 1)
    average.at(state(0.0), 1)
    first = average.at(state(1.0), 2)
    assert average.at(state(1.0), 2) == first
    np.testing.assert_allclose(first["w"], 0.5)


def test_rounds_that_a_site_missed_count_as_one(tmp_path):
    average = SiteAverage(tmp_path, at_sync(decay=0.5), 1)
    average.at(state(0.0), 1)
    np.testing.assert_allclose(average.at(state(1.0), 4)["w"], 1 - 0.5**3)


@pytest.mark.parametrize(
    ("ema", "steps", "epochs"), [({"name": "none"}, 5, None), ({"name": "at_sync"}, None, 1)]
)
def test_a_plan_must_make_the_average_computable(ema, steps, epochs):
    options = {"decay": 0.9} if ema["name"] != "none" else {}
    config = {
        "model": {"task": "openfl_flows.learners.toy:ToyTask", "flow": "x:y"},
        "data": {}, "partition": {}, "runtime": {}, "seed": 0,
        "join": {"name": "fedavg"}, "ema": {**ema, **options},
        "federation": {
            "sites": 2, "rounds": 1, "steps": steps, "epochs": epochs, "match": "samples",
            "validate": "average",
        },
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"federation\.validate=average needs"):
        Experiment.from_config(config)
