"""Baselines without a federation: the same learner on the pooled data, or on one site's own."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from openfl_flows.joins.base import NOTHING
from openfl_flows.learners.base import Budget, Task, check_site
from openfl_flows.learners.data_report import report_data
from openfl_flows.learners.site import LearnerFactory, Site, check_local_state, release_learners
from openfl_flows.metrics.mean import values
from openfl_flows.ops.events import EventFiles
from openfl_flows.ops.memory import peak_rss_bytes
from openfl_flows.ops.movement import movement
from openfl_flows.ops.rounds import Checkpoint, RoundRecord, SiteRound
from openfl_flows.ops.run import Kind, RunDirectory, Tested
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
    tested: Tested = "last",
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
        tested: Which model is measured on test data: the last one, or the best.
        initial: The model to start from; the task's own where it is None.
        config: What the run was made from, for its record.
        resume: Go on from the last whole stretch of ``out``.

    Returns:
        The finished run, in the format of a simulation's.

    Raises:
        ValueError: As for a simulation.
    """
    trainee = _Trainee(
        kind="centralized",
        name="centralized",
        factory=task.pooled_learner,
        budget=_matched(budget, len(task.sites), match),
    )
    return _train(
        task, trainee, rounds=rounds, out=out, threads=threads, tested=tested, initial=initial,
        config=config or {}, resume=resume,
    )  # fmt: skip


def train_local(
    task: Task,
    *,
    site: str,
    rounds: int,
    budget: Budget,
    out: Path | str,
    threads: int = 1,
    tested: Tested = "last",
    initial: State | None = None,
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> RunDirectory:
    """Train at one site alone: as in the federation, but that nothing is sent or received.

    Args:
        task: The model and its data at the sites.
        site: The site, whose data the model is trained, validated and tested on.
        rounds: Stretches of training, each ending in a validation.
        budget: The site's budget for one round.
        out: The run directory.
        threads: Threads of the process.
        tested: Which model is measured on test data: the last one, or the best.
        initial: The model to start from; the task's own where it is None. With that of a finished
            federation this is fine-tuning after it.
        config: What the run was made from, for its record.
        resume: Go on from the last whole stretch of ``out``.

    Returns:
        The finished run, in the format of a simulation's.

    Raises:
        ValueError: The site is unknown; else as for a simulation.
    """
    check_site(site, task.sites)
    trainee = _Trainee(kind="local", name=site, factory=lambda: task.learner(site), budget=budget)
    return _train(
        task, trainee, rounds=rounds, out=out, threads=threads, tested=tested, initial=initial,
        config=config or {}, resume=resume,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Trainee:
    """Who trains alone: on which data, and how long in each round."""

    kind: Kind
    name: str
    factory: LearnerFactory
    budget: Budget


def _train(
    task: Task,
    trainee: _Trainee,
    *,
    rounds: int,
    out: Path | str,
    threads: int,
    tested: Tested,
    initial: State | None,
    config: Mapping[str, Any],
    resume: bool,
) -> RunDirectory:
    torch.set_num_threads(threads)
    out = Path(out).absolute()
    table = task.composition()
    if resume:
        run = RunDirectory.resume(
            out, rounds=rounds, average=False, config=config, kind=trainee.kind
        )
        check_local_state(run.site(trainee.name), run.round)
        run.go_on()
    else:
        model = task.initial_state() if initial is None else initial
        run = RunDirectory.create(
            out,
            config=config,
            initial=Checkpoint(model, NOTHING, None),
            kind=trainee.kind,
            best=task.best_metric,
        )
    report_data(task, table, out)
    site = Site(trainee.name, trainee.factory, folder=run.site(trainee.name), budget=trainee.budget)
    events = EventFiles(out / "tensorboard")
    for round_ in range(run.round + 1, rounds + 1):
        _train_stretch(run, site, round_, events)
    metrics = _evaluate(run, site, task, tested, events)
    release_learners()
    run.finish(metrics, tested=tested)
    return run


def _evaluate(
    run: RunDirectory, site: Site, task: Task, tested: Tested, events: EventFiles
) -> dict[str, float]:
    """Validate the last model and test the chosen one."""
    of_last = tested == "last"
    validated, means = site.measure(run.model(), run.round + 1, test=of_last)
    run.measured(values(validated))
    events.write_global(run.round, values(validated))
    model = run.model_to_test(tested)
    if not of_last:
        _, means = site.measure(model, run.round + 1, validate=False)
    return {**values(means), **values(task.evaluate(model, run.path / "samples"))}


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
