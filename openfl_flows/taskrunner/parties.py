"""The parties of a federation as processes on this machine: all end together, none is left over."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from openfl_flows.ops.parent import end_with_parent

LOG = Path("logs") / "fx.log"
"""Where a party's output goes, in its folder."""

POLL_SECONDS = 0.2
STOP_SECONDS = 5.0
"""How long a process may take to end once asked to."""
LEAVE_SECONDS = 60.0
"""How long sites may take to end once the aggregator has: it has told all of them to."""


@dataclass(frozen=True, kw_only=True)
class Party:
    """One party: its workspace and the command that makes it take part.

    Attributes:
        name: Of the site, or ``aggregator``.
        folder: Its workspace.
        arguments: Of ``fx``.
    """

    name: str
    folder: Path
    arguments: tuple[str, ...]

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / LOG


class Process(Protocol):
    """A running ``fx``, in a process group of its own."""

    @property
    def pid(self) -> int:
        """Number of the process and of its group."""
        ...

    def poll(self) -> int | None:
        """Exit status, None while it runs; negative is the number of the signal that ended it."""
        ...


Environment = Mapping[str, str]

Launch = Callable[[Path, Sequence[str], Environment], Process]
"""``launch(folder, arguments, environment)`` starts ``fx`` in ``folder``, its output in ``LOG``.

The environment is what it gets beside that of this process.
"""

Statuses = Mapping[str, int | None]
"""Exit statuses by party, None of those that run."""

Watch = Callable[[Statuses], None]

_NOTHING: Environment = MappingProxyType({})


def launch_fx(folder: Path, arguments: Sequence[str], environment: Environment) -> Process:
    """Start the ``fx`` beside this Python, in a process group that dies with this process."""
    # All parties are on this machine: a proxy would only be in the way.
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    log = folder / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [Path(sys.executable).with_name("fx"), *arguments],
            cwd=folder,
            env={**inherited, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            # Also where this process is killed and can stop nobody.
            preexec_fn=end_with_parent,
        )


def run_fx(
    folder: Path, *arguments: str, launch: Launch = launch_fx, environment: Environment = _NOTHING
) -> None:
    """Run one ``fx`` command to its end; see :func:`run_parties`.

    Raises:
        ValueError: It failed; the message has the last line that it wrote.
    """
    party = Party(name=f"fx {' '.join(arguments)}", folder=folder, arguments=arguments)
    if status := _run([party], launch, environment)[party.name]:
        raise ValueError(_death(party, status))


def run_parties(
    parties: Sequence[Party],
    *,
    launch: Launch = launch_fx,
    environment: Environment = _NOTHING,
    watch: Watch = lambda statuses: None,
) -> None:
    """Start all parties and wait until all have ended; whatever happens, none is left running.

    Args:
        parties: The first of them is the aggregator.
        launch: Starts a process.
        environment: Variables for all of them, beside those of this process.
        watch: Called a few times a second.

    Raises:
        ValueError: A party ended with another status than 0, or did not end with the aggregator.
    """
    statuses = _run(parties, launch, environment, watch)
    for party in parties:
        if status := statuses[party.name]:
            raise ValueError(f"{_death(party, status)} (see {party.log})")
    for party in parties:
        if statuses[party.name] is None:
            raise ValueError(
                f"{party.name} still ran {LEAVE_SECONDS:.0f} s after {parties[0].name} had ended "
                f"(see {party.log})"
            )


def _run(
    parties: Sequence[Party],
    launch: Launch,
    environment: Environment,
    watch: Watch = lambda statuses: None,
) -> Statuses:
    """Run until all have ended, one has failed, or the rest is too late; then stop the rest."""
    processes: dict[str, Process] = {}
    leave_by = float("inf")
    with _terminated_as_interrupted():
        try:
            for party in parties:
                processes[party.name] = launch(party.folder, party.arguments, environment)
            while True:
                statuses = {name: process.poll() for name, process in processes.items()}
                watch(statuses)
                if statuses[parties[0].name] is not None:
                    leave_by = min(leave_by, time.monotonic() + LEAVE_SECONDS)
                late = time.monotonic() > leave_by
                if late or any(statuses.values()) or None not in statuses.values():
                    return statuses
                time.sleep(POLL_SECONDS)
        finally:
            stop(processes.values())


def stop(processes: Iterable[Process]) -> None:
    """Ask processes to end, then make them; return when none is left."""
    left = [process for process in processes if process.poll() is None]
    for how in (signal.SIGTERM, signal.SIGKILL):
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
        end = time.monotonic() + STOP_SECONDS
        while left and time.monotonic() < end:
            time.sleep(0.01)
            left = [process for process in left if _lives(process)]


def _lives(process: Process) -> bool:
    """Whether a process runs, or one that it has started."""
    if process.poll() is None:
        return True
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that are not empty; none where there is no log."""
    if not log.is_file():
        return []
    lines = log.read_text(errors="replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()][-count:]


def _death(party: Party, status: int) -> str:
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    said = "".join(f": {line.strip()}" for line in last_lines(party.log, 1))
    return f"{party.name} ended with {how}{said}"


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let a SIGTERM unwind this process as Ctrl-C does, so that what it started is stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
