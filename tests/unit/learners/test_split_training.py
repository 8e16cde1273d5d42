"""Training in two parts is training: what steps taken ahead of a fragment rely on."""

from typing import Any

import pytest
import torch

from openfl_flows.data.structures.select import StructureSelection
from openfl_flows.learners.base import Budget, Learner
from openfl_flows.learners.openfold3 import OpenFold3Training
from openfl_flows.learners.openfold3_task import OpenFold3Task
from openfl_flows.learners.toy import ToyTask
from openfl_flows.models.esm.config import Lora
from openfl_flows.models.openfold3.config import OpenFold3Config
from openfl_flows.models.openfold3.samples import Crops
from openfl_flows.models.openfold3.trainer import Optimization
from openfl_flows.state import State
from tests.openfold3_set import TINY
from tests.tiny import digress
from tests.tiny_esm import esm


def silent(step: int, num_steps: int, loss: float) -> None:
    pass


def check_in_parts(whole: Learner, cut: Learner, initial: State, first: int, steps: int) -> None:
    """``cut`` sends and receives its own model after ``first`` steps; ``whole`` trains through."""
    for learner in (whole, cut):
        # Not the first steps of all: the optimizers have moments.
        learner.receive(initial)
        learner.train(Budget(steps=1), silent)
    at_once = whole.train(Budget(steps=steps), silent)
    before = cut.train(Budget(steps=first), silent)
    cut.receive(cut.send())
    after = cut.train(Budget(steps=steps - first), silent)
    assert cut.send() == whole.send()
    assert_same(cut.local_state(), whole.local_state())
    assert before.num_steps + after.num_steps == at_once.num_steps == steps
    assert before.num_samples + after.num_samples == at_once.num_samples
    assert before.metrics.keys() | after.metrics.keys() == at_once.metrics.keys()
    for name, mean in at_once.metrics.items():
        parts = [part.metrics[name] for part in (before, after) if name in part.metrics]
        assert sum(part.count for part in parts) == mean.count
        # Sums of other partial sums.
        assert sum(part.total for part in parts) == pytest.approx(mean.total, rel=1e-12)


def assert_same(one: Any, other: Any) -> None:
    """Equal to the last bit, whatever is nested in whatever."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("first", [1, 3])
def test_toy(first):
    task = ToyTask(sites=("a",), padding=3)
    check_in_parts(task.learner("a"), task.learner("a"), task.initial_state(), first, 5)


def test_digress_across_an_epoch():
    task = digress()
    learners = [task.learner("site-1") for _ in range(2)]
    check_in_parts(*learners, task.initial_state(), 2, 5)


@pytest.mark.parametrize("mode", ["frozen", "lora", "full"])
def test_esm_across_an_epoch(tmp_path, mode):
    network = {"mode": mode, "dropout": 0.2, "lora": Lora(dropout=0.2)}
    options = {"network": network, "training": {"warmup_steps": 4}}
    task = esm(tmp_path / "proteins.fasta", sites=("a",), **options)
    check_in_parts(task.learner("a"), task.learner("a"), task.initial_state(), 3, 6)


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_openfold3(accumulate):
    training = OpenFold3Training(
        accumulate=accumulate,
        optimization=Optimization(lr=1e-3, warmup_steps=1),
        crops=Crops(tokens=16),
    )
    task = OpenFold3Task(
        sites=("a",),
        network=OpenFold3Config(**TINY),
        training=training,
        data=StructureSelection(split=None, held_out=2),
        predictions=0,
    )
    check_in_parts(task.learner("a"), task.learner("a"), task.initial_state(), 1, 2)
