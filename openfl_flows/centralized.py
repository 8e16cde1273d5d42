"""The centralized baseline: the same learner on the pooled data, without a federation."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from openfl_flows.joins.base import NOTHING
from openfl_flows.learners.base import Budget, Task
from openfl_flows.learners.data_report import report_data
from openfl_flows.learners.site import Site, check_local_state, release_learners
from openfl_flows.metrics.mean import values
from openfl_flows.ops.events import EventFiles
from openfl_flows.ops.memory import peak_rss_bytes
from openfl_flows.ops.movement import movement
from openfl_flows.ops.run import Checkpoint, RoundRecord, RunDirectory, SiteRound
from openfl_flows.state import State
from openfl_flows.update import Update

Match = Literal["samples", "steps"]


def train_centralized(
    task: Task,
    *,
    rounds: int,
    budget: Budget,
    out: Path | str,
    match: Match = "samples",
    threads: int = 1,
    initial: State | None = None,
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> RunDirectory:
    """Train on the data of all sites in as many stretches as the federation has rounds.

    Args:
        task: The model and its data at the sites.
        rounds: Stretches of training, each ending in a validation.
        budget: A site's budget for one round of the federation.
        out: The run directory.
        match: ``samples``: as many samples as all sites see together, so as many epochs.
            ``steps``: as many optimizer steps as one site takes, so a share of the samples.
        threads: Threads of the process.
        initial: The model to start from; the task's own where it is None.
        config: What the run was made from, for its record.
        resume: Go on from the last whole stretch of ``out``.

    Returns:
        The finished run, in the format of a simulation's.

    Raises:
        ValueError: As for a simulation.
    """
    torch.set_num_threads(threads)
    out = Path(out).absolute()
    table = task.composition()
    if resume:
        run = RunDirectory.resume(
            out, rounds=rounds, average=False, config=config or {}, kind="centralized"
        )
        check_local_state(run.site("centralized"), run.round)
        run.go_on()
    else:
        model = task.initial_state() if initial is None else initial
        run = RunDirectory.create(
            out,
            config=config or {},
            initial=Checkpoint(model, NOTHING, None),
            kind="centralized",
            best=task.best_metric,
        )
    report_data(task, table, out)
    site = Site(
        "centralized",
        task.pooled_learner,
        folder=run.site("centralized"),
        budget=_matched(budget, len(task.sites), match),
    )
    events = EventFiles(out / "tensorboard")
    for round_ in range(run.round + 1, rounds + 1):
        _train_stretch(run, site, round_, events)
    model = run.model()
    validated, tested = site.measure(model, run.round + 1)
    run.measured(values(validated))
    events.write_global(run.round, values(validated))
    release_learners()
    run.finish({**values(tested), **values(task.evaluate(model, out / "samples"))})
    return run


def _train_stretch(run: RunDirectory, site: Site, round_: int, events: EventFiles) -> None:
    began = time.monotonic()
    model = run.model()
    received = values(site.validate(model, round_))
    run.measured(received)
    events.write_global(round_ - 1, received)
    report = site.train(model, round_)
    trained = site.finish_round(round_)
    update = Update(site=site.name, state=trained, num_samples=report.num_samples)
    seconds = time.monotonic() - began
    part = SiteRound(
        num_samples=report.num_samples,
        num_steps=report.num_steps,
        metrics=values(report.metrics),
        received=received,
        seconds={"train": seconds},
        peak_rss_bytes=peak_rss_bytes(),
    )
    record = RoundRecord(
        round=round_,
        digest=trained.digest(),
        seconds=seconds,
        bytes_up=0,
        bytes_down=0,
        sites={site.name: part},
        movement=movement(model, [update]),
    )
    run.commit(record, Checkpoint(trained, NOTHING, None))
    events.write_sites(record)


def _matched(budget: Budget, sites: int, match: Match) -> Budget:
    if budget.steps is not None:
        return Budget(steps=budget.steps * (sites if match == "samples" else 1))
    assert budget.epochs is not None
    return Budget(epochs=budget.epochs / (1 if match == "samples" else sites))
