"""What the slowest site of each round cost the federation, and why: the sum over rounds.

With sites in the order of their paths (:mod:`openfl_flows.ops.spans`), p1 ≥ p2 ≥ …, a round would
have ended ``p1 - p2`` seconds sooner had its slowest site been as fast as the next: that is its
cost. Beside it, ``p1 - median(p2, …)``: what it lost against a site as there are most. The cause is
the part of the path that exceeds the median of the other sites' by most.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openfl_flows.ops.spans import PARTS, Spans, spans, travelled

_BYTES = {"upload": "bytes_up", "download": "bytes_down"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundCost:
    """What the slowest site cost in one round.

    Attributes:
        round: The round, from 1.
        site: The slowest one.
        seconds: Sooner that the round had ended if it had been as fast as the next.
        over_median: The same with the median of the other sites.
        spans: Its own seconds by part.
        others: By part, the median of the other sites' seconds.
        rates: Its bytes per second by part, of what travels.
        other_rates: The median of the other sites'.
    """

    round: int
    site: str
    seconds: float
    over_median: float
    spans: Spans
    others: Spans
    rates: Mapping[str, float]
    other_rates: Mapping[str, float]

    def excess(self, part: str) -> float:
        """Seconds of a part above the median of the other sites."""
        return self.spans[part] - self.others[part]

    @property
    def cause(self) -> str:
        """The part that exceeds the median of the other sites by most."""
        return max(PARTS, key=self.excess)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one site has cost so far.

    Attributes:
        site: The site.
        seconds: Sum over the rounds in which it was the slowest.
        rounds: How many these were.
        over_median: The same against the median of the other sites.
        cause: The part that lost most.
        mine: Of the cause: the site's bytes per second where it is travel, else its seconds a
            round; the median over the rounds of which this is the cause.
        median: The same, of the median of the other sites.
    """

    site: str
    seconds: float
    rounds: int
    over_median: float
    cause: str
    mine: float
    median: float

    def sentence(self) -> str:
        """E.g. ``site-3 cost the federation 24 s × 100 rounds = 40 min, cause: …``.

        The cost against the median site stands beside it where it is another.
        """
        each, times = self.seconds / self.rounds, "round" if self.rounds == 1 else "rounds"
        whole, over_median = _duration(self.seconds), _duration(self.over_median)
        beside = f" ({over_median} against the median site)" if over_median != whole else ""
        return (
            f"{self.site} cost the federation {_duration(each)} × {self.rounds} {times} = "
            f"{whole}{beside}, cause: {self.reason()}"
        )

    def reason(self) -> str:
        """The cause with its number and that of the others."""
        if self.cause == "absent":
            return f"absent for {_duration(self.mine)} a round"
        if self.cause in _BYTES:
            return (
                f"{self.cause} {short(self.mine / 1e6)} MB/s against a median of "
                f"{short(self.median / 1e6)}"
            )
        return (
            f"{self.cause} {short(self.mine)} s a round against a median of {short(self.median)} s"
        )

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "sentence": self.sentence()}


def round_cost(entry: Mapping[str, Any], delay: int = 0) -> RoundCost | None:
    """What the slowest site of a round cost.

    Args:
        entry: The round, as ``run.json`` has it.
        delay: Steps that sites take while bytes travel.

    Returns:
        The cost; None where nothing travelled or there is one site only.
    """
    parts: Mapping[str, Any] = entry["sites"]
    if len(parts) < 2 or not travelled(entry):
        return None
    by_site = {site: spans(part, delay) for site, part in parts.items()}
    total = {site: sum(found.values()) for site, found in by_site.items()}
    first, second, *_ = sorted(total, key=lambda site: (-total[site], site))
    rest = [site for site in parts if site != first]
    others = {name: statistics.median(by_site[site][name] for site in rest) for name in PARTS}
    return RoundCost(
        round=entry["round"],
        site=first,
        seconds=total[first] - total[second],
        over_median=total[first] - statistics.median(total[site] for site in rest),
        spans=by_site[first],
        others=others,
        rates={way: rate(parts[first], way) for way in _BYTES},
        other_rates={
            way: statistics.median(rate(parts[site], way) for site in rest) for way in _BYTES
        },
    )


def summed(rounds: Iterable[RoundCost]) -> list[Cost]:
    """Costs by site, the highest first."""
    by_site: dict[str, list[RoundCost]] = {}
    for cost in rounds:
        by_site.setdefault(cost.site, []).append(cost)
    found = [_summed(site, own) for site, own in by_site.items()]
    return sorted(found, key=lambda cost: (-cost.seconds, cost.site))


def rate(part: Mapping[str, Any], way: str) -> float:
    """Bytes per second of a site's ``upload`` or ``download`` in a round; 0 where none was."""
    seconds = float(part["seconds"].get(way, 0.0))
    return float(part.get(_BYTES[way], 0)) / seconds if seconds > 0 else 0.0


def short(value: float) -> str:
    """A number with three digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _summed(site: str, own: Sequence[RoundCost]) -> Cost:
    cause = max(PARTS, key=lambda name: sum(cost.excess(name) for cost in own))
    # In other rounds it was the slowest for another reason, or by chance.
    telling = [cost for cost in own if cost.cause == cause] or own
    if cause in _BYTES:
        pairs = [(cost.rates[cause], cost.other_rates[cause]) for cost in telling]
    else:
        pairs = [(cost.spans[cause], cost.others[cause]) for cost in telling]
    return Cost(
        site=site,
        seconds=sum(cost.seconds for cost in own),
        rounds=len(own),
        over_median=sum(cost.over_median for cost in own),
        cause=cause,
        mine=statistics.median(mine for mine, _ in pairs),
        median=statistics.median(median for _, median in pairs),
    )


def _duration(seconds: float) -> str:
    if seconds < 99.95:
        return f"{short(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
