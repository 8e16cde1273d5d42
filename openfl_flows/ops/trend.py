"""Whether a process leaks: the slope of its memory over rounds, with an interval.

Theil and Sen's slope is the median of the slopes of all pairs of rounds; its interval is Sen's
(1968), from the variance that Kendall's tau has where there is no trend. A few rounds that held
much for a moment do not move it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scipy import stats

ROUNDS = 20
"""Rounds that a verdict takes."""
WINDOW = 200
"""Rounds that are looked at, the last ones: what a process takes at its start is no leak."""
SHARE = 1e-3
"""Of the model, in bytes a round: the slope from which on memory leaks."""
LEAST_BYTES = 2.0**18
"""Where models are small: the record of a round stays in memory, and takes kilobytes for each site.
At this much a round, a gibibyte takes 4,096 rounds."""

Verdict = Literal["leak", "steady", "unclear", "too few rounds"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trend:
    """How the memory of a process develops.

    Attributes:
        bytes: What it held after the last round.
        slope: Bytes a round.
        low: Lower end of the slope's 95 % interval.
        high: Upper end.
        limit: The slope from which on it leaks.
        rounds: Rounds that were looked at.
        verdict: ``leak`` where the whole interval is above the limit, ``steady`` where it is
            below, ``unclear`` where the limit is in it.
    """

    bytes: int
    slope: float
    low: float
    high: float
    limit: float
    rounds: int
    verdict: Verdict

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def memory_trend(held: Sequence[int], model_bytes: int) -> Trend:
    """The verdict on a process.

    Args:
        held: Bytes after each round, in order.
        model_bytes: Of the model.
    """
    # The first round fills pools and caches.
    looked_at = list(held[1:][-WINDOW:])
    slope = low = high = 0.0
    if len(looked_at) > 1:
        slope, _, low, high = map(float, stats.theilslopes(looked_at, alpha=0.95))
    limit = max(SHARE * model_bytes, LEAST_BYTES)
    verdict: Verdict = "steady" if high <= limit else "unclear"
    if len(looked_at) < ROUNDS:
        verdict = "too few rounds"
    elif low > limit:
        verdict = "leak"
    return Trend(
        bytes=held[-1], slope=slope, low=low, high=high, limit=limit,
        rounds=len(looked_at), verdict=verdict,
    )  # fmt: skip
