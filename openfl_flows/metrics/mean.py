"""Metrics that merge exactly: sums with their counts, so that sites' values pool to the whole's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from openfl_flows.metrics.class_scores import summary


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean kept as its sum and its count.

    Attributes:
        total: Sum over samples, in the metric's unit.
        count: Number of samples behind it; 0 where a site has none (its value is then NaN).
    """

    total: float
    count: float

    @property
    def value(self) -> float:
        """The mean; NaN without samples."""
        return self.total / self.count if self.count else float("nan")

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)


Means = Mapping[str, Mean]


def merge(parts: Iterable[Means]) -> dict[str, Mean]:
    """Pool sites' metrics: equal to measuring all samples in one place.

    Give the parts in a fixed order (by site name) for a result that is equal to the last bit.
    """
    merged: dict[str, Mean] = {}
    for part in parts:
        for name, mean in part.items():
            merged[name] = merged[name] + mean if name in merged else mean
    return merged


def values(means: Means) -> dict[str, float]:
    """The means as plain numbers, without those that no sample stands behind.

    Where they hold the recall and the precision of every class, the scores that are made of these
    counts and are no means themselves follow: balanced accuracy, macro-F1, MCC.
    """
    return {name: mean.value for name, mean in means.items() if mean.count} | summary(means)
