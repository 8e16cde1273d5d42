"""What sites sent in the round at hand, on disk until the round is committed.

A result is in the inbox before its site is told that it arrived, so a restarted aggregator has it;
and it is mapped into memory, so that the sites' models together take next to none.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from openfl_flows.ops.files import load_state, map_state, save_state
from openfl_flows.state import Array, State

logger = logging.getLogger(__name__)


class Result(NamedTuple):
    """One site's result of one task."""

    site: str
    task: str
    tensors: Mapping[str, Array]


class Inbox:
    """Results by round, site and task.

    Args:
        folder: Where they are kept. What a kill left half-written in it is removed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for stray in folder.rglob(".*.tmp"):
            stray.unlink()

    def put(self, round_: int, result: Result) -> Result:
        """Keep a result; return it mapped from disk."""
        file = self._file(round_, result.site, result.task)
        save_state(file, State(result.tensors))
        return Result(result.site, result.task, map_state(file))

    def results(self, round_: int) -> Iterator[Result]:
        """What arrived in a round, mapped from disk.

        A damaged file is removed with a warning: its site is asked again, and sends the same again.
        """
        for file in sorted(self._round(round_).glob("*/*.safetensors")):
            try:
                load_state(file)
            except ValueError as error:
                logger.warning("%s. Removed: its site is asked for it again", error)
                file.unlink()
            else:
                yield Result(file.parent.name, file.stem, map_state(file))

    def remove(self, round_: int, site: str, task: str) -> None:
        """Forget a result."""
        self._file(round_, site, task).unlink(missing_ok=True)

    def clear(self, *, before: int | None = None) -> None:
        """Forget all rounds before ``before``, all if not given."""
        for folder in self._folder.glob("[0-9]*"):
            if before is None or int(folder.name) < before:
                shutil.rmtree(folder)

    def _round(self, round_: int) -> Path:
        return self._folder / f"{round_:05d}"

    def _file(self, round_: int, site: str, task: str) -> Path:
        return self._round(round_) / site / f"{task}.safetensors"
