"""Molecules mapped from disk: as many as the disk holds, in memory only while a batch needs them.

A store is a folder of flat little-endian arrays. Atoms and bonds of all molecules lie one behind
another, a bond as (begin, end, class) with begin < end; `*_start` says where each molecule begins.
"""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from openfl_flows.data.molecule_table import Indices, Rows, checked_indices
from openfl_flows.data.molecules import Rejection
from openfl_flows.data.smiles import PADDING

MANIFEST = "store.json"
"""Its number of molecules, of rejected rows and of targets."""

REJECTED = "rejected.csv"
"""The rejected rows, as `write_rejections` writes them."""

FLAT: dict[str, tuple[DTypeLike, tuple[int, ...]]] = {
    "atoms": (np.int8, ()),
    "bonds": (np.uint8, (3,)),
    "smiles": (np.uint8, ()),
}
"""Arrays of entries that molecules have several of: element type, shape of an entry."""

_BLOCK_BYTES = 1 << 24


class Texts(Sequence[str]):
    """UTF-8 texts that lie one behind another in an array of bytes.

    Args:
        content: The bytes.
        start: Where each text begins, and where the last one ends.
        index: Which texts, in which order.
    """

    def __init__(
        self, content: NDArray[np.uint8], start: NDArray[np.int64], index: NDArray[np.int64]
    ) -> None:
        self._content, self._start, self._index = content, start, index

    def __len__(self) -> int:
        """How many texts."""
        return len(self._index)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> "Texts": ...
    def __getitem__(self, position: int | slice) -> "str | Texts":
        """One text, or some of them."""
        if isinstance(position, slice):
            return Texts(self._content, self._start, self._index[position])
        place = self._index[position]
        return self._content[self._start[place] : self._start[place + 1]].tobytes().decode()


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredMolecules:
    """Some molecules of a store, in some order; a `MoleculeTable`.

    Attributes:
        arrays: The store's, mapped from disk: `atoms`, `bonds`, `smiles` with their `*_start`,
            `targets` (N, number of targets) and `charged` (N,).
        index: Which molecules of the store.
        max_atoms: Number of atoms that a molecule may have.
        vocabulary: Atom classes in order.
        target_names: Names of the columns of `targets`.
    """

    arrays: dict[str, NDArray[Any]]
    index: NDArray[np.int64]
    max_atoms: int
    vocabulary: tuple[str, ...]
    target_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many."""
        return len(self.index)

    @property
    def smiles(self) -> Texts:
        """As written in the file; read when asked for."""
        return Texts(self.arrays["smiles"], self.arrays["smiles_start"], self.index)

    @cached_property
    def targets(self) -> NDArray[np.float32]:
        """Labels, one row for each molecule; NaN is a missing one."""
        targets: NDArray[np.float32] = self.arrays["targets"][self.index]
        if targets.shape[1] != len(self.target_names):
            return np.full((len(self), len(self.target_names)), np.nan, np.float32)
        return targets

    def unlabelled(self, target_names: tuple[str, ...]) -> "StoredMolecules":
        """The same molecules with labels of those names, all missing."""
        return replace(self, target_names=target_names)

    @cached_property
    def num_atoms(self) -> NDArray[np.int64]:
        """Number of atoms per molecule."""
        start = self.arrays["atoms_start"]
        numbers: NDArray[np.int64] = start[self.index + 1] - start[self.index]
        return numbers

    @property
    def num_charged(self) -> int:
        """Number of molecules that lost a formal charge."""
        return int(np.count_nonzero(self.arrays["charged"][self.index]))

    def subset(self, indices: Indices) -> "StoredMolecules":
        """Select molecules, in the order of `indices`; nothing is read.

        Raises:
            IndexError: A position is outside 0..N-1.
        """
        return replace(self, index=self.index[checked_indices(indices, len(self))])

    def joined(self, others: Sequence["StoredMolecules"]) -> "StoredMolecules":
        """These molecules followed by others of the same store."""
        assert all(other.arrays is self.arrays for other in others)
        return replace(self, index=np.concatenate([self.index, *(o.index for o in others)]))

    def rows(self, indices: Indices, width: int | None = None) -> Rows:
        """Dense arrays of some molecules, as wide as the largest of them unless `width` is given.

        Raises:
            IndexError: A position is outside 0..N-1.
        """
        places = self.index[checked_indices(indices, len(self))]
        graph, position, found = self._entries("atoms", places)
        width = int(position.max(initial=-1)) + 1 if width is None else width
        atoms = np.full((len(places), width), PADDING, np.int8)
        atoms[graph, position] = found
        bonds = np.zeros((len(places), width, width), np.int8)
        graph, _, found = self._entries("bonds", places)
        begin, end, kind = found.T
        bonds[graph, begin, end] = bonds[graph, end, begin] = kind
        return atoms, bonds

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """0..N-1 in consecutive parts of which dense arrays fit in memory."""
        size = max(1, _BLOCK_BYTES // self.max_atoms**2)
        for begin in range(0, len(self), size):
            yield np.arange(begin, min(len(self), begin + size))

    def _entries(
        self, name: str, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
        """Which of `places` an entry belongs to, its position in that molecule, and the entry."""
        start = self.arrays[f"{name}_start"]
        first = start[places]
        numbers = start[places + 1] - first
        graph = np.repeat(np.arange(len(places)), numbers)
        position = np.arange(len(graph)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
        return graph, position, self.arrays[name][first[graph] + position]


@dataclass(frozen=True)
class StoredRejections:
    """Rejected rows, read from disk whenever they are gone through.

    Attributes:
        path: Where they are written.
        num: How many.
    """

    path: Path
    num: int

    def __len__(self) -> int:
        """How many."""
        return self.num

    def __contains__(self, rejection: object) -> bool:
        """Whether a row was rejected."""
        return any(rejection == other for other in self)

    def __iter__(self) -> Iterator[Rejection]:
        """In file order."""
        with self.path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                line = int(row["line"])
                yield Rejection(line, row["mol_id"], row["smiles"], row["reason"])


def open_store(
    folder: Path,
    *,
    max_atoms: int,
    vocabulary: tuple[str, ...],
    target_names: tuple[str, ...],
) -> tuple[StoredMolecules, StoredRejections]:
    """Map the store in a folder.

    Raises:
        ValueError: The store is damaged.
    """
    # The arrays are written in this order of bytes.
    assert sys.byteorder == "little"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="ascii"))
        num, columns = manifest["num"], manifest["targets"]
        arrays = {
            f"{name}_start": _mapped(folder, f"{name}_start", np.int64, (num + 1,)) for name in FLAT
        }
        for name, (kind, entry) in FLAT.items():
            length = int(arrays[f"{name}_start"][-1])
            arrays[name] = _mapped(folder, name, kind, (length, *entry))
        arrays["targets"] = _mapped(folder, "targets", np.float32, (num, columns))
        arrays["charged"] = _mapped(folder, "charged", np.bool_, (num,))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder}: damaged ({error}); remove it, and it is made anew") from None
    molecules = StoredMolecules(
        arrays=arrays,
        index=np.arange(num),
        max_atoms=max_atoms,
        vocabulary=vocabulary,
        target_names=target_names,
    )
    return molecules, StoredRejections(folder / REJECTED, manifest["rejected"])


def _mapped(folder: Path, name: str, kind: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    if 0 in shape:
        return np.zeros(shape, kind)
    path = folder / f"{name}.bin"
    expected = int(np.prod(shape)) * np.dtype(kind).itemsize
    if path.stat().st_size != expected:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, expected {expected}")
    return np.memmap(path, kind, "r", shape=shape)
