"""OpenFold3 trained by one process or by several: what both must give."""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from openfl_flows.data.structures.set import StructureSet
from openfl_flows.learners.base import Budget, Learner
from openfl_flows.learners.openfold3 import OpenFold3Data, OpenFold3Learner, OpenFold3Training
from openfl_flows.learners.ranks import led
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.models.openfold3.config import OpenFold3Config
from openfl_flows.models.openfold3.network import build, network_state
from openfl_flows.models.openfold3.samples import Crops
from openfl_flows.models.openfold3.trainer import Optimization
from openfl_flows.models.ranks import ALONE, Ranks
from openfl_flows.ops.files import save_state
from tests.openfold3_set import TINY

STEPS = 3


class Compared(OpenFold3Learner):
    """Says, with every validation, how many different models its processes have."""

    def __init__(self, *arguments: Any, ranks: Ranks = ALONE, **options: Any) -> None:
        super().__init__(*arguments, ranks=ranks, **options)
        self.ranks = ranks

    def validate(self) -> Means:
        digests = self.ranks.in_order(lambda: [self.send().digest()])
        return {**super().validate(), "models": Mean(len(set(digests)), 1)}


def recipe(folder: Path, accumulate: int) -> partial[OpenFold3Learner]:
    structures = ("1ubq", "2q2k", "7l39")
    training = OpenFold3Training(
        accumulate=accumulate,
        optimization=Optimization(lr=1e-3, warmup_steps=1),
        crops=Crops(tokens=24),
        validation_crops=3,
    )
    data = OpenFold3Data(
        structures=StructureSet.open(folder), train=structures, val=structures[:2], test=()
    )
    return partial(Compared, OpenFold3Config(**TINY), training, data, seed=3)


def trained(learner: Learner, steps: int, out: Path) -> dict[str, Any]:
    """Train, validate, and write the model beside what was said."""
    report = learner.train(Budget(steps=steps), lambda *_: None)
    said = {**report.metrics, **learner.validate()}
    save_state(out, learner.send())
    return {name: (mean.total, mean.count) for name, mean in said.items()}


def train_in_one_go(folder: Path, accumulate: int, out: Path) -> dict[str, Any]:
    learner = led(recipe(folder, accumulate))
    learner.receive(network_state(build(OpenFold3Config(**TINY), seed=0).model))
    return trained(learner, STEPS, out / "model.safetensors")


def train_with_a_restart(folder: Path, accumulate: int, out: Path) -> dict[str, Any]:
    learner = led(recipe(folder, accumulate))
    learner.receive(network_state(build(OpenFold3Config(**TINY), seed=0).model))
    learner.train(Budget(steps=STEPS - 1), lambda *_: None)
    torch.save(dict(learner.local_state()), out / "local.pt")
    model = learner.send()
    learner = led(recipe(folder, accumulate))
    learner.receive(model)
    learner.restore(torch.load(out / "local.pt", weights_only=True))
    return trained(learner, 1, out / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("accumulate", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--restart", action="store_true")
    options = vars(parser.parse_args())
    train = train_with_a_restart if options.pop("restart") else train_in_one_go
    (options["out"] / "said.json").write_text(json.dumps(train(**options)))
