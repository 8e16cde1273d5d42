"""A run as an operator watches it: spans, costs, alerts, memory, throughput and what is left.

Everything follows from the rounds that ``run.json`` has, so that an aggregator that was restarted,
and whoever reads its record later, come to the same.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from openfl_flows.codecs.exchange import AGGREGATOR
from openfl_flows.ops.alerts import Alert, Alerts
from openfl_flows.ops.costs import RoundCost, rate, round_cost, summed
from openfl_flows.ops.spans import TRAVEL, Spans, spans
from openfl_flows.ops.trend import Trend, memory_trend

_EXPECTED_FROM = 5
_TOLD = 50


class Monitor:
    """Watches rounds as they end.

    Args:
        rounds: Number of the last round.
        losses: Names of the metrics of which less is better, and that are watched.
        delay: Steps that sites take while bytes travel.

    Attributes:
        told: All that was told so far.
    """

    def __init__(
        self, *, rounds: int, losses: Sequence[str] = ("train_loss",), delay: int = 0
    ) -> None:
        self.told: list[Alert] = []
        self._rounds, self._delay = rounds, delay
        self._alerts = Alerts(losses=losses, delay=delay)
        self._losses = tuple(losses)
        self._costs: list[RoundCost] = []
        self._seconds: list[float] = []
        self._held: dict[str, list[int]] = {}
        self._trends: dict[str, Trend] = {}
        self._sums: dict[str, dict[str, float]] = {}
        self._last: Mapping[str, Any] = {}

    @property
    def seen(self) -> int:
        """Rounds so far."""
        return len(self._seconds)

    def observe(self, entry: Mapping[str, Any]) -> list[Alert]:
        """Take a finished round; return what is to be told after it.

        Args:
            entry: The round, as ``run.json`` has it.
        """
        self._last = entry
        self._seconds.append(entry["seconds"])
        if (cost := round_cost(entry, self._delay)) is not None:
            self._costs.append(cost)
        for site, part in entry["sites"].items():
            self._add(site, part)
        told = [*self._alerts.observe(entry), *self._watch_memory(entry)]
        self.told += told
        return told

    def document(self) -> dict[str, Any]:
        """All of it as JSON has it; see ``docs/monitoring.md``."""
        sites = self._last.get("sites", {})
        return {
            "expected": self._expected(),
            "spans": {site: _known(part, self._delay) for site, part in sorted(sites.items())},
            "tasks": {
                site: {t: s for t, s in part["seconds"].items() if t not in TRAVEL}
                for site, part in sorted(sites.items())
            },
            "throughput": {site: _throughput(part) for site, part in sorted(sites.items())},
            "losses": {
                site: {name: _finite(part["metrics"].get(name)) for name in self._losses}
                for site, part in sorted(sites.items())
            },
            "totals": {site: dict(sums) for site, sums in sorted(self._sums.items())},
            "costs": [cost.document() for cost in summed(self._costs)],
            "alerts": {
                "active": [alert.document() for alert in self._alerts.active.values()],
                "told": [alert.document() for alert in self.told[-_TOLD:]],
            },
            "memory": {party: trend.document() for party, trend in sorted(self._trends.items())},
        }

    def _expected(self) -> dict[str, float | None]:
        # The first round has the sites' start in it.
        usual = self._seconds[1:][-_EXPECTED_FROM:] or self._seconds
        if not usual:
            return {"round_seconds": None, "left_seconds": None, "total_seconds": None}
        each = statistics.median(usual)
        left = each * max(0, self._rounds - self.seen)
        return {
            "round_seconds": each,
            "left_seconds": left,
            "total_seconds": sum(self._seconds) + left,
        }

    def _add(self, site: str, part: Mapping[str, Any]) -> None:
        own = {
            **{f"{name}_seconds": s for name, s in _known(part, self._delay).items()},
            "bytes_up": part.get("bytes_up", 0),
            "bytes_down": part.get("bytes_down", 0),
            "samples": part["num_samples"],
        }
        sums = self._sums.setdefault(site, {})
        for name, value in own.items():
            sums[name] = sums.get(name, 0.0) + value

    def _watch_memory(self, entry: Mapping[str, Any]) -> list[Alert]:
        held = {AGGREGATOR: entry.get("rss_bytes", 0)}
        held |= {site: part.get("rss_bytes", 0) for site, part in entry["sites"].items()}
        found = {}
        for party, count in held.items():
            # Nothing was measured in old runs.
            if not count:
                continue
            own = self._held.setdefault(party, [])
            own.append(count)
            trend = memory_trend(own, entry.get("model_bytes", 0))
            self._trends[party] = trend
            # Once told, it is over when the slope has halved.
            score = min(trend.slope / trend.limit, 1.0)
            if trend.verdict in ("leak", "too few rounds"):
                score = 2.0 if trend.verdict == "leak" else 0.0
            found[party, "memory"] = (trend.slope, trend.limit, score)
        return self._alerts.tell(entry["round"], found)


def monitored(
    rounds: Sequence[Mapping[str, Any]],
    *,
    planned: int,
    losses: Sequence[str] = ("train_loss",),
    delay: int = 0,
) -> Monitor:
    """A monitor that has seen the rounds.

    Args:
        rounds: As ``run.json`` has them.
        planned: Number of the last round.
        losses: Names of the metrics of which less is better, and that are watched.
        delay: Steps that sites take while bytes travel.
    """
    monitor = Monitor(rounds=planned, losses=losses, delay=delay)
    for entry in rounds:
        monitor.observe(entry)
    return monitor


def losses_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The metrics that are watched: the training loss, and what tells the best model if it is one.

    Args:
        record: Of the run.
    """
    best = record.get("best", {})
    named = [best["metric"]] if best.get("mode") == "min" else []
    return tuple(dict.fromkeys(["train_loss", *named]))


def _known(part: Mapping[str, Any], delay: int) -> Spans:
    """The parts of a site's round, without those that only an aggregator sees and none saw."""
    found = {**spans(part, delay), "wait": part["seconds"].get("wait", 0.0)}
    return {s: v for s, v in found.items() if s not in ("absent", "wait") or s in part["seconds"]}


def _throughput(part: Mapping[str, Any]) -> dict[str, float]:
    train = float(part["seconds"].get("train", 0.0))
    return {
        "samples_per_second": part["num_samples"] / train if train else 0.0,
        "upload_bytes_per_second": rate(part, "upload"),
        "download_bytes_per_second": rate(part, "download"),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
