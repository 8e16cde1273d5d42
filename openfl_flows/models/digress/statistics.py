"""Counts that define the noise and the sizes of graphs, gathered at sites and merged once.

The limit distribution, the histogram of sizes and the scale of the targets are part of the model:
all sites must hold the same. Sites send these counts, never graphs; they are summed before the
first round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ConfigDict

from openfl_flows.models.digress.graphs import AROMATIC, NUM_BOND_CLASSES

COUNTS: Mapping[str, Any] = {
    "node_counts": np.int64,
    "atom_counts": np.int64,
    "bond_counts": np.int64,
    "target_counts": np.int64,
    "target_sums": np.float64,
    "target_square_sums": np.float64,
}
"""Names and element types of what :func:`count_statistics` counts."""


@dataclass(frozen=True, kw_only=True)
class GraphStatistics:
    """What a model knows about its data as a whole.

    Attributes:
        node_counts: probability of each graph size; index = number of nodes, 0..max_atoms.
        atom_marginals: probability of each atom class over nodes.
        bond_marginals: probability of each of the 5 bond classes over pairs of distinct nodes.
        target_mean: mean of [dipole moment mu in Debye, HOMO energy in eV].
        target_std: standard deviation of the same.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    node_counts: tuple[float, ...]
    atom_marginals: tuple[float, ...]
    bond_marginals: tuple[float, ...]
    target_mean: tuple[float, float]
    target_std: tuple[float, float]

    def __post_init__(self) -> None:
        """Refuse what is no distribution.

        Raises:
            ValueError: naming the key, its value and what was expected.
        """
        for key in ("node_counts", "atom_marginals", "bond_marginals"):
            values = np.asarray(getattr(self, key))
            # Turned round, these would let NaN pass.
            if not (values.min(initial=0.0) >= 0 and abs(values.sum() - 1) <= 1e-4):
                raise ValueError(f"{key} is {getattr(self, key)}; expected probabilities summing 1")
        if len(self.bond_marginals) != NUM_BOND_CLASSES:
            raise ValueError(f"bond_marginals has {len(self.bond_marginals)} classes; expected 5")
        if not np.isfinite(self.target_mean).all():
            raise ValueError(f"target_mean is {self.target_mean}; expected finite numbers")
        if min(self.target_std) <= 0 or not np.isfinite(self.target_std).all():
            raise ValueError(f"target_std is {self.target_std}; expected finite values above 0")


def count_statistics(
    atoms: np.ndarray, bonds: np.ndarray, targets: np.ndarray, num_classes: int
) -> dict[str, np.ndarray]:
    """Additive counts of one site's molecules.

    Args:
        atoms: atom classes, (M, N), -1 = padding.
        bonds: bond classes, (M, N, N), symmetric.
        targets: [mu in Debye, HOMO in eV], (M, 2), NaN = missing.
        num_classes: atom classes of the vocabulary.

    Returns:
        int64 `node_counts` (N+1), `atom_counts`, `bond_counts` (5, ordered pairs),
        `target_counts` (2); float64 `target_sums` (2), `target_square_sums` (2).

    Raises:
        ValueError: where an atom or bond class is outside its range.
    """
    mask = atoms >= 0
    if atoms.max(initial=-1) >= num_classes:
        raise ValueError(f"atom class {atoms.max()}; expected classes below {num_classes}")
    if bonds.min(initial=0) < 0 or bonds.max(initial=0) >= NUM_BOND_CLASSES:
        raise ValueError(f"bond classes {bonds.min()} to {bonds.max()}; expected 0 to 4")
    pairs = mask[:, :, None] & mask[:, None, :] & ~np.eye(atoms.shape[1], dtype=bool)
    labelled = ~np.isnan(targets)
    known = np.where(labelled, targets, 0.0).astype(np.float64)
    return {
        "node_counts": np.bincount(mask.sum(1), minlength=atoms.shape[1] + 1),
        "atom_counts": np.bincount(atoms[mask], minlength=num_classes),
        "bond_counts": np.bincount(bonds[pairs], minlength=NUM_BOND_CLASSES),
        "target_counts": labelled.sum(0),
        "target_sums": known.sum(0),
        "target_square_sums": np.square(known).sum(0),
    }


def merge_counts(counts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The element-wise sum of the sites' counts.

    Raises:
        ValueError: where there are none, or two sites counted different classes or sizes.
    """
    if not counts:
        raise ValueError("no counts to merge; expected those of at least one site")
    merged = {key: np.array(value) for key, value in counts[0].items()}
    for site, other in enumerate(counts[1:], start=1):
        for key in merged.keys() | other.keys():
            shapes = [np.shape(part[key]) if key in part else None for part in (merged, other)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"{key} of site {site} has shape {shapes[1]}; not {shapes[0]}")
            merged[key] = merged[key] + other[key]
    return merged


def statistics_from_counts(counts: Mapping[str, np.ndarray]) -> GraphStatistics:
    """Distributions and target scale of merged counts.

    Every size of 1..max_atoms, every atom class and every bond class but aromatic (molecules are
    kekulised) counts once more than it was seen: what no training molecule has, another may, and
    its likelihood must not be zero. A target that no molecule carries, or that never varies, gets
    the neutral scale: its mean (0 without labels) and a standard deviation of 1.

    Raises:
        ValueError: where no molecule, or no pair of nodes, was counted.
    """
    for key in ("node_counts", "atom_counts", "bond_counts"):
        if counts[key].sum() == 0:
            raise ValueError(f"{key} sums to 0; expected at least one molecule of two atoms")
    number = np.maximum(counts["target_counts"], 1)
    mean = counts["target_sums"] / number
    variance = np.maximum(counts["target_square_sums"] / number - mean**2, 0.0)
    std = np.where(variance > 1e-12, np.sqrt(variance), 1.0)
    possible_sizes = np.arange(len(counts["node_counts"])) > 0
    possible_bonds = np.arange(NUM_BOND_CLASSES) != AROMATIC
    return GraphStatistics(
        node_counts=_shares(counts["node_counts"] + possible_sizes),
        atom_marginals=_shares(counts["atom_counts"] + 1),
        bond_marginals=_shares(counts["bond_counts"] + possible_bonds),
        target_mean=(float(mean[0]), float(mean[1])),
        target_std=(float(std[0]), float(std[1])),
    )


def _shares(counts: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    """The counts divided by their sum."""
    values = np.asarray(counts, dtype=np.float64)
    return tuple(float(share) for share in values / values.sum())


QM9_PUBLISHED = GraphStatistics(
    node_counts=_shares(
        (0, 2.2930e-05, 3.8217e-05, 6.8791e-05, 2.3695e-04, 9.7072e-04, 0.0046472, 0.023985,
         0.13666, 0.83337)
    ),
    atom_marginals=_shares((0.7230, 0.1151, 0.1593, 0.0026)),
    bond_marginals=_shares((0.7261, 0.2384, 0.0274, 0.0081, 0.0)),
    target_mean=(2.62663, -6.57089),
    target_std=(1.45286, 0.57008),
)  # fmt: skip
"""QM9 without hydrogens: sizes and marginals as hard-coded in the published implementation.

Target mean and standard deviation are those of 36,364 QM9 molecules with both labels (HOMO energies
in Hartree times 27.211386246); the published implementation does not standardise.
"""
