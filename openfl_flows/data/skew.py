"""How unlike the sites' data are: histograms at a site against those of all sites together."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import jensenshannon

NOTE = (
    "Jensen-Shannon divergence of each site's histogram from that of all sites, in bits: 0 equal, "
    "1 nothing in common"
)
"""What a table of :func:`divergence` says of itself."""


def divergence(
    labels: ArrayLike, parts: Sequence[NDArray[np.int64]], known: NDArray[np.bool_]
) -> tuple[float, ...]:
    """Jensen-Shannon divergence of each part's classes from those of all parts together.

    ``JS(P, Q) = (KL(P, M) + KL(Q, M)) / 2`` in bits, with ``M = (P + Q) / 2``: 0 for equal
    distributions, 1 for distributions that share no class (Lin 1991).

    Args:
        labels: (N,) class of each item.
        parts: Index arrays that cover the items, one for each site.
        known: (N,) which items count.

    Returns:
        One number per part; NaN for a part without an item that counts.
    """
    classes, inverse = np.unique(np.asarray(labels), return_inverse=True)
    counts = [np.bincount(inverse[p[known[p]]], minlength=len(classes)) for p in parts]
    pooled = np.sum(counts, axis=0)
    return tuple(
        # SciPy gives the distance, the square root of the divergence.
        float(jensenshannon(count, pooled, base=2) ** 2) if count.any() else float("nan")
        for count in counts
    )
