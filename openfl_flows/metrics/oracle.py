"""Properties of drawn molecules from somewhere else than the model that guided them.

Two sources: a table of labels, looked up by SMILES, and GFN2-xTB, whose values are brought to the
table's scale by a straight line fitted on molecules of the table.
"""

import csv
import gzip
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from scipy import stats

from openfl_flows.data.molecules import HARTREE_IN_EV

PROPERTIES = ("mu", "homo")
"""Dipole moment in Debye, HOMO energy in eV: the order of all pairs here."""

Pair = tuple[float, float]


def plain_smiles(smiles: str) -> str | None:
    """Canonical SMILES without stereochemistry, as graphs have none; None where RDKit refuses."""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    return None if molecule is None else str(Chem.MolToSmiles(molecule, isomericSmiles=False))


def read_labels(path: Path) -> dict[str, Pair]:
    """Labels by plain SMILES, of a table in QM9's columns (`mu` in Debye, `homo` in Hartree).

    NaN is a missing label; rows without any are left out, of equal molecules the first is taken.

    Raises:
        ValueError: The table lacks a column, or a label is no number.
        OSError: It cannot be read.
    """
    content = path.read_bytes()
    text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    reader = csv.DictReader(io.StringIO(text.decode("utf-8-sig"), newline=""))
    for column in ("smiles", *PROPERTIES):
        if column not in (reader.fieldnames or ()):
            raise ValueError(f"{path}: no column {column!r}, expected smiles, mu and homo")
    labels: dict[str, Pair] = {}
    for row in reader:
        try:
            mu, homo = (float(row[name] or "nan") for name in PROPERTIES)
        except ValueError:
            raise ValueError(
                f"{path}, line {reader.line_num}: mu is {row['mu']!r} and homo {row['homo']!r}, "
                "expected numbers or nothing"
            ) from None
        if math.isnan(mu) and math.isnan(homo):
            continue
        smiles = plain_smiles(row["smiles"])
        if smiles is not None:
            labels.setdefault(smiles, (mu, homo * HARTREE_IN_EV))
    if not labels:
        raise ValueError(f"{path}: no row has a molecule and a label")
    return labels


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """A straight line from one instrument's value to the table's, with what it leaves.

    Attributes:
        slope: Of the line.
        intercept: Of the line, in the property's unit.
        r: Correlation of the two values.
        residuals: (n,) table's value minus the line's.
    """

    slope: float
    intercept: float
    r: float
    residuals: NDArray[np.float64]

    @property
    def mae(self) -> float:
        """Mean absolute residual."""
        return float(np.abs(self.residuals).mean())

    def values(self, measured: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the table would say on average."""
        return np.asarray(self.slope * measured + self.intercept)

    def errors(
        self, measured: NDArray[np.float64], targets: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Expected absolute error of each molecule, were it in the table, (N,).

        The line alone would make molecules look closer together than they are, so the residuals
        are added: mean over residuals e of |line(measured) + e - target|.
        """
        distances = (self.values(measured) - targets)[:, None] + self.residuals
        return np.asarray(np.abs(distances).mean(1))


def calibrate(measured: NDArray[np.float64], known: NDArray[np.float64]) -> Calibration:
    """Fit `known` = slope * `measured` + intercept by least squares.

    Args:
        measured: (n,) of the instrument.
        known: (n,) of the table, the same molecules.

    Raises:
        ValueError: There are fewer than 3 molecules, or they have all the same value.
    """
    if len(measured) < 3 or np.ptp(measured) == 0:
        raise ValueError(
            f"{len(measured)} molecules to calibrate on, expected at least 3 that differ"
        )
    line = stats.linregress(measured, known)
    return Calibration(
        slope=float(line.slope),
        intercept=float(line.intercept),
        r=float(line.rvalue),
        residuals=np.asarray(known - (line.slope * measured + line.intercept)),
    )


def looked_up(smiles: str | None, labels: Mapping[str, Pair]) -> Pair:
    """A molecule's labels, NaN where there are none."""
    return labels.get(smiles or "", (math.nan, math.nan))
