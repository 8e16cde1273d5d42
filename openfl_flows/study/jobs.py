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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from openfl_flows.ops.run import RunDirectory
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
    """

    cell: Cell
    seed: int
    out: Path
    overrides: tuple[str, ...]
    rounds: int

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
        return (self.cell.command, *self.overrides, f"seed={self.seed}", f"out={self._quoted}")

    @property
    def _quoted(self) -> str:
        """The folder as a value in Hydra's grammar."""
        text = str(self.folder)
        plain = re.fullmatch(r"[\w./-]+", text)
        return text if plain else "'" + text.replace("'", "\\'") + "'"

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
        status: Exit status of its process; negative is the signal that ended it.
        lines: The last ones that it printed.
    """

    job: Job
    status: int
    lines: tuple[str, ...]


def make_runs(jobs: Sequence[Job], *, at_once: int, say: Say) -> tuple[Failure, ...]:
    """Make all runs that are not done, ``at_once`` at a time; one that fails stops no other.

    Args:
        jobs: The runs.
        at_once: Processes at once.
        say: Takes a line when a run starts or ends.

    Returns:
        The runs that failed.
    """
    with ThreadPoolExecutor(at_once) as pool:
        try:
            ends = list(pool.map(lambda job: _make(job, say), jobs))
        except BaseException:
            # What is stopped by the keyboard begins nothing more.
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(end for end in ends if end is not None)


def _make(job: Job, say: Say) -> Failure | None:
    with _locked(job, say) as lock:
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
