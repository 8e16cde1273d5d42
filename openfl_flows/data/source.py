"""Where the molecules of a run come from: the sample, a table on disk, QM9, or a site's own."""

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ConfigDict

from openfl_flows.data.molecule_table import MoleculeTable
from openfl_flows.data.molecules import Rejection, read_molecules
from openfl_flows.data.qm9 import download_qm9
from openfl_flows.data.shards import Parsing, is_smiles_file, store_molecules
from openfl_flows.seeds import derived_seed

SAMPLE = Path(__file__).parent / "samples" / "molecules.csv"

TARGETS = ("mu", "homo")
"""Names of what is learned of molecules: dipole in Debye, HOMO energy in eV."""

SITE_TABLE = "molecules.csv"
"""Name of the table in the data folder of a site of a federation."""

SITE_COLUMNS = ("smiles", "dipole_debye", "homo_ev")
"""Its columns; the names state the units. An empty cell is a missing label."""


@dataclass(frozen=True, kw_only=True)
class MoleculeSource:
    """A table of SMILES with dipole and HOMO.

    Attributes:
        path: ``sample`` for the molecules that the package ships, ``qm9`` to download QM9, a CSV
            file in QM9's columns, or (``storage: disk``) a SMILES file (``.smi``, ``.smiles``);
            plain or gzip-compressed.
        folder: Where QM9 is downloaded to, and where parsed molecules are kept.
        sha256: Digest that a downloaded QM9 must have, if known.
        smiles_column: Column of the SMILES.
        target_columns: Columns of dipole (Debye) and HOMO, in this order; none where there are no
            labels.
        homo_unit: Unit of the HOMO column: ``hartree`` or ``ev``.
        limit: Take at most this many of the usable molecules, drawn at random once and for all:
            tables are often sorted by size, so the first ones would not be representative.
        storage: ``memory``, or ``disk`` for files of any size: parsed line by line into `folder`,
            and mapped from there.
        workers: Processes that parse to disk; one for each processor where None.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    path: str = "sample"
    folder: str | None = None
    sha256: str | None = None
    smiles_column: str = "smiles"
    target_columns: tuple[str, str] | tuple[()] = TARGETS
    homo_unit: Literal["hartree", "ev"] = "hartree"
    limit: int | None = None
    storage: Literal["memory", "disk"] = "memory"
    workers: int | None = None

    def __post_init__(self) -> None:
        """Refuse counts below one, and files that cannot be read as the storage says."""
        for name in ("limit", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data.{name}={value}, expected at least 1")
        if self.storage == "disk" and self.folder is None:
            raise ValueError("data.storage=disk needs data.folder, where to keep parsed molecules")
        if self.storage == "memory" and is_smiles_file(Path(self.path)):
            raise ValueError(f"data.path={self.path} is a SMILES file: it needs data.storage=disk")

    def read(
        self, vocabulary: tuple[str, ...], max_atoms: int
    ) -> tuple[MoleculeTable, Collection[Rejection]]:
        """Read the molecules and what was rejected.

        Raises:
            ValueError: The table cannot be used; the message names file, line or column.
            OSError: The file cannot be read, or QM9 cannot be downloaded.
        """
        molecules, rejections = self._parsed(vocabulary, max_atoms)
        if self.limit is not None and self.limit < len(molecules):
            order = np.random.default_rng(derived_seed("limit")).permutation(len(molecules))
            molecules = molecules.subset(np.sort(order[: self.limit]))
        return molecules, rejections

    def _parsed(
        self, vocabulary: tuple[str, ...], max_atoms: int
    ) -> tuple[MoleculeTable, Collection[Rejection]]:
        hartree = self.target_columns[1:] if self.homo_unit == "hartree" else ()
        if self.storage == "disk":
            assert self.folder is not None
            parsing = Parsing(
                vocabulary=vocabulary,
                max_atoms=max_atoms,
                smiles_column=self.smiles_column,
                target_columns=self.target_columns,
                hartree_columns=hartree,
            )
            stored, rejected = store_molecules(
                self._file(), Path(self.folder), parsing, workers=self.workers
            )
            return stored.unlabelled(TARGETS) if not self.target_columns else stored, rejected
        molecules, rejections = read_molecules(
            self._file(),
            vocabulary=vocabulary,
            max_atoms=max_atoms,
            smiles_column=self.smiles_column,
            target_columns=self.target_columns,
            hartree_columns=hartree,
            cache_dir=self.folder,
        )
        return molecules.unlabelled(TARGETS) if not self.target_columns else molecules, rejections

    def _file(self) -> Path:
        if self.path == "sample":
            return SAMPLE
        if self.path == "qm9":
            if self.folder is None:
                raise ValueError("data.path=qm9 needs data.folder, where to download it to")
            return download_qm9(self.folder, sha256=self.sha256)
        if not Path(self.path).is_file():
            raise ValueError(f"data.path={self.path}: no such file, expected a table of molecules")
        return Path(self.path)


def site_source(
    folder: Path,
    *,
    limit: int | None = None,
    storage: Literal["memory", "disk"] = "memory",
    workers: int | None = None,
) -> MoleculeSource:
    """The table in a site's data folder: a company's own, or what :func:`write_site_table` wrote.

    Args:
        folder: The site's data folder.
        limit: As that of :class:`MoleculeSource`.
        storage: As that of :class:`MoleculeSource`; parsed molecules are kept in the data folder.
        workers: As that of :class:`MoleculeSource`.

    Raises:
        ValueError: There is no table.
    """
    file = folder / SITE_TABLE
    if not file.is_file():
        raise ValueError(
            f"{file}: no such file, expected a CSV table with the columns {', '.join(SITE_COLUMNS)}"
        )
    smiles, dipole, homo = SITE_COLUMNS
    return MoleculeSource(
        path=str(file),
        smiles_column=smiles,
        target_columns=(dipole, homo),
        homo_unit="ev",
        limit=limit,
        storage=storage,
        folder=str(folder / "parsed") if storage == "disk" else None,
        workers=workers,
    )


def write_site_table(folder: Path, molecules: MoleculeTable) -> None:
    """Write molecules as a site's table, which is read back as the same to the last bit.

    Args:
        folder: The site's data folder; made if absent.
        molecules: With dipole and HOMO as targets, in this order.

    Raises:
        OSError: The file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / SITE_TABLE).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(SITE_COLUMNS)
        for smiles, targets in zip(molecules.smiles, molecules.targets, strict=True):
            # The shortest text that is this float32 again.
            writer.writerow((smiles, *("" if np.isnan(t) else str(t) for t in targets)))
