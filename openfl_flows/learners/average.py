"""A site's own moving average of the global model: what it validates, though nobody sends it."""

import logging
import re
from pathlib import Path

from openfl_flows.joins.ema import Ema
from openfl_flows.ops.files import map_state, save_state
from openfl_flows.state import State

logger = logging.getLogger(__name__)

_NAME = re.compile(r"average-(\d{5})\.safetensors")


class SiteAverage:
    """Computes the aggregator's moving average, bit for bit, from the models that it broadcasts.

    On disk, and mapped from there: in memory it takes next to nothing.

    Args:
        folder: Where it is kept.
        ema: The rule, that of the aggregator.
        num_steps: Optimizer steps of a round, equal at all sites.
    """

    def __init__(self, folder: Path, ema: Ema, num_steps: int) -> None:
        self._folder = folder
        self._ema = ema
        self._num_steps = num_steps

    def at(self, model: State, round_: int) -> State:
        """The average as of the global model that begins ``round_``."""
        rounds = sorted(self._rounds())
        if round_ in rounds:
            return map_state(self._file("average", round_))
        before = max((r for r in rounds if r < round_), default=None)
        if before is None:
            if round_ > 1:
                logger.warning("the moving average begins in round %d: none is known", round_)
            average = model
        else:
            if before < round_ - 1:
                logger.warning("the moving average takes rounds %d to %d as one", before, round_)
            average = self._ema(
                map_state(self._file("average", before)),
                map_state(self._file("received", before)),
                model,
                (round_ - before) * self._num_steps,
            )
        # The average last: it is what tells that both are there.
        save_state(self._file("received", round_), model)
        save_state(self._file("average", round_), average)
        for old in self._rounds():
            # A round may have to be repeated after a failure elsewhere.
            if old < round_ - 1 or old > round_:
                self._file("average", old).unlink()
                self._file("received", old).unlink(missing_ok=True)
        return map_state(self._file("average", round_))

    def _rounds(self) -> list[int]:
        found = (_NAME.fullmatch(file.name) for file in self._folder.glob("average-*"))
        return [int(match[1]) for match in found if match]

    def _file(self, kind: str, round_: int) -> Path:
        return self._folder / f"{kind}-{round_:05d}.safetensors"
