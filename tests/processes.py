"""The command line in processes of its own, which start at once and can be killed."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from openfl_flows.cli import main

_context = multiprocessing.get_context("forkserver")
# What a run imports takes seconds; processes forked from one that has it start in milliseconds. One
# such process serves all tests, so what `fx` imports is in this list too.
_context.set_forkserver_preload(
    [
        "openfl_flows.flows.simulation",
        "openfl_flows.report.html",
        "openfl_flows.report.samples",
        "hydra.main",
        "torch._dynamo",
        "openfl.interface.workspace",
        "openfl.interface.collaborator",
        "openfl.interface.model",
        "openfl.interface.pki",
        "openfl.component.aggregator.aggregator",
        "openfl_flows.learners.digress_task",
        "openfl_flows.learners.esm_task",
        "openfl_flows.learners.toy",
        "openfl_flows.taskrunner.aggregation",
        "openfl_flows.taskrunner.aggregator",
        "openfl_flows.taskrunner.assigner",
        "openfl_flows.taskrunner.collaborator",
        "openfl_flows.taskrunner.loader",
        "openfl_flows.taskrunner.pipeline",
        "openfl_flows.taskrunner.runner",
    ]
)

DEADLINE = 120.0
"""Seconds after which whatever is waited for counts as not coming."""


class Process:
    """A function in a process group of its own.

    Args:
        target: A function of a module.
        arguments: Of the function.
        log: File to append standard output and error to.
        die_at: Kill the process itself when it is about to put its n-th file in place, n from 1:
            the new content is written, and the old is still there.
    """

    def __init__(
        self, target: Callable[..., object], *arguments: Any, log: Path, die_at: int | None = None
    ) -> None:
        self._process = _context.Process(target=_work, args=(target, arguments, log, die_at))
        self._process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Exit status, None while it runs; negative is the number of the signal that ended it."""
        return self._process.exitcode

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def wait(self) -> int:
        """Exit status; negative is the number of the signal that ended it."""
        self._process.join(DEADLINE)
        status = self._process.exitcode
        assert status is not None, "the process did not end in time"
        return status

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, not to its group."""
        os.kill(self.pid, number)

    def kill(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        # There is no group before the process has made its own.
        self._process.kill()
        return self.wait()

    def kill_when(self, reached: Callable[[], bool]) -> int:
        """Kill as soon as ``reached`` says so; if the process ends before, that is a failure."""
        end = time.monotonic() + DEADLINE
        while not reached():
            assert self.running, "the process ended before it was to be killed"
            assert time.monotonic() < end, "what the kill waits for did not come"
            time.sleep(0.001)
        return self.kill()


class Command(Process):
    """``openfl-flows ARGUMENTS``; see :class:`Process`."""

    def __init__(self, *arguments: str, log: Path, die_at: int | None = None) -> None:
        super().__init__(_command, arguments, log=log, die_at=die_at)


def run(*arguments: str, log: Path, die_at: int | None = None) -> int:
    """Run a command to its end; return its exit status."""
    with Command(*arguments, log=log, die_at=die_at) as command:
        return command.wait()


def _command(arguments: tuple[str, ...]) -> None:
    sys.exit(main(arguments))


def _work(
    target: Callable[..., object], arguments: tuple[Any, ...], log: Path, die_at: int | None
) -> None:
    os.setsid()
    # Whoever started the tests in the background had it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What the preloaded imports printed may still be in the buffer that this process inherited.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout.flush()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if die_at is not None:
        kill_at_replacement(die_at)
    target(*arguments)


def kill_at_replacement(count: int) -> None:
    """Have this process killed when it is about to put its ``count``-th file in place, from 1."""
    replace, left = Path.replace, count

    def counted(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = counted  # type: ignore[method-assign,assignment]
