"""Molecules as dense class arrays, read from a table of SMILES without losing a row silently."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rdkit import rdBase

from openfl_flows.data.array_cache import cache_key, load_arrays, store_arrays
from openfl_flows.data.molecule_table import Indices, Rows, checked_indices
from openfl_flows.data.partition import by_fractions
from openfl_flows.data.smiles import PADDING, encode_smiles
from openfl_flows.data.table import Row, read_rows
from openfl_flows.data.vocabulary import atom_class, check_vocabulary

HARTREE_IN_EV = 27.211386246
"""Electronvolts in one Hartree (CODATA 2018, the digits QM9's users convert with)."""

_FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Molecules:
    """N molecules without hydrogens, padded to the same number of atoms.

    Attributes:
        smiles: (N,) as written in the file.
        atoms: (N, max_atoms) int8, index into `vocabulary`; -1 is padding.
        bonds: (N, max_atoms, max_atoms) int8, symmetric, index into `BOND_CLASSES`, zero diagonal.
        targets: (N, number of targets) float32; NaN is a missing label. By default column 0 is the
            dipole moment mu in Debye, column 1 the HOMO energy in eV.
        charged: (N,) bool, whether a formal charge was dropped, see `encode_smiles`.
        vocabulary: Atom classes in order.
        target_names: Names of the columns of `targets`.
    """

    smiles: tuple[str, ...]
    atoms: NDArray[np.int8]
    bonds: NDArray[np.int8]
    targets: NDArray[np.float32]
    charged: NDArray[np.bool_]
    vocabulary: tuple[str, ...]
    target_names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that all fields describe the same N molecules."""
        num, width = self.atoms.shape
        assert len(self.smiles) == num
        assert self.charged.shape == (num,)
        assert self.bonds.shape == (num, width, width)
        assert self.targets.shape == (num, len(self.target_names))

    def __len__(self) -> int:
        """Return N."""
        return len(self.smiles)

    @property
    def num_atoms(self) -> NDArray[np.int64]:
        """Number of atoms per molecule, (N,)."""
        counts: NDArray[np.int64] = np.count_nonzero(self.atoms != PADDING, axis=1)
        return counts

    @property
    def num_charged(self) -> int:
        """Number of molecules that lost a formal charge."""
        return int(np.count_nonzero(self.charged))

    @property
    def max_atoms(self) -> int:
        """Number of atoms that a molecule may have: the width of the arrays."""
        return int(self.atoms.shape[1])

    def subset(self, indices: Indices) -> "Molecules":
        """Select molecules, in the order of `indices`.

        Args:
            indices: Positions in 0..N-1.

        Returns:
            The selected molecules (copies).

        Raises:
            IndexError: A position is outside 0..N-1.
        """
        index = checked_indices(indices, len(self))
        return Molecules(
            smiles=tuple(self.smiles[i] for i in index),
            atoms=self.atoms[index],
            bonds=self.bonds[index],
            targets=self.targets[index],
            charged=self.charged[index],
            vocabulary=self.vocabulary,
            target_names=self.target_names,
        )

    def joined(self, others: Sequence["Molecules"]) -> "Molecules":
        """These molecules followed by others of the same vocabulary (copies)."""
        parts = (self, *others)
        return Molecules(
            smiles=tuple(smiles for part in parts for smiles in part.smiles),
            atoms=np.concatenate([part.atoms for part in parts]),
            bonds=np.concatenate([part.bonds for part in parts]),
            targets=np.concatenate([part.targets for part in parts]),
            charged=np.concatenate([part.charged for part in parts]),
            vocabulary=self.vocabulary,
            target_names=self.target_names,
        )

    def unlabelled(self, target_names: tuple[str, ...]) -> "Molecules":
        """The same molecules with labels of those names, all missing."""
        missing = np.full((len(self), len(target_names)), np.nan, np.float32)
        return replace(self, targets=missing, target_names=target_names)

    def rows(self, indices: Indices, width: int | None = None) -> Rows:
        """Arrays of some molecules, as wide as the largest of them unless `width` is given."""
        index = checked_indices(indices, len(self))
        width = int(self.num_atoms[index].max(initial=0)) if width is None else width
        return self.atoms[index, :width], self.bonds[index, :width, :width]

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """0..N-1 at once: the arrays are in memory."""
        yield np.arange(len(self))


@dataclass(frozen=True)
class Rejection:
    """A row of the file that is not among the molecules, and why.

    Attributes:
        line: Line of the file, the header being line 1.
        mol_id: Value of the `mol_id` column; empty where the file has none.
        smiles: As written in the file.
        reason: One clause.
    """

    line: int
    mol_id: str
    smiles: str
    reason: str


def read_molecules(
    path: str | Path,
    *,
    vocabulary: Sequence[str] = ("C", "N", "O", "F"),
    max_atoms: int = 9,
    smiles_column: str = "smiles",
    target_columns: Sequence[str] = ("mu", "homo"),
    hartree_columns: Sequence[str] = ("homo", "lumo", "gap"),
    limit: int | None = None,
    cache_dir: str | Path | None = None,
) -> tuple[Molecules, tuple[Rejection, ...]]:
    """Read a CSV table of SMILES and labels, such as MoleculeNet's `qm9.csv`.

    Every data row becomes a molecule or a `Rejection`. Blank lines are no rows. Duplicates are
    kept. Radicals, isotopes and stereochemistry are not represented. A row whose optional column
    `uncharacterized` is true is rejected (QM9's consistency check failed for it).

    Args:
        path: CSV with a header, plain or gzip-compressed, UTF-8.
        vocabulary: Atom classes that may occur, in order; never hydrogen.
        max_atoms: Largest number of heavy atoms, and the width of the arrays.
        smiles_column: Name of the column of SMILES.
        target_columns: Names of the label columns, in order; may be empty. An empty cell or `nan`
            is a missing label.
        hartree_columns: Of these, the label columns in Hartree: converted to eV.
        limit: Stop after this many accepted molecules.
        cache_dir: Folder for parsed arrays; read instead of parsing where the file's content and
            all options are the same.

    Returns:
        The molecules and the rejected rows, both in file order.

    Raises:
        ValueError: An option makes no sense; a column is missing; a row is malformed; a label is
            no number; no molecule is left.
        OSError: The file cannot be read.
    """
    path = Path(path)
    check_options(vocabulary, max_atoms, limit)
    content = path.read_bytes()
    options: dict[str, object] = {
        "version": _FORMAT_VERSION,
        "rdkit": rdBase.rdkitVersion,
        "vocabulary": list(vocabulary),
        "max_atoms": max_atoms,
        "smiles_column": smiles_column,
        "target_columns": list(target_columns),
        "hartree_columns": list(hartree_columns),
        "limit": limit,
    }
    cache = None
    if cache_dir is not None:
        cache = Path(cache_dir) / f"molecules-{cache_key(content, options)}.npz"
        cached = _load(cache, tuple(vocabulary), tuple(target_columns))
        if cached is not None:
            return cached

    rows = read_rows(path, content, required=(smiles_column, *target_columns))
    molecules, rejections = _encode_rows(
        rows, tuple(vocabulary), max_atoms, smiles_column, tuple(target_columns), limit
    )
    if not len(molecules):
        first = f", the first because: {rejections[0].reason}" if rejections else ""
        raise ValueError(f"{path}: no usable molecule; {len(rejections)} rows were rejected{first}")
    for column, name in enumerate(target_columns):
        if name in hartree_columns:
            molecules.targets[:, column] *= HARTREE_IN_EV
    if cache is not None:
        _store(cache, molecules, rejections)
    return molecules, rejections


def write_rejections(path: str | Path, rejections: Iterable[Rejection]) -> None:
    """Write the rejected rows as CSV with the columns line, mol_id, smiles, reason.

    Args:
        path: Where.
        rejections: In file order; a header alone is written where there are none.

    Raises:
        OSError: The file cannot be written.
    """
    with Path(path).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("line", "mol_id", "smiles", "reason"))
        writer.writerows((r.line, r.mol_id, r.smiles, r.reason) for r in rejections)


def split(
    num: int, *, seed: int, fractions: Sequence[float] = (0.8, 0.1, 0.1)
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Divide 0..num-1 at random into train, validation and test.

    Args:
        num: Number of items.
        seed: Of the permutation; equal seeds give equal parts on every platform.
        fractions: Shares of the three parts, summing to 1.

    Returns:
        Three sorted, disjoint index arrays that cover all items.

    Raises:
        ValueError: There are not three fractions, they do not sum to 1, or a part would be empty.
    """
    if len(fractions) != 3:
        raise ValueError(f"fractions are {tuple(fractions)}, expected three: train, val, test")
    train, val, test = by_fractions(num, fractions, seed=seed)
    return train, val, test


def check_options(vocabulary: Sequence[str], max_atoms: int, limit: int | None = None) -> None:
    """Refuse what no molecule can be read with.

    Raises:
        ValueError: The vocabulary is none or holds hydrogen, or a count is below 1.
    """
    check_vocabulary(vocabulary)
    if any(atom_class(name).element == "H" for name in vocabulary):
        raise ValueError(f"vocabulary is {tuple(vocabulary)}, expected elements without H")
    if max_atoms < 1:
        raise ValueError(f"max_atoms is {max_atoms}, expected at least 1")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}, expected at least 1 or None")


def _encode_rows(
    rows: Iterator[Row],
    vocabulary: tuple[str, ...],
    max_atoms: int,
    smiles_column: str,
    target_columns: tuple[str, ...],
    limit: int | None,
) -> tuple[Molecules, tuple[Rejection, ...]]:
    kept: list[str] = []
    targets: list[list[float]] = []
    graphs: list[tuple[NDArray[np.int8], NDArray[np.int8], bool]] = []
    rejections: list[Rejection] = []
    for row in rows:
        smiles = row.cells[smiles_column].strip()
        labels = [row.number(column) for column in target_columns]
        flagged = "uncharacterized" in row.cells and row.flag("uncharacterized")
        try:
            if flagged:
                raise ValueError("flagged uncharacterized")
            graphs.append(encode_smiles(smiles, vocabulary=vocabulary, max_atoms=max_atoms))
        except ValueError as reason:
            mol_id = row.cells.get("mol_id", "")
            rejections.append(Rejection(row.line, mol_id, smiles, str(reason)))
            continue
        kept.append(smiles)
        targets.append(labels)
        if len(kept) == limit:
            break
    num, columns = len(kept), len(target_columns)
    molecules = Molecules(
        smiles=tuple(kept),
        atoms=np.array([g[0] for g in graphs], dtype=np.int8).reshape(num, max_atoms),
        bonds=np.array([g[1] for g in graphs], dtype=np.int8).reshape(num, max_atoms, max_atoms),
        targets=np.array(targets, dtype=np.float32).reshape(num, columns),
        charged=np.array([g[2] for g in graphs], dtype=np.bool_),
        vocabulary=vocabulary,
        target_names=target_columns,
    )
    return molecules, tuple(rejections)


def _store(path: Path, molecules: Molecules, rejections: Sequence[Rejection]) -> None:
    arrays: dict[str, NDArray[np.generic]] = {
        "smiles": np.array(molecules.smiles, dtype=np.str_),
        "atoms": molecules.atoms,
        "bonds": molecules.bonds,
        "targets": molecules.targets,
        "charged": molecules.charged,
        "rejected_line": np.array([r.line for r in rejections], dtype=np.int64),
        "rejected_mol_id": np.array([r.mol_id for r in rejections], dtype=np.str_),
        "rejected_smiles": np.array([r.smiles for r in rejections], dtype=np.str_),
        "rejected_reason": np.array([r.reason for r in rejections], dtype=np.str_),
    }
    store_arrays(path, arrays)


def _load(
    path: Path, vocabulary: tuple[str, ...], target_names: tuple[str, ...]
) -> tuple[Molecules, tuple[Rejection, ...]] | None:
    arrays = load_arrays(path)
    if arrays is None:
        return None
    molecules = Molecules(
        smiles=tuple(arrays["smiles"].tolist()),
        atoms=arrays["atoms"].astype(np.int8),
        bonds=arrays["bonds"].astype(np.int8),
        targets=arrays["targets"].astype(np.float32),
        charged=arrays["charged"].astype(np.bool_),
        vocabulary=vocabulary,
        target_names=target_names,
    )
    fields = ("line", "mol_id", "smiles", "reason")
    columns = (arrays[f"rejected_{name}"].tolist() for name in fields)
    return molecules, tuple(Rejection(*row) for row in zip(*columns, strict=True))
