"""Rules by which proteins are dealt to sites."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from openfl_flows.data import partition
from openfl_flows.data.proteins.clusters import cluster_sequences
from openfl_flows.data.proteins.source import Kind, Protein
from openfl_flows.data.strata import property_bins
from openfl_flows.seeds import derived_seed

QUANTILES = 5
"""Bins in which values are dealt, and values and lengths compared."""


@dataclass(frozen=True, kw_only=True)
class ProteinPartition:
    """How proteins are dealt to sites.

    Training and validation proteins are dealt together, and each stays what it is. A single site
    gets everything, whatever the rule.

    Attributes:
        name: ``iid``; ``sizes`` by given fractions; ``dirichlet`` with the proportions of sites
            drawn anew for every class; ``attribute`` with every value of a key of the headers at
            one site only, the largest dealt first; ``clusters`` with no cluster of like sequences
            at two sites (see :mod:`~openfl_flows.data.proteins.clusters`); ``tutorial``, see
            :func:`tutorial_parts`.
        fractions: Share of each site, for ``sizes``.
        alpha: Concentration, for ``dirichlet``: small is more skewed.
        attribute: Key of the headers, such as ``KINGDOM``, for ``attribute``.
        identity: Share of identical residues from which on sequences are alike, for ``clusters``.
        tests: Every site holds all test sets (``shared``), or its share of each (``dealt``): with
            its group for ``attribute`` and ``clusters``, otherwise every class in the proportions
            in which its training and validation proteins were dealt.
        val: Share of each site's training proteins that is held out for validation where there is
            no validation protein at all.
        min_size: Fewest training and validation proteins of a site, for ``dirichlet``.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Literal["iid", "sizes", "dirichlet", "attribute", "clusters", "tutorial"] = "iid"
    fractions: tuple[float, ...] | None = None
    alpha: float | None = None
    attribute: str | None = None
    identity: float = 0.3
    tests: Literal["shared", "dealt"] = "shared"
    val: float = 0.1
    min_size: int = 10

    def __post_init__(self) -> None:
        """Refuse shares out of range."""
        if not 0 < self.val < 1:
            raise ValueError(f"partition.val={self.val}, expected a share between 0 and 1")
        if not 0 < self.identity <= 1:
            raise ValueError(f"partition.identity={self.identity}, expected above 0, at most 1")
        if self.min_size < 1:
            raise ValueError(f"partition.min_size={self.min_size}, expected at least 1")


def share_out(
    learned: Sequence[Protein],
    tested: Sequence[Protein],
    sites: Sequence[str],
    config: ProteinPartition,
    kind: Kind,
    seed: int,
    cache: Path | None,
) -> partition.Parts:
    """Choose what each site gets.

    Args:
        learned: Training and validation proteins.
        tested: The proteins of all test sets.
        sites: Their names; one gets everything.
        config: How to deal.
        kind: What is learned of a protein.
        seed: Of all that is drawn.
        cache: Folder where clusters of sequences are kept for the next time.

    Returns:
        For each site, in the order of names, indices into `learned` followed by `tested`.

    Raises:
        ValueError: An option does not fit, or there are more sites than can be served.
    """
    whole = [*learned, *tested]
    if len(sites) == 1:
        return (np.arange(len(whole)),)
    shared = config.tests == "shared"
    if config.name in ("attribute", "clusters"):
        parts = partition.by_group(
            _groups(learned if shared else whole, config, cache), sites=len(sites)
        )
    else:
        if kind == "residue_to_class" and config.name in ("dirichlet", "tutorial"):
            raise ValueError(
                f"a protein of {kind} has no class of its own to deal by, expected another name"
            )
        labels = _labels(whole, kind)
        parts = _drawn(labels[: len(learned)], sites, config, seed)
        if not shared:
            return _with_tests(parts, labels, tested, seed)
    if not shared:
        return parts
    every_test = np.arange(len(learned), len(whole))
    return tuple(np.concatenate([part, every_test]) for part in parts)


def tutorial_parts(labels: NDArray[np.int64], sites: int, seed: int) -> partition.Parts:
    """Deal items as the code of NVIDIA's federated BioNeMo tutorial does.

    There the generator of the proportions is seeded anew, with 0, for every class, so that all
    classes are dealt in the same proportions, Dirichlet(1, ..., 1): 0.2675, 0.4222 and 0.3103 for
    three sites. Sites differ in how much they have, not in their mix of classes. Each class is cut
    at ``int(cumulative proportion x items)``. Only the order of items within classes is another: it
    depends on `seed`, there on the order of a Python set.

    Source: ``partition_data`` in ``examples/advanced/bionemo/task_fitting/split_data.py`` of
    NVIDIA/NVFlare (read at 05deddda).

    Args:
        labels: (N,) class of each item.
        sites: Number of parts.
        seed: Of the order within classes (PCG64).

    Returns:
        One sorted index array per site.
    """
    bounds = np.cumsum(np.random.RandomState(0).dirichlet(np.ones(sites)))[:-1]
    rng = np.random.Generator(np.random.PCG64(seed))
    shares = []
    for label in np.unique(labels):
        items = rng.permutation(np.flatnonzero(labels == label))
        shares.append(np.split(items, (bounds * len(items)).astype(np.int64)))
    return tuple(np.sort(np.concatenate(own)) for own in zip(*shares, strict=True))


def _groups(proteins: Sequence[Protein], config: ProteinPartition, cache: Path | None) -> list[str]:
    if config.name == "clusters":
        return cluster_sequences(
            [protein.name for protein in proteins],
            [protein.record.sequence for protein in proteins],
            identity=config.identity,
            cache=cache,
        )
    if config.attribute is None:
        raise ValueError("partition.attribute is missing, expected a key such as KINGDOM")
    for protein in proteins:
        if config.attribute not in protein.record.attributes:
            raise ValueError(
                f"line {protein.record.line}: {protein.name} has no {config.attribute}=, expected "
                "one in the header of every protein that is dealt"
            )
    return [protein.record.attributes[config.attribute] for protein in proteins]


def _drawn(
    labels: NDArray[np.int64], sites: Sequence[str], config: ProteinPartition, seed: int
) -> partition.Parts:
    num = len(sites)
    if config.name == "sizes":
        if config.fractions is None or len(config.fractions) != num:
            raise ValueError(
                f"partition.fractions={config.fractions}, expected one for each of {num} sites"
            )
        share = dict(zip(sites, config.fractions, strict=True))
        ordered = [share[site] for site in sorted(sites)]
        return partition.by_fractions(len(labels), ordered, seed=seed)
    if config.name == "dirichlet":
        if config.alpha is None:
            raise ValueError("partition.alpha is missing, expected a number above 0")
        return partition.dirichlet(
            labels, sites=num, alpha=config.alpha, seed=seed, min_size=config.min_size
        )
    if config.name == "tutorial":
        return tutorial_parts(labels, num, seed)
    return partition.iid(len(labels), sites=num, seed=seed)


def _with_tests(
    parts: partition.Parts, labels: NDArray[np.int64], tested: Sequence[Protein], seed: int
) -> partition.Parts:
    """Deal each class of each test set in the proportions of `parts`, which are of the others."""
    first = len(labels) - len(tested)
    sets = np.array([protein.record.part for protein in tested])
    shares = [list(parts)]
    for name in np.unique(sets):
        rng = np.random.Generator(np.random.PCG64(derived_seed("test set", seed, str(name))))
        members = first + np.flatnonzero(sets == name)
        for label in np.unique(labels[members]):
            items = rng.permutation(members[labels[members] == label])
            counts = np.array([(labels[part] == label).sum() for part in parts])
            if not counts.any():
                counts = np.array([len(part) for part in parts])
            bounds = np.cumsum(counts)[:-1] / counts.sum()
            shares.append(np.split(items, np.rint(bounds * len(items)).astype(np.int64)))
    return tuple(np.sort(np.concatenate(own)) for own in zip(*shares, strict=True))


def _labels(proteins: Sequence[Protein], kind: Kind) -> NDArray[np.int64]:
    if kind == "residue_to_class":
        return np.zeros(len(proteins), dtype=np.int64)
    targets = np.array([protein.target for protein in proteins])
    if kind == "sequence_to_class":
        return targets
    return property_bins(targets, bins=min(QUANTILES, len(targets)))
