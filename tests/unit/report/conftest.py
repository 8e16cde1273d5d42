"""Runs made through the run directory itself, of numbers that a test can look for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openfl_flows.ops.rounds import Checkpoint, RoundRecord, SiteRound
from openfl_flows.ops.run import RunDirectory
from openfl_flows.state import State

MakeRun = Callable[..., Path]


def checkpoint(value: float) -> Checkpoint:
    state = State({"w": np.full(3, value, np.float32)})
    return Checkpoint(model=state, join_state=State({}), average=None)


def site_round(step: float) -> SiteRound:
    return SiteRound(
        num_samples=1234,
        num_steps=17,
        metrics={"train_loss": 3.5 - 0.1 * step, "nll": 84.0 - step},
        received={"nll": 86.0 - step},
        seconds={"receive": 0.02, "train": 11.25},
        peak_rss_bytes=3 * 2**40,
    )


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(
        folder: str = "run",
        *,
        config: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        sites: tuple[str, ...] = ("site-a", "site-b"),
        rounds: int = 2,
        finish: bool = True,
    ) -> Path:
        path = tmp_path / folder
        run = RunDirectory.create(path, config=config or {"name": "demo"}, initial=checkpoint(0))
        run.measured({"nll": 130.25})
        for round_ in range(1, rounds + 1):
            made = checkpoint(round_)
            record = RoundRecord(
                round=round_,
                digest=made.model.digest(),
                seconds=26.5,
                bytes_up=2 * 2**20,
                bytes_down=5 * 2**20,
                sites={site: site_round(round_ + 0.2 * i) for i, site in enumerate(sites)},
            )
            run.commit(record, made)
            run.measured({"nll": 85.0 - round_, "elbo": 30.0 - round_})
        run.write()
        if finish:
            run.finish({"test_nll": 74.4321} if metrics is None else metrics)
        return path

    return make
