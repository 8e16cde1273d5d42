"""Run a federation on one machine, or on a Ray cluster, through OpenFL's local runtime."""

import contextlib
import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import torch
from openfl.experimental.workflow.interface import Aggregator, Collaborator, FLSpec
from openfl.experimental.workflow.runtime import LocalRuntime
from ray.exceptions import RayTaskError

from openfl_flows.codecs.base import Compression
from openfl_flows.codecs.recipes import AS_IT_IS
from openfl_flows.experiment import Experiment, Runtime, Validate, check_tested, resolve
from openfl_flows.flows.evaluation import EvaluationFlow
from openfl_flows.flows.federated import FederatedFlow
from openfl_flows.flows.progress import ProgressBars
from openfl_flows.joins.base import Join
from openfl_flows.joins.ema import Ema
from openfl_flows.joins.streaming import streaming as in_fragments
from openfl_flows.learners.base import Budget, Task
from openfl_flows.learners.data_report import report_data
from openfl_flows.learners.fragments import PLAIN, Streaming
from openfl_flows.learners.site import Site, check_local_state, release_learners
from openfl_flows.metrics.mean import values
from openfl_flows.ops.aggregation import Aggregation, initial_checkpoint
from openfl_flows.ops.events import EventFiles
from openfl_flows.ops.run import RunDirectory, Tested
from openfl_flows.privacy.protection import OPEN, Protection
from openfl_flows.state import State


def simulate(
    task: Task,
    *,
    join: Join,
    rounds: int,
    budget: Budget,
    out: Path | str,
    ema: Ema | None = None,
    validate: Validate = "model",
    tested: Tested = "last",
    initial: State | None = None,
    compression: Compression = AS_IT_IS,
    streaming: Streaming = PLAIN,
    protection: Protection = OPEN,
    flow: type[FederatedFlow] = FederatedFlow,
    runtime: Runtime | None = None,
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> RunDirectory:
    """Train ``task`` federatedly and leave a run directory.

    Args:
        task: The model and its data at the sites.
        join: How updates become the next global model, e.g. ``diloco(lr=0.8, momentum=0.1)``.
        rounds: Number of the last round.
        budget: How long each site trains per round.
        out: The run directory: new, or an unfinished run's with ``resume``.
        ema: Moving average of the global model at every sync.
        validate: What sites validate each round: the global model or its moving average, which
            needs a budget of steps.
        tested: Which model is measured on test data: the last one, with its moving average, or the
            one with the best validation.
        initial: The model to start from; the task's own where it is None.
        compression: How models travel; what a lossy codec loses is lost here, too.
        streaming: How the model is synchronised in fragments.
        protection: How updates are hidden. Masks, which cancel, are left out; noise is not.
        flow: The OpenFL flow.
        runtime: Where it runs; one process and one thread by default.
        config: What the run was made from, for its record.
        resume: Go on from the last whole round of ``out``, bit for bit as if never stopped.

    Returns:
        The finished run.

    Raises:
        ValueError: The data or the options cannot be used, ``out`` is taken, a checkpoint is
            corrupt, or an update was refused.
    """
    runtime = runtime or Runtime()
    out = Path(out).absolute()
    if rounds < 1:
        raise ValueError(f"federation.rounds={rounds}, expected at least 1")
    check_tested(tested, ema, validate)
    streaming.check(budget, rounds)
    join = in_fragments(join, streaming.fragments)
    torch.set_num_threads(runtime.threads)
    run = _open(task, join, ema, validate, initial, out, config or {}, resume, rounds)
    site_average = ema if validate == "average" else None
    parties = (
        task, join, ema, site_average, out, budget, runtime, compression, streaming, protection,
    )  # fmt: skip
    with _log_of_steps(out), _backend(runtime) as start:
        if run.round < rounds:
            _train(start(*parties), flow, run, rounds, runtime)
            run = RunDirectory.open(out)
        # A new one: OpenFL copies a flow with its runtime, and a used one holds open files.
        local_runtime = start(*parties)
        metrics = _evaluate(local_runtime, run, task, tested)
    release_learners()
    run.finish(metrics, tested=tested)
    return run


def simulate_experiment(
    experiment: Experiment, out: Path | str, *, resume: bool = False
) -> RunDirectory:
    """Simulate what a plan describes; see :func:`simulate`."""
    return simulate(
        experiment.task,
        join=experiment.join,
        rounds=experiment.rounds,
        budget=experiment.budget,
        out=out,
        ema=experiment.ema,
        validate=experiment.validate,
        tested=experiment.tested,
        initial=None if resume else experiment.initial_state(),
        compression=experiment.compression,
        streaming=experiment.streaming,
        protection=experiment.protection,
        flow=resolve(experiment.flow),
        runtime=experiment.runtime,
        config=experiment.config,
        resume=resume,
    )


def _open(
    task: Task,
    join: Join,
    ema: Ema | None,
    validate: Validate,
    initial: State | None,
    out: Path,
    config: Mapping[str, Any],
    resume: bool,
    rounds: int,
) -> RunDirectory:
    table = task.composition()
    if resume:
        run = RunDirectory.resume(out, rounds=rounds, average=ema is not None, config=config)
        for site in task.sites:
            check_local_state(run.site(site), run.round)
        run.go_on()
    else:
        model = task.initial_state() if initial is None else initial
        first = initial_checkpoint(model, join, average=ema is not None)
        run = RunDirectory.create(
            out, config=config, initial=first, best=task.best_metric, weights=validate
        )
    # A kill may have come between the record and these two.
    report_data(task, table, out)
    return run


def _train(
    local_runtime: LocalRuntime,
    flow: type[FederatedFlow],
    run: RunDirectory,
    rounds: int,
    runtime: Runtime,
) -> None:
    first_round = run.round + 1
    bars = ProgressBars(
        run.path,
        sites=tuple(local_runtime.collaborators),
        first_round=first_round,
        rounds=rounds,
        quiet=runtime.quiet,
    )
    spec = flow(run.model(), first_round=first_round, rounds=rounds)
    with bars:
        _run(spec, local_runtime)


def _evaluate(
    local_runtime: LocalRuntime, run: RunDirectory, task: Task, tested: Tested
) -> dict[str, float]:
    """Measure the final model, and its moving average where there is one; or the best model."""
    if tested == "best":
        return _evaluate_best(local_runtime, run, task)
    model = run.model()
    measured = _measure(local_runtime, model, run.round + 1)
    validated = values(measured.validated)
    drawn = task.evaluate(model, run.path / "samples")
    metrics = {**values(measured.tested), **values(drawn)}
    average = run.average()
    if average is not None:
        measured = _measure(local_runtime, average, run.round + 1)
        if run.validates_average:
            validated = values(measured.validated)
        drawn = task.evaluate(average, run.path / "samples_ema")
        found = {**values(measured.tested), **values(drawn)}
        metrics |= {f"ema_{name}": value for name, value in found.items()}
    _note_validation(run, validated)
    return metrics


def _evaluate_best(local_runtime: LocalRuntime, run: RunDirectory, task: Task) -> dict[str, float]:
    """Validate what the last round made, then test the best of all rounds, and nothing else."""
    last = run.average() if run.validates_average else run.model()
    assert last is not None
    measured = _measure(local_runtime, last, run.round + 1, on_test=False)
    _note_validation(run, values(measured.validated))
    model = run.model_to_test("best")
    measured = _measure(local_runtime, model, run.round + 1, on_validation=False)
    return {**values(measured.tested), **values(task.evaluate(model, run.path / "samples"))}


def _note_validation(run: RunDirectory, validated: Mapping[str, float]) -> None:
    run.measured(validated)
    EventFiles(run.path / "tensorboard").write_global(run.round, validated)


def _measure(
    local_runtime: LocalRuntime, model: State, next_round: int, **parts: bool
) -> EvaluationFlow:
    flow = EvaluationFlow(model, next_round=next_round, **parts)
    _run(flow, local_runtime)
    return flow


def _run(flow: FLSpec, local_runtime: LocalRuntime) -> None:
    """Run a flow, then let go of its clones, which OpenFL keeps, and of its own tasks' cycle.

    OpenFL collects garbage at every step. What was there before the flow is none, and looking at
    all imported modules again and again would be most of what a short round costs.
    """
    flow.runtime = local_runtime
    gc.freeze()
    try:
        flow.run()
    except RayTaskError as error:
        # What went wrong, without the traceback of another process in its message.
        raise error.cause from None
    finally:
        gc.unfreeze()
    FLSpec._reset_clones()
    flow.execute_task_args = None


def _local_runtime(
    task: Task,
    join: Join,
    ema: Ema | None,
    site_average: Ema | None,
    out: Path,
    budget: Budget,
    runtime: Runtime,
    compression: Compression,
    streaming: Streaming,
    protection: Protection,
) -> LocalRuntime:
    collaborators = [
        Collaborator(
            name=site,
            num_cpus=0,
            private_attributes_callable=_site_attributes,
            task=task,
            site=site,
            out=out,
            budget=budget,
            runtime=runtime,
            ema=site_average,
            compression=compression,
            streaming=streaming,
            protection=protection,
        )
        for site in task.sites
    ]
    aggregator = Aggregator(
        num_cpus=0,
        private_attributes_callable=_aggregator_attributes,
        out=out,
        rule=join,
        ema=ema,
        compression=compression,
        fragments=streaming.fragments,
        secure=protection.summed,
        threads=runtime.threads,
    )
    actors = {"num_actors": runtime.ray_actors or len(collaborators)}
    return LocalRuntime(
        aggregator=aggregator,
        collaborators=collaborators,
        backend=runtime.backend,
        **(actors if runtime.backend == "ray" else {}),
    )


def _site_attributes(
    task: Task,
    site: str,
    out: Path,
    budget: Budget,
    runtime: Runtime,
    ema: Ema | None,
    compression: Compression,
    streaming: Streaming,
    protection: Protection,
) -> dict[str, Site]:
    torch.set_num_threads(runtime.threads)
    return {
        "site": Site(
            site,
            lambda: task.learner(site),
            folder=out / "sites" / site,
            budget=budget,
            resident=runtime.resident_sites,
            average=ema,
            compression=compression,
            streaming=streaming,
            protection=protection,
            sites=len(task.sites),
        )
    }


def _aggregator_attributes(
    out: Path,
    rule: Join,
    ema: Ema | None,
    compression: Compression,
    fragments: int,
    secure: bool,
    threads: int,
) -> dict[str, Aggregation]:
    torch.set_num_threads(threads)
    run = RunDirectory.open(out)
    return {"aggregation": Aggregation(run, rule, ema, compression, fragments, secure)}


@contextlib.contextmanager
def _backend(runtime: Runtime) -> Iterator[Any]:
    """Give the function that starts a local runtime; shut down what Ray we started."""
    if runtime.backend == "single_process":
        yield _local_runtime
        return
    started = not ray.is_initialized()
    if started:
        ray.init(address=runtime.ray_address, log_to_driver=False, include_dashboard=False)
    try:
        yield _local_runtime
    finally:
        if started:
            ray.shutdown()


@contextlib.contextmanager
def _log_of_steps(out: Path) -> Iterator[None]:
    """Keep what OpenFL prints at every step in a file, away from the console."""
    with (out / "openfl.log").open("a") as log, contextlib.redirect_stdout(log):
        yield
