"""The command line in processes of its own, which start at once and can be killed."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from openfl_flows.cli import main

_context = multiprocessing.get_context("forkserver")
# What a run imports takes seconds; processes forked from one that has it start in milliseconds.
_context.set_forkserver_preload(
    [
        "openfl_flows.experiment",
        "openfl_flows.report.html",
        "openfl_flows.report.samples",
        "hydra.main",
        "torch._dynamo",
    ]
)

DEADLINE = 120.0
"""Seconds after which whatever is waited for counts as not coming."""


class Command:
    """``openfl-flows ARGUMENTS`` in a process group of its own.

    Args:
        arguments: Of the command line.
        log: File to append standard output and error to.
        die_at: Kill the process itself when it is about to put its n-th file in place, n from 1:
            the new content is written, and the old is still there.
    """

    def __init__(self, *arguments: str, log: Path, die_at: int | None = None) -> None:
        self._process = _context.Process(target=_work, args=(arguments, log, die_at))
        self._process.start()

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def wait(self) -> int:
        """Exit status; negative is the number of the signal that ended it."""
        self._process.join(DEADLINE)
        status = self._process.exitcode
        assert status is not None, "the command did not end in time"
        return status

    def kill(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self.wait()

    def kill_when(self, reached: Callable[[], bool]) -> int:
        """Kill as soon as ``reached`` says so; if the command ends before, that is a failure."""
        end = time.monotonic() + DEADLINE
        while not reached():
            assert self.running, "the command ended before it was to be killed"
            assert time.monotonic() < end, "what the kill waits for did not come"
            time.sleep(0.001)
        return self.kill()


def run(*arguments: str, log: Path, die_at: int | None = None) -> int:
    """Run a command to its end; return its exit status."""
    with Command(*arguments, log=log, die_at=die_at) as command:
        return command.wait()


def _work(arguments: tuple[str, ...], log: Path, die_at: int | None) -> None:
    os.setsid()
    # What the preloaded imports printed may still be in the buffer that this process inherited.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout.flush()
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    if die_at is not None:
        _die_at(die_at)
    sys.exit(main(arguments))


def _die_at(count: int) -> None:
    replace, left = Path.replace, count

    def counted(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = counted  # type: ignore[method-assign,assignment]
