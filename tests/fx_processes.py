"""Parties of a federation in processes of their own, which start at once and can be killed."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from openfl_flows.taskrunner.parties import LOG, Environment
from tests.processes import Process

TOY = ("experiment=toy", "join=diloco", "federation.rounds=3", "runtime.quiet=true")
"""Overrides of the plan of the fixture ``toy_federation``."""
AT_ONCE = "network.readiness.required=false"
"""For tests that look at what one site does before the other has come."""


class Party(Process):
    """``fx ARGUMENTS`` in a party's folder; see :class:`tests.processes.Process`.

    Args:
        folder: The party's workspace.
        arguments: Of ``fx``, e.g. ``"collaborator", "start", "-n", "site-1"``.
        log: File to append output to; ``logs/fx.log`` in the folder if not given.
        die_at: Kill the process itself when it is about to put its n-th file in place.
        environment: Variables beside those of this process.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        log: Path | None = None,
        die_at: int | None = None,
        environment: Environment | None = None,
    ) -> None:
        log = log or folder / LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(_fx, folder, arguments, dict(environment or {}), log=log, die_at=die_at)


def launch(folder: Path, arguments: Sequence[str], environment: Environment) -> Party:
    """A :data:`openfl_flows.taskrunner.parties.Launch` that takes milliseconds."""
    return Party(folder, *arguments, environment=environment)


def aggregator(out: Path, *, die_at: int | None = None) -> Party:
    """Start the aggregator of a rehearsal that is prepared in ``out``."""
    return Party(out / "aggregator", "aggregator", "start", die_at=die_at)


def site(out: Path, name: str, *, die_at: int | None = None) -> Party:
    """Start a site of a rehearsal that is prepared in ``out``."""
    return Party(out / name, "collaborator", "start", "-n", name, die_at=die_at)


def _fx(folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
    from openfl.interface.cli import entry

    os.chdir(folder)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    os.environ.update(environment)
    # Python has read it before this process was one of its own.
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    tempfile.tempdir = None
    sys.argv = ["fx", *arguments]
    entry()


def living(out: Path) -> list[int]:
    """Numbers of the processes whose current folder is in ``out``."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        # A process may end, or be another user's.
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(out):
                found.append(int(link.parent.name))
    return found
