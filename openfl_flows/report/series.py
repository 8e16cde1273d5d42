"""A run's record as series over rounds, by metric: the numbers behind every curve."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from openfl_flows.metrics.class_scores import rate_of
from openfl_flows.ops.spans import TRAVEL

Points = dict[int, float]
"""Values by round; round 0 is the initial model."""


def samples(record: Mapping[str, Any]) -> dict[int, int]:
    """Samples that all sites together had seen after each round."""
    seen = {0: 0}
    for entry in record["rounds"]:
        here = sum(part["num_samples"] for part in entry["sites"].values())
        seen[entry["round"]] = seen[entry["round"] - 1] + here
    return seen


@dataclass(frozen=True, kw_only=True)
class Series:
    """One metric over the rounds of a run.

    Attributes:
        name: The metric as recorded.
        pooled: Of the global model that each round made, over all sites.
        local: By site: of the site's own model after its training in that round.
        received: By site: of the global model on that site's data. A site measures it when the
            model arrives, in the round after the one that made it.
    """

    name: str
    pooled: Points = field(default_factory=dict)
    local: dict[str, Points] = field(default_factory=dict)
    received: dict[str, Points] = field(default_factory=dict)


def sites(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Every site that took part in any round, sorted."""
    return tuple(sorted({name for entry in record["rounds"] for name in entry["sites"]}))


def tasks(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Every task that any site timed, in the order in which they first appear."""
    parts = (site for entry in record["rounds"] for site in entry["sites"].values())
    return _distinct(task for site in parts for task in site["seconds"] if task not in TRAVEL)


def series(record: Mapping[str, Any], *, rates: bool = False) -> tuple[Series, ...]:
    """One series per metric that appears in any round, in the order in which they first appear.

    Args:
        record: Of the run.
        rates: Give the recall and precision of each class, too: many, and for many pages too many.
    """
    found: dict[str, Series] = {}

    def of(name: str) -> Series:
        return found.setdefault(name, Series(name=name))

    for name, value in record.get("initial", {}).get("metrics", {}).items():
        of(name).pooled[0] = value
    for entry in record["rounds"]:
        round_ = entry["round"]
        for name, value in (*entry["metrics"].items(), *entry.get("movement", {}).items()):
            of(name).pooled[round_] = value
        for site, part in sorted(entry["sites"].items()):
            for name, value in part["metrics"].items():
                of(name).local.setdefault(site, {})[round_] = value
            for name, value in part["received"].items():
                of(name).received.setdefault(site, {})[round_ - 1] = value
    return tuple(one for name, one in found.items() if rates or rate_of(name) is None)


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
