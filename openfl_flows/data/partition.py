"""Divide a data set between sites: sorted, disjoint index arrays that cover every item."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Parts = tuple[NDArray[np.int64], ...]
"""One sorted index array per site."""

_MAX_DRAWS = 1000
_FRACTION_TOLERANCE = 1e-6


def iid(num: int, *, sites: int, seed: int) -> Parts:
    """Deal items at random into parts whose sizes differ by at most one.

    Args:
        num: Number of items.
        sites: Number of parts; one part is simply 0..num-1.
        seed: Of the permutation (PCG64).

    Returns:
        One index array per site.

    Raises:
        ValueError: Fewer than one site, or more sites than items.
    """
    _check_sites(num, sites)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(num)
    return _sorted(np.array_split(order, sites))


def by_sizes(num: int, sizes: Sequence[int], *, seed: int) -> Parts:
    """Deal items at random into parts of given sizes.

    Args:
        num: Number of items.
        sizes: Items of each site, in site order, each at least 1, summing to `num`.
        seed: Of the permutation (PCG64).

    Returns:
        One index array per site.

    Raises:
        ValueError: A site would be empty, or the sizes do not sum to `num`.
    """
    _check_sites(num, len(sizes))
    if min(sizes) < 1:
        raise ValueError(f"sizes are {tuple(sizes)}, expected at least 1 item at each site")
    if sum(sizes) != num:
        raise ValueError(f"sizes {tuple(sizes)} sum to {sum(sizes)}, expected {num} items")
    order = np.random.Generator(np.random.PCG64(seed)).permutation(num)
    return _sorted(np.split(order, np.cumsum(sizes)[:-1]))


def by_fractions(num: int, fractions: Sequence[float], *, seed: int) -> Parts:
    """Deal items at random in given proportions, rounded by largest remainder.

    Args:
        num: Number of items.
        fractions: Share of each site, in site order, positive, summing to 1.
        seed: Of the permutation (PCG64).

    Returns:
        One index array per site.

    Raises:
        ValueError: A fraction is not positive, they do not sum to 1, or a site would be empty.
    """
    _check_sites(num, len(fractions))
    shares = np.asarray(fractions, dtype=np.float64)
    if not (shares > 0).all():
        raise ValueError(f"fractions are {tuple(fractions)}, expected each above 0")
    if not abs(shares.sum() - 1) <= _FRACTION_TOLERANCE:
        raise ValueError(f"fractions {tuple(fractions)} sum to {shares.sum():g}, expected 1")
    sizes = np.floor(shares * num).astype(np.int64)
    remainders = shares * num - sizes
    sizes[np.argsort(-remainders, kind="stable")[: num - sizes.sum()]] += 1
    if sizes.min() < 1:
        raise ValueError(
            f"fractions {tuple(fractions)} of {num} items give sizes {tuple(sizes.tolist())}, "
            "expected at least 1 item at each site"
        )
    return by_sizes(num, sizes.tolist(), seed=seed)


def dirichlet(
    labels: ArrayLike, *, sites: int, alpha: float, seed: int, min_size: int = 1
) -> Parts:
    """Skew the label mix of sites: each class is shared out in proportions p ~ Dirichlet(alpha).

    Small alpha gives sites with few classes, large alpha approaches `iid`. Proportions are drawn
    again until each site has `min_size` items (Hsu, Qi and Brown, 2019, arXiv:1909.06335; the
    redraw as in Li et al., 2022, arXiv:2102.02079).

    Args:
        labels: (N,) class of each item, of any type that sorts; NaN is a class of its own.
        sites: Number of parts.
        alpha: Concentration, above 0.
        seed: Of proportions and permutations (PCG64).
        min_size: Fewest items that a site may have.

    Returns:
        One index array per site.

    Raises:
        ValueError: More sites than items, alpha not above 0, or no draw left each site `min_size`.
    """
    classes, inverse = np.unique(np.asarray(labels), return_inverse=True)
    num = len(inverse)
    _check_sites(num, sites)
    if not alpha > 0 or np.isinf(alpha):
        raise ValueError(f"alpha is {alpha}, expected a finite number above 0")
    if min_size < 1 or min_size * sites > num:
        raise ValueError(
            f"min_size is {min_size}, expected 1 to {num // sites} for {num} items at {sites} sites"
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    members = [rng.permutation(np.flatnonzero(inverse == c)) for c in range(len(classes))]
    concentration = np.full(sites, alpha)
    smallest = 0
    for _ in range(_MAX_DRAWS):
        cuts = [
            np.rint(np.cumsum(rng.dirichlet(concentration))[:-1] * len(items)).astype(np.int64)
            for items in members
        ]
        shares = [np.split(items, cut) for items, cut in zip(members, cuts, strict=True)]
        parts = [np.concatenate(per_site) for per_site in zip(*shares, strict=True)]
        size = min(len(part) for part in parts)
        if size >= min_size:
            return _sorted(parts)
        smallest = max(smallest, size)
    raise ValueError(
        f"Dirichlet(alpha={alpha}) of {num} items in {len(classes)} classes at {sites} sites: in "
        f"{_MAX_DRAWS} draws the smallest site had at most {smallest} items, expected {min_size}; "
        "raise alpha or lower min_size or sites"
    )


def by_range(values: ArrayLike, *, sites: int, seed: int) -> Parts:
    """Give each site a contiguous range of a value, in parts whose sizes differ by at most one.

    Items of one value that falls on a border are shared out at random; so are, in equal numbers at
    every site, items without a value.

    Args:
        values: (N,) numbers; NaN is a missing value. Site 0 has the lowest.
        sites: Number of parts.
        seed: Of ties and missing values (PCG64).

    Returns:
        One index array per site.

    Raises:
        ValueError: Fewer than one site, or more sites than items that have a value.
    """
    array = np.asarray(values, dtype=np.float64)
    _check_sites(int((~np.isnan(array)).sum()), sites)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(array))
    known = ~np.isnan(array[order])
    ranked = order[known][np.argsort(array[order[known]], kind="stable")]
    # The surplus of one starts at the other end, so that whole parts are as equal as can be.
    missing = np.array_split(order[~known], sites)[::-1]
    ranges = np.array_split(ranked, sites)
    return _sorted([np.concatenate(pair) for pair in zip(ranges, missing, strict=True)])


def by_group(groups: Sequence[str], *, sites: int) -> Parts:
    """Keep groups (scaffolds, clusters, sources) whole: none is at two sites.

    The largest group first goes to the site with the fewest items; ties go to the lower name and
    the lower site, so the result depends on nothing but the arguments.

    Args:
        groups: (N,) group name of each item; the empty string is a group like any other.
        sites: Number of parts.

    Returns:
        One index array per site.

    Raises:
        ValueError: Fewer than one site, or more sites than groups.
    """
    sizes = Counter(groups)
    _check_sites(len(groups), sites)
    if sites > len(sizes):
        raise ValueError(f"{sites} sites but {len(sizes)} groups, expected a group for each site")
    loads = [0] * sites
    site_of: dict[str, int] = {}
    for group, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        site = loads.index(min(loads))
        site_of[group] = site
        loads[site] += size
    assigned = np.array([site_of[group] for group in groups], dtype=np.int64)
    return _sorted([np.flatnonzero(assigned == site) for site in range(sites)])


@dataclass(frozen=True)
class CompositionRow:
    """One class of the class-by-site table.

    Attributes:
        label: Name of the class.
        counts: Items of that class, per site.
    """

    label: str
    counts: tuple[int, ...]


def composition(parts: Parts, labels: ArrayLike) -> tuple[CompositionRow, ...]:
    """Count the classes at each site, for a report.

    Args:
        parts: One index array per site.
        labels: (N,) class of each item.

    Returns:
        One row per class, in sorted order of the labels.

    Raises:
        ValueError: An index has no label.
    """
    classes, inverse = np.unique(np.asarray(labels), return_inverse=True)
    for site, part in enumerate(parts):
        if part.size and part.max() >= len(inverse):
            raise ValueError(f"site {site} has item {part.max()}, but {len(inverse)} labels exist")
    counts = [np.bincount(inverse[part], minlength=len(classes)) for part in parts]
    return tuple(
        CompositionRow(str(label), tuple(int(count[row]) for count in counts))
        for row, label in enumerate(classes)
    )


def _check_sites(num: int, sites: int) -> None:
    if sites < 1:
        raise ValueError(f"sites is {sites}, expected at least 1")
    if sites > num:
        raise ValueError(f"{sites} sites but {num} items, expected an item for each site")


def _sorted(parts: Sequence[NDArray[np.integer]]) -> Parts:
    return tuple(np.sort(part).astype(np.int64) for part in parts)
