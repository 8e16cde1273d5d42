"""A learner that several processes train, and the command of a site that drives it.

Its sums are of small integers, so that they do not depend on who adds what.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openfl_flows.atomic import write_json
from openfl_flows.cli.errors import reporting_errors
from openfl_flows.learners.base import Budget, LocalState, Progress, TrainReport
from openfl_flows.learners.ranks import led
from openfl_flows.learners.site import Site
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.models.ranks import ALONE, Ranks
from openfl_flows.ops.files import load_state, save_state
from openfl_flows.state import Spec, State

SIZE, PER_STEP, STEPS = 50_000, 4, 3


class Descent:
    """Steps along sums of numbered samples, with momentum.

    Args:
        fail: ``RANK:STEP:KIND``: raise an error of that kind at that process in that step.
        pause: Seconds of each sample.
        ranks: Who takes the steps.
    """

    def __init__(self, *, fail: str = "", pause: float = 0.0, ranks: Ranks = ALONE) -> None:
        self.ranks, self.fail, self.pause = ranks, fail, pause
        self.weights, self.momentum = torch.zeros(SIZE), torch.zeros(SIZE)
        self.step = 0

    @property
    def spec(self) -> Spec:
        return self.send().spec

    def receive(self, state: State) -> None:
        if state["weights"].shape != (SIZE,):
            raise ValueError("another model")
        self.weights.copy_(torch.from_numpy(state["weights"].copy()))

    def send(self) -> State:
        return State({"weights": self.weights.numpy().copy()})

    def train(self, budget: Budget, progress: Progress) -> TrainReport:
        steps = budget.num_steps(1)
        losses: list[float] = []
        for step in range(steps):
            numbers = range(self.step * PER_STEP, (self.step + 1) * PER_STEP)
            total = torch.zeros(SIZE)
            losses += self.ranks.in_order(partial(self._samples, self.ranks.share(numbers), total))
            with self.ranks.summing():
                self.ranks.summed(total)
            self.momentum = 0.5 * self.momentum + total
            self.weights -= 0.1 * self.momentum
            self.step += 1
            progress(step + 1, steps, losses[-1])
        metrics = {"loss": Mean(sum(losses), len(losses))}
        return TrainReport(metrics=metrics, num_samples=len(losses), num_steps=steps)

    def validate(self) -> Means:
        names = self.ranks.share(range(5))
        found = self.ranks.in_order(lambda: [float(self.weights[n]) * 0.1 * n for n in names])
        return {"value": Mean(sum(found), len(found))}

    def test(self) -> Means:
        return self.validate()

    def local_state(self) -> LocalState:
        return {"momentum": self.momentum, "step": self.step}

    def restore(self, local_state: LocalState) -> None:
        self.momentum, self.step = local_state["momentum"], local_state["step"]

    def _samples(self, numbers: range, total: torch.Tensor) -> list[float]:
        if self.fail:
            rank, step, kind = self.fail.split(":")
            if (int(rank), int(step)) == (self.ranks.rank, self.step):
                raise {"value": ValueError, "type": TypeError}[kind]("no such crystal")
        for number in numbers:
            time.sleep(self.pause)
            total += torch.arange(SIZE) % 7 + number
        return [0.1 * number for number in numbers]


def drive(out: Path, rounds: int, **options: Any) -> list[dict[str, Any]]:
    """Train rounds at a site, going on where it was; the learner is built anew in each."""
    site = Site(
        "north", lambda: led(partial(Descent, **options)), folder=out, budget=Budget(steps=STEPS)
    )
    record = out / "said.json"
    said: list[dict[str, Any]] = json.loads(record.read_text()) if record.is_file() else []
    model = State({"weights": np.zeros(SIZE, np.float32)})
    for round_ in range(1, rounds + 1):
        file = out / f"model-{round_}.safetensors"
        if round_ > len(said):
            report, update = site.complete_round(model, round_)
            validated = site.validate_completed(round_)
            save_state(file, update)
            said.append(
                {
                    "digest": update.digest(),
                    "loss": report.metrics["loss"].total,
                    "value": validated["value"].total,
                }
            )
            write_json(record, said)
        model = load_state(file)
    return said


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("rounds", type=int)
    parser.add_argument("--fail", default="")
    parser.add_argument("--pause", type=float, default=0.0)
    options = parser.parse_args()

    def run() -> None:
        options.out.mkdir(parents=True, exist_ok=True)
        said = drive(options.out, options.rounds, fail=options.fail, pause=options.pause)
        sys.stdout.write(json.dumps(said))

    raise SystemExit(reporting_errors(run))
