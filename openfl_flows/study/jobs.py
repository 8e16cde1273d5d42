"""A study's runs as processes of the command line, several at once; what is done is not repeated.

A run is locked by the process that makes it, through a file that the process inherits. A study that
was killed may leave such a process at work: the study that is started next waits for it.
"""

import fcntl
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openfl_flows.ops.run import BEST, RunDirectory, Tested
from openfl_flows.study.plan import Cell

_LAST_LINES = 12

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a study: a cell with a seed.

    Attributes:
        cell: What is run.
        seed: With which seed.
        out: The study's folder.
        overrides: The whole command line but for seed and folder.
        rounds: Number of its last round.
        tested: Which of its models is tested.
        start: The run whose tested model it begins with, None where it begins by itself.
    """

    cell: Cell
    seed: int
    out: Path
    overrides: tuple[str, ...]
    rounds: int
    tested: Tested = "last"
    start: "Job | None" = None

    @property
    def name(self) -> str:
        """The cell and the seed in one word."""
        return f"{self.cell.name}-seed-{self.seed}"

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.out / "runs" / self.name

    @property
    def log(self) -> Path:
        """What the run printed."""
        return self.out / "logs" / f"{self.name}.log"

    @property
    def command(self) -> tuple[str, ...]:
        """The command that makes the run from nothing, after ``openfl-flows``."""
        initial = () if self.start is None else (f"initial={_quoted(self.start.model)}",)
        seed, out = f"seed={self.seed}", f"out={_quoted(self.folder)}"
        return (self.cell.command, *self.overrides, seed, *initial, out)

    @property
    def model(self) -> Path:
        """The model that the run tests, once it is finished."""
        return self.folder / (BEST if self.tested == "best" else "model.safetensors")

    def run(self) -> RunDirectory | None:
        """What there is of the run, None before it began."""
        return RunDirectory.open(self.folder) if (self.folder / "run.json").is_file() else None

    def done(self) -> bool:
        """Whether the run is finished, with all its rounds, and its report written."""
        run = self.run()
        return (
            run is not None
            and run.finished
            and run.round >= self.rounds
            and (self.folder / "report.html").is_file()
        )


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A run that ended otherwise than well.

    Attributes:
        job: The run.
        status: Exit status of its process; negative is the signal that ended it. None where it was
            not run.
        lines: The last ones that it printed, or why it was not run.
    """

    job: Job
    status: int | None
    lines: tuple[str, ...]


def make_runs(jobs: Sequence[Job], *, at_once: int, say: Say) -> tuple[Failure, ...]:
    """Make all runs that are not done, ``at_once`` at a time.

    One that fails stops no other but those that were to begin with its model.

    Args:
        jobs: The runs, with all that any of them begins with.
        at_once: Processes at once.
        say: Takes a line when a run starts or ends.

    Returns:
        The runs that failed.
    """
    failures: dict[str, Failure] = {}
    with ThreadPoolExecutor(at_once) as pool:
        try:
            at_work = {pool.submit(_make, job, say): job for job in jobs if job.start is None}
            while at_work:
                for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                    ended, failure = at_work.pop(future), future.result()
                    if failure is not None:
                        failures[ended.name] = failure
                    at_work |= {
                        pool.submit(_make, job, say): job
                        for job in jobs
                        if job.start is not None and job.start.name == ended.name
                    }
        except BaseException:
            # What is stopped by the keyboard begins nothing more.
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(failures[job.name] for job in jobs if job.name in failures)


def _make(job: Job, say: Say) -> Failure | None:
    with _locked(job, say) as lock:
        obstacle = None if job.start is None else _obstacle(job, job.start)
        if obstacle is not None:
            say(f"{job.name}: not run, {obstacle}")
            return Failure(job=job, status=None, lines=(obstacle,))
        if job.done():
            say(f"{job.name}: done before")
            return None
        arguments = _arguments(job)
        say(f"{job.name}: {'goes on' if 'resume=' in arguments[1] else 'starts'}")
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            ended = subprocess.run(
                [sys.executable, "-m", "openfl_flows", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                check=False,
            )
    if ended.returncode == 0:
        say(f"{job.name}: finished")
        return None
    say(f"{job.name}: failed with status {ended.returncode}")
    with job.log.open(errors="replace") as text:
        lines = tuple(line.rstrip() for line in deque(text, _LAST_LINES))
    return Failure(job=job, status=ended.returncode, lines=lines)


def _obstacle(job: Job, start: Job) -> str | None:
    """Why a job cannot begin with the model of another, or go on from it."""
    first = start.run()
    if first is None or not start.done():
        return f"{start.name}, whose model it begins with, is not finished"
    if not start.model.is_file():
        return f"{start.model}, which it begins with, is missing"
    run = job.run()
    if run is not None and run.record["initial"]["digest"] != first.tested_digest:
        return (
            f"{job.folder} began with another model than {start.name} has now: "
            "remove that folder to begin anew"
        )
    return None


def _arguments(job: Job) -> tuple[str, ...]:
    """The command that begins the run, or that goes on with it."""
    if job.run() is None:
        # A run that was stopped before it had a record left nothing to go on with.
        shutil.rmtree(job.folder, ignore_errors=True)
        return (*job.command, "runtime.quiet=true")
    goal = (f"federation.rounds={job.rounds}", "runtime.quiet=true")
    return (job.cell.command, f"resume={job.folder}", *goal)


@contextmanager
def _locked(job: Job, say: Say) -> Iterator[int]:
    """Hold a run's lock; a process that inherits the descriptor holds it as long as it lives."""
    path = job.out / "locks" / job.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{job.name}: another process is at work on it, waits")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _quoted(path: Path) -> str:
    """A path as a value in Hydra's grammar."""
    text = str(path)
    plain = re.fullmatch(r"[\w./-]+", text)
    return text if plain else "'" + text.replace("'", "\\'") + "'"
