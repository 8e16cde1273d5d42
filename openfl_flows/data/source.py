"""Where the molecules of a run come from: the sample, a table on disk, QM9, or a site's own."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ConfigDict

from openfl_flows.data.molecules import Molecules, Rejection, read_molecules
from openfl_flows.data.qm9 import download_qm9
from openfl_flows.seeds import derived_seed

SAMPLE = Path(__file__).parent / "samples" / "molecules.csv"

SITE_TABLE = "molecules.csv"
"""Name of the table in the data folder of a site of a federation."""

SITE_COLUMNS = ("smiles", "dipole_debye", "homo_ev")
"""Its columns; the names state the units. An empty cell is a missing label."""


@dataclass(frozen=True, kw_only=True)
class MoleculeSource:
    """A table of SMILES with dipole and HOMO.

    Attributes:
        path: ``sample`` for the molecules that the package ships, ``qm9`` to download QM9, or a
            CSV file in QM9's columns, plain or gzip-compressed.
        folder: Where QM9 is downloaded to, and where parsed tables are cached.
        sha256: Digest that a downloaded QM9 must have, if known.
        smiles_column: Column of the SMILES.
        target_columns: Columns of dipole (Debye) and HOMO, in this order.
        homo_unit: Unit of the HOMO column: ``hartree`` or ``ev``.
        limit: Take at most this many of the usable molecules, drawn at random once and for all:
            tables are often sorted by size, so the first ones would not be representative.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    path: str = "sample"
    folder: str | None = None
    sha256: str | None = None
    smiles_column: str = "smiles"
    target_columns: tuple[str, str] = ("mu", "homo")
    homo_unit: Literal["hartree", "ev"] = "hartree"
    limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse a limit below one."""
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"data.limit={self.limit}, expected at least 1")

    def read(
        self, vocabulary: tuple[str, ...], max_atoms: int
    ) -> tuple[Molecules, tuple[Rejection, ...]]:
        """Read the molecules and what was rejected.

        Raises:
            ValueError: The table cannot be used; the message names file, line or column.
            OSError: The file cannot be read, or QM9 cannot be downloaded.
        """
        molecules, rejections = read_molecules(
            self._file(),
            vocabulary=vocabulary,
            max_atoms=max_atoms,
            smiles_column=self.smiles_column,
            target_columns=self.target_columns,
            hartree_columns=self.target_columns[1:] if self.homo_unit == "hartree" else (),
            cache_dir=self.folder,
        )
        if self.limit is not None and self.limit < len(molecules):
            order = np.random.default_rng(derived_seed("limit")).permutation(len(molecules))
            molecules = molecules.subset(np.sort(order[: self.limit]))
        return molecules, rejections

    def _file(self) -> Path:
        if self.path == "sample":
            return SAMPLE
        if self.path == "qm9":
            if self.folder is None:
                raise ValueError("data.path=qm9 needs data.folder, where to download it to")
            return download_qm9(self.folder, sha256=self.sha256)
        if not Path(self.path).is_file():
            raise ValueError(f"data.path={self.path}: no such file, expected a CSV table of SMILES")
        return Path(self.path)


def site_source(folder: Path, *, limit: int | None = None) -> MoleculeSource:
    """The table in a site's data folder: a company's own, or what :func:`write_site_table` wrote.

    Args:
        folder: The site's data folder.
        limit: As that of :class:`MoleculeSource`.

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
    )


def write_site_table(folder: Path, molecules: Molecules) -> None:
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
