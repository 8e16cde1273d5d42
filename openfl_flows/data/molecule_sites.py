"""Molecules dealt to sites, each site's own split, and the table that shows it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from openfl_flows.data import partition
from openfl_flows.data.molecules import Molecules, split
from openfl_flows.data.strata import murcko_scaffolds, property_bins, ring_counts


@dataclass(frozen=True, kw_only=True)
class PartitionConfig:
    """How molecules are dealt to sites.

    Attributes:
        name: ``iid``; ``sizes`` by given fractions; ``dirichlet`` with skewed classes;
            ``scaffold`` with every Murcko scaffold at one site only.
        fractions: Share of each site, for ``sizes``.
        alpha: Concentration, for ``dirichlet``: small is more skewed.
        by: Classes that ``dirichlet`` skews and that the report counts: rings, atoms, or
            quantile bins of the dipole (``mu``) or the orbital energy (``homo``).
        bins: Number of quantile bins.
        split: Fractions of each site's training, validation and test part.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Literal["iid", "sizes", "dirichlet", "scaffold"] = "iid"
    fractions: tuple[float, ...] | None = None
    alpha: float | None = None
    by: Literal["rings", "atoms", "mu", "homo"] = "rings"
    bins: int = 5
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)


class SiteMolecules(NamedTuple):
    """One site's molecules."""

    train: Molecules
    val: Molecules
    test: Molecules


def shares(
    molecules: Molecules, sites: Sequence[str], config: PartitionConfig, seed: int
) -> dict[str, Molecules]:
    """Deal molecules to sites; each keeps them in the order they had.

    Sites are served in the order of their names, so that naming them in another order changes
    nothing; ``config.fractions`` belong to the sites as they are named. A single site gets all.

    Raises:
        ValueError: A site would be empty, or an option does not fit.
    """
    parts = _parts(molecules, sites, config, seed)
    return {site: molecules.subset(part) for site, part in zip(sorted(sites), parts, strict=True)}


def deal(
    molecules: Molecules, sites: Sequence[str], config: PartitionConfig, seed: int
) -> dict[str, SiteMolecules]:
    """Deal molecules to sites, then split each site's own into training, validation and test.

    Raises:
        ValueError: As :func:`shares`, or a site has too few to split.
    """
    dealt = {}
    for site, own in shares(molecules, sites, config, seed).items():
        try:
            indices = split(len(own), seed=seed, fractions=config.split)
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
    sizes = {site: sum(len(part) for part in own) for site, own in dealt.items()}
    everything = _concatenate([part for own in dealt.values() for part in own])
    labels = _labels(everything, config)
    bounds = np.cumsum([0, *sizes.values()])
    slices = tuple(np.arange(a, b) for a, b in zip(bounds[:-1], bounds[1:], strict=True))
    classes = partition.composition(slices, labels)
    names = tuple(_class_name(config, row.label) for row in classes)
    rows: list[tuple[str | int, ...]] = [
        (site, *(len(part) for part in own), *(row.counts[i] for row in classes))
        for i, (site, own) in enumerate(dealt.items())
    ]
    return ("site", "train", "val", "test", *names), tuple(rows)


def _parts(
    molecules: Molecules, sites: Sequence[str], config: PartitionConfig, seed: int
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
        labels = _labels(molecules, config)
        return partition.dirichlet(labels, sites=num, alpha=config.alpha, seed=seed, min_size=10)
    if config.name == "scaffold":
        return partition.by_group(murcko_scaffolds(molecules.smiles), sites=num)
    return partition.iid(len(molecules), sites=num, seed=seed)


def _labels(molecules: Molecules, config: PartitionConfig) -> NDArray[np.int64]:
    if config.by == "rings":
        return ring_counts(molecules.smiles)
    if config.by == "atoms":
        return molecules.num_atoms
    column = 0 if config.by == "mu" else 1
    return property_bins(molecules.targets[:, column], bins=config.bins)


def _class_name(config: PartitionConfig, label: str) -> str:
    if config.by in ("rings", "atoms"):
        return f"{label} {config.by}"
    return f"{config.by} unknown" if label == "-1" else f"{config.by} bin {label}"


def _concatenate(parts: Sequence[Molecules]) -> Molecules:
    first = parts[0]
    return Molecules(
        smiles=tuple(smiles for part in parts for smiles in part.smiles),
        atoms=np.concatenate([part.atoms for part in parts]),
        bonds=np.concatenate([part.bonds for part in parts]),
        targets=np.concatenate([part.targets for part in parts]),
        charged=np.concatenate([part.charged for part in parts]),
        vocabulary=first.vocabulary,
        target_names=first.target_names,
    )
