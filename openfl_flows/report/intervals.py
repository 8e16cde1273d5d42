"""Means over runs with Student's 95 % confidence intervals, and the interval of a difference."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One metric over the runs of one group.

    Attributes:
        mean: Arithmetic mean.
        sd: Sample standard deviation; None for one run.
        n: Number of runs.
        interval: Student's 95 % confidence interval of the mean; None for one run.
    """

    mean: float
    sd: float | None
    n: int
    interval: Interval | None


def summarise(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and interval of one value per run; at least one."""
    mean, half = statistics.fmean(values), half_width(values)
    return Summary(
        mean=mean,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        n=len(values),
        interval=None if half is None else (mean - half, mean + half),
    )


def half_width(values: Sequence[float]) -> float | None:
    """Half of the interval of the mean, ``t s / sqrt(n)``; None for one value."""
    if len(values) < 2:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values))
    return _quantile(len(values) - 1) * error


def welch_half_width(a: Summary, b: Summary) -> float | None:
    """Half of the interval of ``mean a - mean b`` with unequal variances; None for one value.

    Welch 1947, with Satterthwaite's degrees of freedom.
    """
    if a.sd is None or b.sd is None:
        return None
    errors = (a.sd**2 / a.n, b.sd**2 / b.n)
    if not sum(errors):
        return 0.0
    freedom = sum(errors) ** 2 / (errors[0] ** 2 / (a.n - 1) + errors[1] ** 2 / (b.n - 1))
    return _quantile(freedom) * math.sqrt(sum(errors))


def _quantile(freedom: float) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def fold(low: float, high: float) -> Interval:
    """The interval of ``|x|`` for ``x`` in ``[low, high]``."""
    ends = sorted((abs(low), abs(high)))
    return (0.0 if low <= 0 <= high else ends[0], ends[1])
