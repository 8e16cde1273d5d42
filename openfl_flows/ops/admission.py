"""Which updates the aggregator takes: of the model's shape, finite, and of a plausible size."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from openfl_flows.state import Array

_BLOCK = 1 << 15


def update_norm(site: str, model: Mapping[str, Array], update: Mapping[str, Array]) -> float:
    """L2 norm of the change that an update makes to the model, summed in float64.

    Args:
        site: Who sent it, for the message.
        model: The global model's tensors or buckets.
        update: The site's.

    Raises:
        ValueError: A tensor is missing, unexpected, of another shape or element type, or holds NaN
            or infinity.
    """
    for name in sorted(model.keys() | update.keys()):
        if name not in update or name not in model:
            what = "misses" if name in model else "has an unexpected"
            raise ValueError(f"update of {site!r} refused: it {what} tensor {name!r}")
    total = 0.0
    for name, own in model.items():
        new = update[name]
        if (new.shape, new.dtype) != (own.shape, own.dtype):
            raise ValueError(
                f"update of {site!r} refused: tensor {name!r} is {new.dtype}{new.shape}, "
                f"expected {own.dtype}{own.shape}"
            )
        if not np.issubdtype(own.dtype, np.floating):
            continue
        square = _squared_distance(new.ravel(), own.ravel())
        if not math.isfinite(square):
            bad = int(new.size - np.isfinite(new).sum())
            what = f"has {bad} NaN or infinite of {new.size} values" if bad else "is out of range"
            raise ValueError(f"update of {site!r} refused: tensor {name!r} {what}")
        total += square
    return math.sqrt(total)


def _squared_distance(a: Array, b: Array) -> float:
    """Block by block, which stays in cache, and in float64, where float32 might overflow."""
    total = 0.0
    with np.errstate(over="ignore"):
        for start in range(0, a.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            change = np.subtract(a[block], b[block], dtype=np.float64)
            total += float(change @ change)
    return total


def lower_median(norms: Iterable[float]) -> float:
    """The middle of the norms above 0, the lower one of two; 0 where there is none.

    A minority of sites cannot move it far, neither up nor down.
    """
    ordered = sorted(norm for norm in norms if norm > 0)
    return ordered[(len(ordered) - 1) // 2] if ordered else 0.0


class Proportion:
    """Makes sure that the norms of updates are in proportion to one another.

    Args:
        max_ratio: The most that an update may have of the lower median of the round before, or, in
            a first round, of the round itself; None to take any.
    """

    def __init__(self, max_ratio: float | None) -> None:
        self._max_ratio = max_ratio
        self._norms: dict[str, float] = {}
        self._reference = 0.0

    def begin_round(self) -> None:
        """Compare with the norms so far from now on."""
        self._reference, self._norms = lower_median(self._norms.values()), {}

    def admit(self, site: str, norm: float) -> None:
        """Note an update's norm.

        Raises:
            ValueError: It is out of proportion to those of the round before.
        """
        self._check(site, norm, self._reference)
        self._norms[site] = norm

    def forget(self, site: str) -> None:
        """Take back a site's update."""
        del self._norms[site]

    def outliers(self, sites: Iterable[str]) -> dict[str, str]:
        """Why updates are out of proportion to those of ``sites`` in the same round, by site."""
        reference, found = lower_median(self._norms[site] for site in sites), {}
        for site in sorted(self._norms):
            try:
                self._check(site, self._norms[site], reference)
            except ValueError as error:
                found[site] = str(error)
        return found

    def _check(self, site: str, norm: float, reference: float) -> None:
        if self._max_ratio is not None and reference and norm > self._max_ratio * reference:
            raise ValueError(
                f"update of {site!r} refused: its norm {norm:.4g} is {norm / reference:.3g} times "
                f"that of the others ({reference:.4g}), expected at most {self._max_ratio:g} times"
            )
