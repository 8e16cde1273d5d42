"""What reads molecules needs of them, wherever they lie: in memory or mapped from disk."""

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Indices = Sequence[int] | NDArray[np.integer]
"""Positions among molecules."""

Rows = tuple[NDArray[np.int8], NDArray[np.int8]]
"""Atom classes (B, n), -1 is padding, and bond classes (B, n, n), as in `Molecules`."""


class MoleculeTable(Protocol):
    """N molecules without hydrogens; see `openfl_flows.data.molecules.Molecules`."""

    @property
    def smiles(self) -> Sequence[str]:
        """(N,) as written in the file."""
        ...

    @property
    def targets(self) -> NDArray[np.float32]:
        """(N, number of targets); NaN is a missing label."""
        ...

    @property
    def num_atoms(self) -> NDArray[np.int64]:
        """Number of atoms per molecule, (N,)."""
        ...

    @property
    def max_atoms(self) -> int:
        """Number of atoms that a molecule may have."""
        ...

    @property
    def num_charged(self) -> int:
        """Number of molecules that lost a formal charge."""
        ...

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Atom classes in order."""
        ...

    def __len__(self) -> int:
        """Return N."""
        ...

    def subset(self, indices: Indices) -> Self:
        """Select molecules, in the order of `indices`.

        Raises:
            IndexError: A position is outside 0..N-1.
        """
        ...

    def joined(self, others: Sequence[Self]) -> Self:
        """These molecules followed by those of others of the same kind."""
        ...

    def rows(self, indices: Indices, width: int | None = None) -> Rows:
        """Dense arrays of some molecules, as wide as the largest of them unless `width` is given.

        Raises:
            IndexError: A position is outside 0..N-1.
        """
        ...

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """0..N-1 in consecutive parts of which dense arrays fit in memory."""
        ...


def checked_indices(indices: Indices, num: int) -> NDArray[np.int64]:
    """Positions as an array.

    Raises:
        IndexError: A position is outside 0..num-1.
    """
    index = np.asarray(indices, dtype=np.int64)
    if index.size and (index.min() < 0 or index.max() >= num):
        raise IndexError(f"indices span {index.min()}..{index.max()}, expected 0..{num - 1}")
    return index
