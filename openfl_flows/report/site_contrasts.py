"""Scores of one group's models, and the differences between them with their intervals.

Differences are first minus second in the metric's own unit. Those of two models on the same
proteins have the paired bootstrap's interval over proteins, averaged over seeds; those that the
report sums up in one number have Student's over seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from openfl_flows.metrics.class_scores import SCORES
from openfl_flows.metrics.classification import (
    Interval,
    McNemar,
    mcnemar,
    paired_bootstrap,
    scores,
)
from openfl_flows.report.intervals import Summary, summarise
from openfl_flows.report.site_groups import Group, Seeds

Values = Mapping[int, Mapping[str, float]]
"""By seed and metric."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One kind of model against another, of one site or on average over sites.

    Attributes:
        means: By metric, the mean difference over seeds.
        intervals: By metric, of that mean: what other test proteins would have given.
        tests: McNemar's by seed; none for an average.
        num_seeds: Seeds that both have.
    """

    means: Mapping[str, float]
    intervals: Mapping[str, Interval]
    tests: Mapping[int, McNemar]
    num_seeds: int


class Scored:
    """A group with the scores of all its models; intervals are made once, when asked for.

    Args:
        group: Who is compared.
    """

    def __init__(self, group: Group) -> None:
        self.group = group

    @cached_property
    def federated(self) -> Values:
        """Of the federated model."""
        return self._values(self.group.federated)

    @cached_property
    def centralized(self) -> Values:
        """Of the model of the pooled data."""
        return self._values(self.group.centralized)

    @cached_property
    def local(self) -> Mapping[str, Values]:
        """Of each site's own model."""
        return {site: self._values(seeds) for site, seeds in self.group.local.items()}

    @cached_property
    def tuned(self) -> Mapping[str, Values]:
        """Of the federated model after training at each site."""
        return {site: self._values(seeds) for site, seeds in self.group.tuned.items()}

    @cached_property
    def gains(self) -> Mapping[str, Contrast | None]:
        """Federated minus local by site, and under "" the average; None without common seeds."""
        group = self.group
        pairs = {site: (group.federated, own) for site, own in group.local.items()}
        return self._contrasts(pairs)

    @cached_property
    def tuning_gains(self) -> Mapping[str, Contrast | None]:
        """Tuned minus federated by site, and under "" the average; None without common seeds."""
        group = self.group
        pairs = {site: (tuned, group.federated) for site, tuned in group.tuned.items()}
        return self._contrasts(pairs)

    def above_best_local(self, metric: str) -> tuple[Summary, Summary] | None:
        """Federated minus the site's own model that is best on the test set, then the latter."""
        best = best_values(self.local, metric)
        return _difference(_by_seed(self.federated, metric), best)

    def above_centralized(self, metric: str) -> tuple[Summary, Summary] | None:
        """Federated minus centralized, then the latter."""
        return _difference(_by_seed(self.federated, metric), _by_seed(self.centralized, metric))

    def _values(self, seeds: Seeds) -> Values:
        num = len(self.group.classes)
        return {seed: scores(self.group.true, own, num) for seed, own in seeds.items()}

    def _contrasts(self, pairs: Mapping[str, tuple[Seeds, Seeds]]) -> Mapping[str, Contrast | None]:
        found = {site: self._contrast([pair], tested=True) for site, pair in pairs.items()}
        return {**found, "": self._contrast(list(pairs.values()), tested=False)}

    def _contrast(self, pairs: Sequence[tuple[Seeds, Seeds]], *, tested: bool) -> Contrast | None:
        """The mean over pairs, one for each site, and over the seeds that all of them have."""
        seeds = sorted(set.intersection(*(set(part) for pair in pairs for part in pair)))
        if not seeds:
            return None
        true, num = self.group.true, len(self.group.classes)
        both = [(first[seed], second[seed]) for first, second in pairs for seed in seeds]
        measured = [tuple(scores(true, one, num) for one in pair) for pair in both]
        tests = (
            {s: mcnemar(a == true, b == true) for s, (a, b) in zip(seeds, both, strict=True)}
            if tested
            else {}
        )
        return Contrast(
            means={m: float(np.mean([a[m] - b[m] for a, b in measured])) for m in SCORES},
            intervals=paired_bootstrap(true, both, num),
            tests=tests,
            num_seeds=len(seeds),
        )


def average_values(sites: Mapping[str, Values], metric: str) -> dict[int, float]:
    """Mean over sites by seed, where all sites have the seed."""
    return {seed: float(np.mean(values)) for seed, values in _over_sites(sites, metric).items()}


def best_values(sites: Mapping[str, Values], metric: str) -> dict[int, float]:
    """The best site's by seed, where all sites have the seed."""
    return {seed: max(values) for seed, values in _over_sites(sites, metric).items()}


def _over_sites(sites: Mapping[str, Values], metric: str) -> dict[int, list[float]]:
    seeds = sorted(set.intersection(*(set(values) for values in sites.values())))
    return {seed: [values[seed][metric] for values in sites.values()] for seed in seeds}


def _by_seed(values: Values, metric: str) -> dict[int, float]:
    return {seed: found[metric] for seed, found in values.items()}


def _difference(
    first: Mapping[int, float], second: Mapping[int, float]
) -> tuple[Summary, Summary] | None:
    """First minus second over the seeds that both have, and the second itself."""
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    differences = [first[seed] - second[seed] for seed in seeds]
    return summarise(differences), summarise([second[seed] for seed in seeds])
