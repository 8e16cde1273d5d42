"""Mean errors of molecules drawn toward targets, with intervals that respect the targets.

Molecules of one target are alike, so targets are what is resampled: percentile bootstrap (Efron
1979), the same resamples for both sides of a comparison.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
"""Bootstrap samples of the targets."""

Errors = NDArray[np.float64]
"""(targets, molecules per target) absolute errors, NaN where there is no value."""


class Estimate(NamedTuple):
    """A value with its 95 % interval, and the molecules behind it; NaN where there are none."""

    value: float
    low: float
    high: float
    num: int


def mean_error(errors: Errors, seed: int = 0) -> Estimate:
    """Mean over all molecules that have a value."""
    totals = _totals(errors, seed)
    return _estimate(totals[0] / totals[1], _num(errors))


def gain(errors: Errors, base: Errors, seed: int = 0) -> Estimate:
    """Share of the base's mean error that is gone, paired by target; negative where it grew.

    Args:
        errors: Of guided molecules.
        base: Of unguided ones, the same targets in the same order.
        seed: Of the resamples.

    Raises:
        ValueError: The two have different numbers of targets.
    """
    if len(errors) != len(base):
        raise ValueError(f"{len(errors)} targets against {len(base)}, expected the same")
    ours, theirs = _totals(errors, seed), _totals(base, seed)
    return _estimate(1 - ours[0] / ours[1] / (theirs[0] / theirs[1]), _num(errors))


def _totals(errors: Errors, seed: int) -> tuple[Errors, Errors]:
    """Sum and count of all targets, then of each resample, (1 + RESAMPLES,) each."""
    num = len(errors)
    drawn = np.random.default_rng(seed).integers(num, size=(RESAMPLES, num))
    index = np.concatenate([np.arange(num)[None], drawn])
    sums = np.nansum(errors, axis=1)[index].sum(1)
    counts = (~np.isnan(errors)).sum(1)[index].sum(1).astype(np.float64)
    counts[counts == 0] = np.nan
    return sums, counts


def _estimate(values: Errors, num: int) -> Estimate:
    if not np.isfinite(values[0]):
        return Estimate(float("nan"), float("nan"), float("nan"), num)
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    return Estimate(float(values[0]), float(low), float(high), num)


def _num(errors: Errors) -> int:
    return int((~np.isnan(errors)).sum())
