"""Structures dealt to sites, each site's own split by cluster, and the tables that show it."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from openfl_flows.data import partition
from openfl_flows.data.blind.split import indices_by_part
from openfl_flows.data.skew import divergence
from openfl_flows.data.strata import property_bins
from openfl_flows.data.structures.select import Structure, StructureSelection
from openfl_flows.seeds import derived_seed

_BINS = 4
"""Quantile bins in which tokens and dates are compared."""


class SiteStructures(NamedTuple):
    """One site's structures, each part in the order of their names."""

    train: tuple[Structure, ...]
    val: tuple[Structure, ...]
    test: tuple[Structure, ...]


def deal(
    structures: Sequence[Structure],
    sites: Sequence[str],
    selection: StructureSelection,
    seed: int,
    parts: Mapping[str, str] | None = None,
) -> dict[str, SiteStructures]:
    """Deal structures to sites and split them into training, validation and test.

    Sites are served in the order of their names, so that naming them in another order changes
    nothing; ``selection.fractions`` belong to the sites as they are named. :func:`split` of what a
    site holds, held-out structures and all, gives the same three parts again.

    Args:
        structures: Of all sites.
        sites: Their names.
        selection: How to deal, and to split where `parts` does not say.
        seed: Of all that is drawn.
        parts: The part of each structure by its name, where a blind split tells it; one that is in
            none is left out.

    Raises:
        ValueError: A site would be empty, or cannot be split.
    """
    if parts is not None:
        return _deal_parts(structures, sites, selection, seed, parts)
    whole = None
    if selection.held_out is not None:
        whole = split(structures, selection, seed, "the selection")
    pieces = whole.train if whole else tuple(structures)
    dealt = {}
    for site, part in zip(sorted(sites), _parts(pieces, sites, selection, seed), strict=True):
        own = tuple(pieces[i] for i in part)
        dealt[site] = (
            whole._replace(train=own) if whole else split(own, selection, seed, f"site {site!r}")
        )
    return dealt


def split(
    structures: Sequence[Structure], selection: StructureSelection, seed: int, owner: str
) -> SiteStructures:
    """Divide structures into training, validation and test so that no cluster is in two of them.

    Each group of structures that share clusters, however indirectly, has a number from 0 to 1 that
    is drawn from the seed and a cluster's name alone. The lowest are tested on, the next validated
    on: with ``selection.held_out`` as many groups as it says, else those below the shares of
    ``selection.split``, so that a structure that is added later moves no other and a cluster is in
    the same part at every site. Only where that leaves a part empty, or twice as large as its
    share, the groups at the border change sides.

    Args:
        structures: What one site has.
        selection: How to split.
        seed: Of the numbers.
        owner: Whose structures they are, for the message.

    Raises:
        ValueError: There are fewer groups than parts need.
    """
    ordered = _numbered_groups(structures, seed)
    held = selection.held_out
    if len(ordered) <= 2 * (held or 1):
        raise ValueError(
            f"{owner} has {len(structures)} structures in {len(ordered)} groups of like sequences, "
            f"expected more than {2 * (held or 1)}: some to train, {held or 1} to validate and "
            f"{held or 1} to test" + ("" if held else " (data.held_out needs fewer at each site)")
        )
    if selection.split is None:
        assert held is not None
        num_test = num_val = held
    else:
        _, val, test = selection.split
        num_test = min(_count(ordered, test, 2 * test * len(structures)), len(ordered) - 2)
        rest = ordered[num_test:]
        num_val = min(_count(rest, test + val, 2 * val * len(structures)), len(rest) - 1)
    num_held = num_test + num_val
    parts = (ordered[num_held:], ordered[num_test:num_held], ordered[:num_test])
    return SiteStructures(
        *(_by_name(each for _, group in part for each in group) for part in parts)
    )


def pool(parts: Sequence[SiteStructures]) -> SiteStructures:
    """All sites' structures as if one company owned them; each keeps its role in the split."""
    roles = zip(*parts, strict=True)
    return SiteStructures(*(_by_name({each for part in role for each in part}) for role in roles))


def cluster_groups(structures: Sequence[Structure]) -> list[str]:
    """Name the group of each structure: those that share a cluster, however indirectly, are one.

    Returns:
        The first of the names in its group, for each structure; one without clusters is alone.
    """
    num = len(structures)
    clusters = sorted({cluster for structure in structures for cluster in structure.clusters})
    node = {cluster: num + i for i, cluster in enumerate(clusters)}
    links = [(i, node[c]) for i, structure in enumerate(structures) for c in structure.clusters]
    rows, columns = np.array(links, dtype=np.int64).reshape(-1, 2).T
    size = num + len(clusters)
    graph = coo_array((np.ones(len(links)), (rows, columns)), shape=(size, size))
    labels = connected_components(graph, directed=False)[1][:num]
    first: dict[int, str] = {}
    for label, structure in sorted(
        zip(labels, structures, strict=True), key=lambda each: each[1].name
    ):
        first.setdefault(int(label), structure.name)
    return [first[int(label)] for label in labels]


def composition_table(
    dealt: Mapping[str, SiteStructures], selection: StructureSelection
) -> tuple[tuple[str, ...], tuple[tuple[str | int, ...], ...]]:
    """Columns and rows: per site the sizes of its parts, then what its own structures are.

    Own are those that no other site has: without the held-out ones where these are shared.
    """
    columns = (
        *("site", "train", "val", "test", "groups", "with ligand", "several chains"),
        *("nucleic acid", "median tokens", "released from", "released to"),
    )
    return columns, tuple(
        _composition(site, parts, _own(parts, selection)) for site, parts in dealt.items()
    )


def skew_table(
    dealt: Mapping[str, SiteStructures], selection: StructureSelection
) -> tuple[tuple[str, ...], tuple[tuple[str | float, ...], ...]]:
    """Columns and rows: how far each site's histograms are from those of all sites together.

    Jensen-Shannon divergences in bits, from 0 (equal) to 1 (nothing in common), of quantile bins of
    tokens and of release dates, and of whether there is a ligand; of what is each site's own.
    """
    owned = [_own(parts, selection) for parts in dealt.values()]
    bounds = np.cumsum([0, *map(len, owned)])
    slices = [np.arange(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    whole = [structure for own in owned for structure in own]
    bins = min(_BINS, len(whole))
    labels = {
        "tokens": property_bins([s.num_tokens for s in whole], bins=bins),
        "dates": property_bins([s.released.toordinal() for s in whole], bins=bins),
        "ligand": np.array([bool(s.ligands) for s in whole]),
    }
    everything = np.ones(len(whole), dtype=bool)
    columns = {name: divergence(label, slices, everything) for name, label in labels.items()}
    rows: list[tuple[str | float, ...]] = [
        (site, *(values[i] for values in columns.values())) for i, site in enumerate(dealt)
    ]
    return ("site", *columns), tuple(rows)


def _deal_parts(
    structures: Sequence[Structure],
    sites: Sequence[str],
    selection: StructureSelection,
    seed: int,
    parts: Mapping[str, str],
) -> dict[str, SiteStructures]:
    kept = [structure for structure in structures if parts[structure.name]]
    dealt = {}
    for site, share in zip(sorted(sites), _parts(kept, sites, selection, seed), strict=True):
        own = [kept[i] for i in share]
        try:
            indices = indices_by_part([parts[structure.name] for structure in own])
        except ValueError as error:
            raise ValueError(f"site {site!r} has {len(own)} structures: {error}") from None
        dealt[site] = SiteStructures(*(_by_name(own[i] for i in index) for index in indices))
    return dealt


def _numbered_groups(
    structures: Sequence[Structure], seed: int
) -> list[tuple[float, list[Structure]]]:
    groups: dict[str, list[Structure]] = {}
    for name, structure in zip(cluster_groups(structures), structures, strict=True):
        groups.setdefault(name, []).append(structure)

    def number(group: list[Structure]) -> float:
        clusters = {cluster for structure in group for cluster in structure.clusters}
        names = clusters or {structure.name for structure in group}
        return min(derived_seed("split", seed, name) for name in names) / 2**63

    return sorted(((number(group), group) for group in groups.values()), key=lambda each: each[0])


def _count(ordered: list[tuple[float, list[Structure]]], border: float, most: float) -> int:
    """Groups below the border with at most so many structures in all, but at least one group."""
    num, size = 0, 0
    for number, group in ordered:
        size += len(group)
        if num and (number >= border or size > most):
            break
        num += 1
    return num


def _own(parts: SiteStructures, selection: StructureSelection) -> list[Structure]:
    kept = parts if selection.held_out is None else parts[:1]
    return [structure for part in kept for structure in part]


def _composition(
    site: str, parts: SiteStructures, own: Sequence[Structure]
) -> tuple[str | int, ...]:
    dates = sorted(structure.released for structure in own)
    return (
        site,
        len(parts.train),
        len(parts.val),
        len(parts.test),
        len(set(cluster_groups(own))),
        sum(bool(structure.ligands) for structure in own),
        sum(len(structure.polymers) > 1 for structure in own),
        sum(not {"dna", "rna"}.isdisjoint(structure.polymers) for structure in own),
        round(median(structure.num_tokens for structure in own)),
        dates[0].isoformat(),
        dates[-1].isoformat(),
    )


def _parts(
    structures: Sequence[Structure],
    sites: Sequence[str],
    selection: StructureSelection,
    seed: int,
) -> partition.Parts:
    try:
        return _shares(structures, sites, selection, seed)
    except ValueError as error:
        raise ValueError(f"data.deal={selection.deal}: {error}") from None


def _shares(
    structures: Sequence[Structure],
    sites: Sequence[str],
    selection: StructureSelection,
    seed: int,
) -> partition.Parts:
    num = len(sites)
    if selection.deal == "sizes":
        fractions = selection.fractions
        if fractions is None or len(fractions) != num:
            raise ValueError(f"fractions {fractions}, expected one for each of {num} sites")
        share = dict(zip(sites, fractions, strict=True))
        return partition.by_fractions(
            len(structures), [share[site] for site in sorted(sites)], seed=seed
        )
    if selection.deal == "clusters":
        return partition.by_group(cluster_groups(structures), sites=num)
    if selection.deal == "dates":
        days = [structure.released.toordinal() for structure in structures]
        return partition.by_range(days, sites=num, seed=seed)
    if selection.deal == "ligands":
        return partition.by_range([not s.ligands for s in structures], sites=num, seed=seed)
    return partition.iid(len(structures), sites=num, seed=seed)


def _by_name(structures: Iterable[Structure]) -> tuple[Structure, ...]:
    return tuple(sorted(structures, key=lambda structure: structure.name))
