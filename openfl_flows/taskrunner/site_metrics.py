"""A site's own figures, for the textfile collector of a machine that nobody can scrape."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openfl_flows.metrics.mean import Means, values
from openfl_flows.ops.exposition import FILE, Exposition
from openfl_flows.ops.monitor import Monitor
from openfl_flows.taskrunner.aggregation import RECEIVED, TRAINED, VALIDATED, site_seconds


class SiteMetrics:
    """Puts what a site measured of its tasks together, and shows it after every round.

    Args:
        name: The site.
        rounds: Number of the last round.
        folder: Gets the file.
    """

    def __init__(self, name: str, rounds: int, folder: Path) -> None:
        self._name, self._rounds = name, rounds
        self._monitor = Monitor(rounds=rounds)
        self._exposition = Exposition(folder / FILE)
        self._facts: dict[str, Mapping[str, float]] = {}
        self._trained: Means = {}
        self._seconds: list[float] = []

    def took(
        self, task: str, round_: int, facts: Mapping[str, float], means: Means, samples: int
    ) -> None:
        """A task is done.

        Args:
            task: Which.
            round_: Its round, from 1.
            facts: What the site tells of it.
            means: What it measured.
            samples: Training samples of the round.
        """
        if task == RECEIVED:
            self._facts.clear()
        self._facts[task] = facts
        if task == TRAINED:
            self._trained = means
        if task != VALIDATED or self._facts.keys() != {RECEIVED, TRAINED, VALIDATED}:
            return
        part: dict[str, Any] = {
            "num_samples": samples,
            "num_steps": 0,
            "metrics": values({**self._trained, **means}),
            "seconds": site_seconds(self._facts),
            "bytes_up": sum(fact["bytes_up"] for fact in self._facts.values()),
            "bytes_down": sum(fact["bytes_down"] for fact in self._facts.values()),
            "rss_bytes": facts["rss_bytes"],
        }
        self._seconds.append(sum(part["seconds"].values()))
        entry = {"round": round_, "seconds": self._seconds[-1], "sites": {self._name: part}}
        self._monitor.observe(entry)
        own = {"round": round_, "rounds": self._rounds, "seconds": self._seconds}
        self._exposition.show({**own, **self._monitor.document()})
