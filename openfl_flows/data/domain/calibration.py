"""Whether errors grow with distance: rank correlation, and errors inside the radius and outside.

Intervals are 95 % percentile intervals of the bootstrap over items (Efron 1979).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 1000

Floats = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Errors against distances.

    Attributes:
        num: Items with both.
        spearman: Rank correlation of distance and error; NaN where one of them is constant.
        spearman_interval: Its interval.
        inside: Share of the items within the radius.
        error_inside: Their mean error; NaN where there are none.
        error_outside: The others'.
        ratio_interval: Of the mean error outside over that inside; NaN where a side is empty.
    """

    num: int
    spearman: float
    spearman_interval: Interval
    inside: float
    error_inside: float
    error_outside: float
    ratio_interval: Interval


def calibrate(distance: Floats, error: Floats, radius: float, *, seed: int = 0) -> Calibration:
    """Compare errors with distances.

    Args:
        distance: (N,), NaN where unknown.
        error: (N,), NaN where unknown; larger is worse.
        radius: Items up to this distance are inside.
        seed: Of the resamples.

    Raises:
        ValueError: Fewer than three items have both.
    """
    both = ~(np.isnan(distance) | np.isnan(error))
    distance, error = distance[both], error[both]
    num = len(distance)
    if num < 3:
        raise ValueError(f"{num} items have a distance and an error, expected at least 3")
    inside = distance <= radius
    drawn = np.random.default_rng(seed).integers(num, size=(RESAMPLES, num))
    correlations = [_spearman(distance[row], error[row]) for row in drawn]
    ratios = [_ratio(error[row], inside[row]) for row in drawn]
    return Calibration(
        num=num,
        spearman=_spearman(distance, error),
        spearman_interval=_interval(correlations),
        inside=float(inside.mean()),
        error_inside=_mean(error[inside]),
        error_outside=_mean(error[~inside]),
        ratio_interval=_interval(ratios),
    )


def _spearman(a: Floats, b: Floats) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


def _ratio(error: Floats, inside: NDArray[np.bool_]) -> float:
    within = _mean(error[inside])
    return _mean(error[~inside]) / within if within else float("nan")


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _interval(values: list[float]) -> Interval:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return float("nan"), float("nan")
    low, high = np.percentile(known, (2.5, 97.5))
    return float(low), float(high)
