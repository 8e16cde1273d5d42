"""Molecules dealt to sites, each site's own split, and the table that shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from openfl_flows.data import partition
from openfl_flows.data.blind.split import BlindSplit, indices_by_part
from openfl_flows.data.molecule_table import MoleculeTable
from openfl_flows.data.molecules import split
from openfl_flows.data.skew import divergence
from openfl_flows.data.strata import murcko_scaffolds, property_bins, ring_counts

By = Literal["rings", "atoms", "mu", "homo"]


@dataclass(frozen=True, kw_only=True)
class PartitionConfig:
    """How molecules are dealt to sites.

    Attributes:
        name: ``iid``; ``sizes`` by given fractions; ``dirichlet`` with skewed classes;
            ``scaffold`` with every Murcko scaffold at one site only; ``ranges`` with a contiguous
            range of sizes, rings or a property at each site, ties dealt at random.
        fractions: Share of each site, for ``sizes``.
        alpha: Concentration, for ``dirichlet``: small is more skewed.
        by: What ``dirichlet`` and ``ranges`` skew and the report counts: rings, atoms, or
            the dipole (``mu``) or the orbital energy (``homo``), counted in quantile bins.
            Molecules without a value are a class of their own to ``dirichlet`` and dealt at random
            by ``ranges``.
        bins: Number of quantile bins.
        split: Fractions of each site's training, validation and test part.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Literal["iid", "sizes", "dirichlet", "scaffold", "ranges"] = "iid"
    fractions: tuple[float, ...] | None = None
    alpha: float | None = None
    by: By = "rings"
    bins: int = 5
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)


_TARGETS = {"mu": 0, "homo": 1}
"""Columns of the properties among the targets."""


class SiteMolecules(NamedTuple):
    """One site's molecules."""

    train: MoleculeTable
    val: MoleculeTable
    test: MoleculeTable


def shares(
    molecules: MoleculeTable, sites: Sequence[str], config: PartitionConfig, seed: int
) -> dict[str, MoleculeTable]:
    """Deal molecules to sites; each keeps them in the order they had.

    Sites are served in the order of their names, so that naming them in another order changes
    nothing; ``config.fractions`` belong to the sites as they are named. A single site gets all.

    Raises:
        ValueError: A site would be empty, or an option does not fit.
    """
    parts = _parts(molecules, sites, config, seed)
    return {site: molecules.subset(part) for site, part in zip(sorted(sites), parts, strict=True)}


def deal(
    molecules: MoleculeTable,
    sites: Sequence[str],
    config: PartitionConfig,
    seed: int,
    blind: BlindSplit | None = None,
) -> dict[str, SiteMolecules]:
    """Deal molecules to sites, then split each site's own into training, validation and test.

    Args:
        molecules: Of all sites.
        sites: Their names.
        config: How to deal, and to split where there is no blind split.
        seed: Of all that is drawn.
        blind: Tells the parts instead, where the parties have a key.

    Raises:
        ValueError: As :func:`shares`, or a site has too few to split.
    """
    dealt = {}
    for site, own in shares(molecules, sites, config, seed).items():
        try:
            if blind is None:
                indices = split(len(own), seed=seed, fractions=config.split)
            else:
                indices = indices_by_part(blind.molecule_parts(own.smiles))
        except ValueError as error:
            raise ValueError(f"site {site!r} has {len(own)} molecules: {error}") from None
        dealt[site] = SiteMolecules(*(own.subset(index) for index in indices))
    return dealt


def pool(parts: Sequence[SiteMolecules]) -> SiteMolecules:
    """All sites' molecules as if one company owned them; each keeps its role in the split."""
    return SiteMolecules(*(_concatenate(role) for role in zip(*parts, strict=True)))


def composition_table(
    dealt: Mapping[str, SiteMolecules], config: PartitionConfig
) -> tuple[tuple[str, ...], tuple[tuple[str | int, ...], ...]]:
    """Columns and rows: per site the sizes of its parts, then its molecules of each class."""
    everything, slices = _site_by_site(dealt)
    classes = partition.composition(slices, _labels(everything, config.by, config.bins))
    names = tuple(_class_name(config, row.label) for row in classes)
    rows: list[tuple[str | int, ...]] = [
        (site, *(len(part) for part in own), *(row.counts[i] for row in classes))
        for i, (site, own) in enumerate(dealt.items())
    ]
    return ("site", "train", "val", "test", *names), tuple(rows)


def skew_table(
    dealt: Mapping[str, SiteMolecules], config: PartitionConfig
) -> tuple[tuple[str, ...], tuple[tuple[str | float, ...], ...]]:
    """Columns and rows: how far each site's histograms are from those of all sites together.

    Jensen-Shannon divergences in bits, from 0 (equal) to 1 (nothing in common), of rings, heavy
    atoms and quantile bins of the targets; molecules without a target are left out of its column,
    and a target that no molecule has is left out altogether.
    """
    everything, slices = _site_by_site(dealt)
    columns = {}
    for kind in get_args(By):
        column = _TARGETS.get(kind)
        known = np.ones(len(everything), dtype=bool)
        if column is not None:
            known = ~np.isnan(everything.targets[:, column])
        if known.sum() >= config.bins:
            columns[kind] = divergence(_labels(everything, kind, config.bins), slices, known)
    rows: list[tuple[str | float, ...]] = [
        (site, *(values[i] for values in columns.values())) for i, site in enumerate(dealt)
    ]
    return ("site", *columns), tuple(rows)


def _parts(
    molecules: MoleculeTable, sites: Sequence[str], config: PartitionConfig, seed: int
) -> partition.Parts:
    num = len(sites)
    if config.name == "sizes":
        if config.fractions is None or len(config.fractions) != num:
            raise ValueError(
                f"partition.fractions={config.fractions}, expected one fraction for each of "
                f"{num} sites"
            )
        share = dict(zip(sites, config.fractions, strict=True))
        ordered = [share[site] for site in sorted(sites)]
        return partition.by_fractions(len(molecules), ordered, seed=seed)
    if config.name == "dirichlet":
        if config.alpha is None:
            raise ValueError("partition.alpha is missing, expected a number above 0 for dirichlet")
        labels = _labels(molecules, config.by, config.bins)
        return partition.dirichlet(labels, sites=num, alpha=config.alpha, seed=seed, min_size=10)
    if config.name == "ranges":
        return partition.by_range(_values(molecules, config.by), sites=num, seed=seed)
    if config.name == "scaffold":
        return partition.by_group(murcko_scaffolds(molecules.smiles), sites=num)
    return partition.iid(len(molecules), sites=num, seed=seed)


def _values(molecules: MoleculeTable, by: By) -> NDArray[np.float64]:
    """What ``by`` names as numbers, NaN where a molecule has none."""
    if by == "rings":
        return ring_counts(molecules.smiles).astype(np.float64)
    if by == "atoms":
        return molecules.num_atoms.astype(np.float64)
    return molecules.targets[:, _TARGETS[by]].astype(np.float64)


def _labels(molecules: MoleculeTable, by: By, bins: int) -> NDArray[np.int64]:
    """What ``by`` names as classes."""
    values = _values(molecules, by)
    return property_bins(values, bins=bins) if by in _TARGETS else values.astype(np.int64)


def _site_by_site(dealt: Mapping[str, SiteMolecules]) -> tuple[MoleculeTable, partition.Parts]:
    """All molecules in the order of sites, and where each site's are."""
    sizes = [sum(len(part) for part in own) for own in dealt.values()]
    bounds = np.cumsum([0, *sizes])
    slices = tuple(np.arange(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True))
    return _concatenate([part for own in dealt.values() for part in own]), slices


def _class_name(config: PartitionConfig, label: str) -> str:
    if config.by in ("rings", "atoms"):
        return f"{label} {config.by}"
    return f"{config.by} unknown" if label == "-1" else f"{config.by} bin {label}"


def _concatenate(parts: Sequence[MoleculeTable]) -> MoleculeTable:
    return parts[0].joined(parts[1:])
