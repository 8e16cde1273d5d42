"""Where the molecules of a run come from: the embedded sample, a table on disk, or QM9."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ConfigDict

from openfl_flows.data.molecules import Molecules, Rejection, read_molecules
from openfl_flows.data.qm9 import download_qm9
from openfl_flows.seeds import derived_seed

SAMPLE = Path(__file__).parent / "samples" / "molecules.csv"


@dataclass(frozen=True, kw_only=True)
class MoleculeSource:
    """A table of SMILES with dipole and HOMO.

    Attributes:
        path: ``sample`` for the molecules that the package ships, ``qm9`` to download QM9, or a
            CSV file in QM9's columns, plain or gzip-compressed.
        folder: Where QM9 is downloaded to, and where parsed tables are cached.
        sha256: Digest that a downloaded QM9 must have, if known.
        smiles_column: Column of the SMILES.
        target_columns: Columns of dipole (Debye) and HOMO (Hartree), in this order.
        limit: Take at most this many of the usable molecules, drawn at random once and for all:
            tables are often sorted by size, so the first ones would not be representative.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    path: str = "sample"
    folder: str | None = None
    sha256: str | None = None
    smiles_column: str = "smiles"
    target_columns: tuple[str, str] = ("mu", "homo")
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
