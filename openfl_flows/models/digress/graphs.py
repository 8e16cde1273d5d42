"""Molecular graphs as compact class arrays, and the one-hot form that the network reads.

Shape legend: B graphs, N padded nodes, K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NUM_BOND_CLASSES = 5
"""Bond classes: 0 none, 1 single, 2 double, 3 triple, 4 aromatic."""

AROMATIC = 4
"""The class that kekulised molecules never have."""


class Graphs(NamedTuple):
    """A batch of molecular graphs.

    Attributes:
        atoms: integer class per node, (B, N); -1 marks padding.
        bonds: integer class per ordered pair, (B, N, N), symmetric; 0 on the diagonal, between
            unbonded nodes and on padding.
    """

    atoms: Tensor
    bonds: Tensor

    @property
    def mask(self) -> Tensor:
        """True on real nodes, (B, N)."""
        return self.atoms >= 0

    @property
    def num_nodes(self) -> Tensor:
        """Real nodes per graph, (B,) int64."""
        return self.mask.sum(1)

    @property
    def num_pairs(self) -> Tensor:
        """Ordered pairs of distinct real nodes per graph, n(n-1), (B,) int64."""
        return self.num_nodes * (self.num_nodes - 1)

    def rows(self, index: Tensor | slice) -> "Graphs":
        """The graphs at `index` (a slice or an index tensor)."""
        return Graphs(self.atoms[index], self.bonds[index])

    def trimmed(self, width: int) -> "Graphs":
        """The same graphs without the nodes behind the first `width`, which must be padding."""
        return Graphs(self.atoms[:, :width], self.bonds[:, :width, :width])

    def to(self, device: torch.device | str) -> "Graphs":
        """The same graphs on another device."""
        return Graphs(self.atoms.to(device), self.bonds.to(device))


def concatenate(batches: list[Graphs]) -> Graphs:
    """One batch of several of equal width."""
    return Graphs(torch.cat([g.atoms for g in batches]), torch.cat([g.bonds for g in batches]))


def pair_mask(mask_BN: Tensor, *, diagonal: bool = False) -> Tensor:
    """True where both ends are real nodes, (B, N, N); without the diagonal unless asked for."""
    pairs_BNN = mask_BN.unsqueeze(1) & mask_BN.unsqueeze(2)
    if diagonal:
        return pairs_BNN
    eye_NN = torch.eye(mask_BN.shape[1], dtype=torch.bool, device=mask_BN.device)
    return pairs_BNN & ~eye_NN


def one_hot_atoms(graphs: Graphs, num_classes: int) -> Tensor:
    """Float one-hot atoms, (B, N, K); all zero on padding."""
    classes_K = torch.arange(num_classes, device=graphs.atoms.device)
    return (graphs.atoms.unsqueeze(-1) == classes_K).float()


def one_hot_bonds(graphs: Graphs, *, diagonal: bool = False) -> Tensor:
    """Float one-hot bonds, (B, N, N, 5); all zero on padding and on the diagonal.

    Args:
        graphs: the graphs.
        diagonal: give the diagonal of real nodes class 0 instead of zeros, as the published
            implementation does for noisy (not for clean or fully random) graphs.
    """
    classes_K = torch.arange(NUM_BOND_CLASSES, device=graphs.bonds.device)
    real_BNN = pair_mask(graphs.mask, diagonal=diagonal)
    return ((graphs.bonds.unsqueeze(-1) == classes_K) & real_BNN.unsqueeze(-1)).float()
