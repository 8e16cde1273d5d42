"""One optimizer step on a site's own data, in a process of its own: what it takes, and if it can.

The process is a copy of this one, so nothing has to be imported again; it is gone afterwards, and
if the system ends it for want of memory, only it.
"""

import hashlib
import importlib
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from openfl_flows.atomic import write_json
from openfl_flows.experiment import Experiment, check
from openfl_flows.learners.base import Budget
from openfl_flows.ops.memory import peak_rss_bytes
from openfl_flows.ops.parent import end_with_parent


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a dry step has shown.

    Attributes:
        load_seconds: Reading the data and building the learner.
        seconds: The step, with all that a first one has to prepare.
        grown_bytes: Memory at its peak, beyond what the process had before.
        model_bytes: Of the model.
        num_samples: Samples in the step.
        num_rejected: Samples of the site that cannot be used.
        spec: Digest of names, shapes and element types of the model.
        frozen: Digest of the tensors that never travel, and so must be the same everywhere.
        finite: Whether all that was measured in the step is a finite number.
    """

    load_seconds: float
    seconds: float
    grown_bytes: int
    model_bytes: int
    num_samples: int
    num_rejected: int
    spec: str
    frozen: str
    finite: bool


class StepError(ValueError):
    """A dry step that failed.

    Args:
        message: Why, in one line.
        of_data: Whether the data could not be used; else the step itself failed.
    """

    def __init__(self, message: str, *, of_data: bool) -> None:
        super().__init__(message)
        self.of_data = of_data


def dry_step(experiment: Experiment, site: str, folder: Path, rejected: Path) -> Step:
    """Build the learner of a site on its data and train one step, in this process.

    Args:
        experiment: The plan.
        site: Name of the site.
        folder: Its data.
        rejected: Where samples that cannot be used are listed.

    Raises:
        StepError: The data cannot be used, or the step fails.
    """
    before, began = peak_rss_bytes(), time.monotonic()
    try:
        task = experiment.task.at_site(site, folder)
        learner = task.learner(site)
        num_rejected = task.write_rejected(rejected)
    except (ValueError, OSError) as error:
        raise StepError(str(error), of_data=True) from None
    loaded = time.monotonic()
    try:
        initial = experiment.initial_state()
        learner.receive(initial)
        prepared = time.monotonic()
        report = learner.train(Budget(steps=1), lambda step, num_steps, loss: None)
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        raise StepError(f"{type(error).__name__}: {error}", of_data=False) from None
    ended = time.monotonic()
    return Step(
        load_seconds=loaded - began,
        seconds=ended - prepared,
        grown_bytes=max(0, peak_rss_bytes() - before),
        model_bytes=sum(array.nbytes for array in initial.values()),
        num_samples=report.num_samples,
        num_rejected=num_rejected,
        spec=initial.spec.digest(),
        frozen=initial.kept().digest(),
        finite=all(math.isfinite(mean.value) for mean in report.metrics.values()),
    )


def apart(look: Callable[[], Step]) -> Step:
    """Have ``look`` looked at in a copy of this process; in itself where it may have no copy.

    Raises:
        StepError: It failed there, or the process was ended.
    """
    # An optimizer imports this when it is made, which takes seconds; so does this process later.
    importlib.import_module("torch._dynamo")
    begun = importlib.import_module("torch").cuda.is_initialized()
    assert not begun, "a copy of a process that has begun to use a GPU cannot use it"
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, look, os.getpid()), name="dry-step")
    try:
        process.start()
    except OSError:
        # An enclave can start no other process.
        here.close()
        there.close()
        return look()
    there.close()
    try:
        answer: dict[str, object] | None = here.recv()
    except EOFError:
        answer = None
    finally:
        here.close()
        process.join()
    if answer is None:
        status = process.exitcode or 0
        why = (
            f"its process was ended by signal {-status}, as the system does where memory is short"
            if status < 0
            else f"its process ended with status {status}"
        )
        raise StepError(why, of_data=False)
    if "error" in answer:
        raise StepError(str(answer["error"]), of_data=bool(answer["of_data"]))
    step: Step = check("step", Step, answer)
    return step


def kept(file: Path, key: str, look: Callable[[], Step]) -> Step:
    """The step that ``file`` has under ``key``; else ``look`` apart, and keep it.

    Raises:
        StepError: It failed.
    """
    if file.is_file():
        try:
            found = json.loads(file.read_text())
            if found["key"] == key:
                step: Step = check(str(file), Step, found["step"])
                return step
        except (ValueError, TypeError, KeyError):
            # Nothing but the time that it saves is lost.
            pass
    taken = apart(look)
    write_json(file, {"key": key, "step": asdict(taken)})
    return taken


def once(look: Callable[[], Step]) -> Callable[[], Step]:
    """``look``, which is called once: what it returned or raised then, it does again.

    Later the data are in memory, and the process may use a GPU, which a copy of it could not.
    """
    taken: list[Step | StepError] = []

    def step() -> Step:
        if not taken:
            try:
                taken.append(look())
            except StepError as error:
                taken.append(error)
        if isinstance(taken[0], StepError):
            raise taken[0]
        return taken[0]

    return step


def key_of(plan: str, versions: Mapping[str, str], folder: Path) -> str:
    """What a dry step depends on: plan, versions, and the data files' names, sizes and times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    stats = [(str(path.relative_to(folder)), path.stat()) for path in files]
    rows = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return hashlib.sha256(json.dumps([plan, dict(versions), rows]).encode()).hexdigest()


def _answer(connection: Connection, look: Callable[[], Step], parent: int) -> None:
    end_with_parent()
    if os.getppid() != parent:
        return
    try:
        answer: dict[str, object] = asdict(look())
    except StepError as error:
        answer = {"error": str(error), "of_data": error.of_data}
    connection.send(answer)
    connection.close()
