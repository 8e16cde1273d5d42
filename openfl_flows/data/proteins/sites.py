"""Proteins dealt to sites, each site's training, validation and test parts, and their tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from openfl_flows.data.blind.split import BlindSplit, indices_by_part
from openfl_flows.data.proteins.dealing import QUANTILES, ProteinPartition, share_out
from openfl_flows.data.proteins.source import Kind, Protein
from openfl_flows.data.proteins.targets import MASKED
from openfl_flows.data.skew import divergence
from openfl_flows.data.strata import property_bins
from openfl_flows.seeds import derived_seed

__all__ = [
    "ProteinPartition",
    "SiteProteins",
    "composition_table",
    "deal",
    "missing_classes",
    "pool",
    "skew_table",
    "with_parts",
]

_LEARNED = ("train", "val")


class SiteProteins(NamedTuple):
    """One site's proteins, each part in the order of their names; no test set is empty."""

    train: tuple[Protein, ...]
    val: tuple[Protein, ...]
    tests: Mapping[str, tuple[Protein, ...]]


def deal(
    proteins: Sequence[Protein],
    sites: Sequence[str],
    config: ProteinPartition,
    kind: Kind,
    seed: int,
    *,
    cache: Path | None = None,
) -> dict[str, SiteProteins]:
    """Deal proteins to sites, each with its training, validation and test parts.

    Neither the order of the proteins nor that of the sites' names changes anything, but for
    ``config.fractions``, which belong to the sites as they are named. Proteins held out for
    validation have ``val`` as their records' part, so that a site's share, written to a file and
    dealt to this site alone, gives the same parts again.

    Args:
        proteins: With distinct names, of every part but ``pred``.
        sites: Their names.
        config: How to deal.
        kind: What is learned of a protein.
        seed: Of all that is drawn.
        cache: Folder where clusters of sequences are kept for the next time.

    Raises:
        ValueError: A site would lack a part, or an option does not fit.
    """
    ordered = sorted(proteins, key=lambda protein: protein.name)
    learned = [protein for protein in ordered if protein.record.part in _LEARNED]
    tested = [protein for protein in ordered if protein.record.part not in _LEARNED]
    if not learned or not tested:
        missing = "test protein (SET=test)" if learned else "training protein (SET=train)"
        raise ValueError(f"none of {len(ordered)} proteins is a {missing}, expected at least 1")
    whole = learned + tested
    try:
        parts = share_out(learned, tested, sites, config, kind, seed, cache)
    except ValueError as error:
        raise ValueError(f"partition.name={config.name}: {error}") from None
    holds_out = all(protein.record.part == "train" for protein in learned)
    dealt = {}
    for site, part in zip(sorted(sites), parts, strict=True):
        own = [whole[i] for i in part]
        dealt[site] = _by_part(_held_out(own, config.val, seed) if holds_out else own)
        _check(site, dealt[site])
    return dealt


def with_parts(proteins: Sequence[Protein], blind: BlindSplit) -> tuple[Protein, ...]:
    """The same proteins, each in the part that a blind split says, whatever its file says.

    Raises:
        ValueError: A part would be empty.
    """
    records = [protein.record for protein in proteins]
    parts = blind.protein_parts(
        [record.name for record in records], [record.sequence for record in records]
    )
    # Without one of them, deal() would draw it at random.
    indices_by_part(parts)
    return tuple(
        replace(protein, record=replace(protein.record, part=part))
        for protein, part in zip(proteins, parts, strict=True)
    )


def pool(parts: Sequence[SiteProteins]) -> SiteProteins:
    """All sites' proteins as if one company owned them; each keeps its part, once."""
    tests = {name for part in parts for name in part.tests}
    return SiteProteins(
        _by_name(protein for part in parts for protein in part.train),
        _by_name(protein for part in parts for protein in part.val),
        {
            name: _by_name(protein for part in parts for protein in part.tests.get(name, ()))
            for name in sorted(tests)
        },
    )


def missing_classes(
    dealt: Mapping[str, SiteProteins], classes: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Classes that no training protein of a site has, for the sites that lack any."""
    lacking = {}
    for site, own in dealt.items():
        present = set(np.unique(np.concatenate([np.ravel(p.target) for p in own.train])).tolist())
        names = tuple(name for i, name in enumerate(classes) if i not in present)
        if names:
            lacking[site] = names
    return lacking


def composition_table(
    dealt: Mapping[str, SiteProteins], classes: Sequence[str], kind: Kind
) -> tuple[tuple[str, ...], tuple[tuple[str | int, ...], ...]]:
    """Columns and rows: per site the sizes of its parts, then what is learned from, by class.

    Classes count training and validation proteins, or residues that are not masked for
    ``residue_to_class``; values are counted in quintiles of all sites together.
    """
    tests = sorted({name for own in dealt.values() for name in own.tests}, key=_test_first)
    labels = _site_labels(dealt, kind)
    names = tuple(classes) or tuple(f"quintile {i + 1}" for i in range(QUANTILES))
    rows: list[tuple[str | int, ...]] = [
        (
            *(site, len(own.train), len(own.val)),
            *(len(own.tests.get(name, ())) for name in tests),
            *np.bincount(label, minlength=len(names)).tolist(),
        )
        for (site, own), label in zip(dealt.items(), labels, strict=True)
    ]
    return ("site", "train", "val", *tests, *names), tuple(rows)


def skew_table(
    dealt: Mapping[str, SiteProteins], classes: Sequence[str], kind: Kind
) -> tuple[tuple[str, ...], tuple[tuple[str | float, ...], ...]]:
    """Columns and rows: how far each site's histograms are from those of all sites together.

    Jensen-Shannon divergences in bits, from 0 (equal) to 1 (nothing in common), of what is learned
    from: its classes, or quintiles of its values, and quintiles of the whole proteins' lengths.
    """
    lengths = [[float(len(p.record.sequence)) for p in _learned(own)] for own in dealt.values()]
    measured = {
        "class" if classes else "value": _site_labels(dealt, kind),
        "length": _binned(lengths),
    }
    columns = {name: _divergences(labels) for name, labels in measured.items()}
    rows: list[tuple[str | float, ...]] = [
        (site, *(values[i] for values in columns.values())) for i, site in enumerate(dealt)
    ]
    return ("site", *columns), tuple(rows)


def _held_out(proteins: Sequence[Protein], share: float, seed: int) -> list[Protein]:
    """Make a share of the training proteins validation proteins.

    Those whose number, drawn from seed and name alone, is below the share, so that adding a protein
    moves no other; the one with the lowest number if there is no such.
    """
    numbers = {
        protein.name: derived_seed("val", seed, protein.name) / 2**63
        for protein in proteins
        if protein.record.part == "train"
    }
    border = max(share, np.nextafter(min(numbers.values(), default=0), 1))
    return [
        replace(protein, record=replace(protein.record, part="val"))
        if numbers.get(protein.name, 1) < border
        else protein
        for protein in proteins
    ]


def _by_part(proteins: Sequence[Protein]) -> SiteProteins:
    parts: dict[str, list[Protein]] = {}
    for protein in proteins:
        parts.setdefault(protein.record.part, []).append(protein)
    train, val = (_by_name(parts.pop(part, [])) for part in _LEARNED)
    return SiteProteins(train, val, {name: _by_name(parts[name]) for name in sorted(parts)})


def _check(site: str, own: SiteProteins) -> None:
    for part, found, remedy in (
        ("training", own.train, "records with SET=train"),
        ("validation", own.val, "records with SET=val, or no SET=val at all to hold some out"),
        ("test", own.tests, "records with SET=test, or partition.tests=shared"),
    ):
        if not found:
            raise ValueError(
                f"site {site!r} has {len(own.train)} training and {len(own.val)} validation "
                f"proteins and no {part} protein, expected at least 1: give it more, deal to fewer "
                f"sites or by another partition.name; it takes {remedy}"
            )


def _learned(own: SiteProteins) -> tuple[Protein, ...]:
    return own.train + own.val


def _site_labels(dealt: Mapping[str, SiteProteins], kind: Kind) -> list[NDArray[np.int64]]:
    """For each site the class of each protein, or residue, that is learned from."""
    targets = [
        np.concatenate([np.ravel(protein.target) for protein in _learned(own)])
        for own in dealt.values()
    ]
    if kind == "sequence_to_value":
        return _binned([target.tolist() for target in targets])
    return [target[target != MASKED] for target in targets]


def _binned(values: Sequence[Sequence[float]]) -> list[NDArray[np.int64]]:
    """Quintiles of all values together, divided as the values are."""
    whole = [value for own in values for value in own]
    labels = property_bins(whole, bins=min(QUANTILES, len(whole)))
    return np.split(labels, np.cumsum([len(own) for own in values])[:-1])


def _divergences(labels: Sequence[NDArray[np.int64]]) -> tuple[float, ...]:
    whole = np.concatenate(labels)
    slices = np.split(np.arange(len(whole)), np.cumsum([len(own) for own in labels])[:-1])
    return divergence(whole, slices, np.ones(len(whole), dtype=bool))


def _by_name(proteins: Iterable[Protein]) -> tuple[Protein, ...]:
    once = {protein.name: protein for protein in proteins}
    return tuple(once[name] for name in sorted(once))


def _test_first(name: str) -> tuple[bool, str]:
    return (name != "test", name)
