"""What a partition of molecules can be made by: scaffold, ring count, bins of a property."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors

MISSING_BIN = -1
"""Bin of a NaN in `property_bins`."""


def murcko_scaffolds(smiles: Iterable[str]) -> list[str]:
    """Name the Bemis-Murcko scaffold of each molecule: ring systems and the chains between them.

    Bemis and Murcko, J. Med. Chem. 39 (1996) 2887. Names are keys to compare as strings; some
    (aromatic zwitterions) are not SMILES that RDKit reads back.

    Args:
        smiles: Molecules.

    Returns:
        Canonical scaffold SMILES without stereochemistry; the empty string, one group of its own,
        for a molecule without rings.

    Raises:
        ValueError: RDKit refuses a SMILES.
    """
    scaffolds = []
    for molecule in map(_parse, smiles):
        Chem.RemoveStereochemistry(molecule)
        scaffolds.append(Chem.MolToSmiles(Chem.MurckoDecompose(molecule)))
    return scaffolds


def ring_counts(smiles: Iterable[str]) -> NDArray[np.int64]:
    """Count the rings of each molecule (smallest set of smallest rings).

    Args:
        smiles: N molecules.

    Returns:
        (N,) counts.

    Raises:
        ValueError: RDKit refuses a SMILES.
    """
    counts = (rdMolDescriptors.CalcNumRings(_parse(entry)) for entry in smiles)
    return np.fromiter(counts, dtype=np.int64)


def property_bins(values: ArrayLike, *, bins: int) -> NDArray[np.int64]:
    """Sort values into quantile bins: as equally filled as ties allow.

    Args:
        values: (N,) numbers; NaN is a missing value.
        bins: Number of bins.

    Returns:
        (N,) bin numbers 0..bins-1 in increasing order of the values, `MISSING_BIN` for NaN.

    Raises:
        ValueError: `bins` is below 1, or above the number of values that are present.
    """
    array = np.asarray(values, dtype=np.float64)
    present = ~np.isnan(array)
    num = int(present.sum())
    if not 1 <= bins <= num:
        raise ValueError(f"bins is {bins}, expected 1 to {num}, the number of present values")
    edges = np.quantile(array[present], np.arange(1, bins) / bins)
    labels = np.full(array.shape, MISSING_BIN, dtype=np.int64)
    labels[present] = np.searchsorted(edges, array[present], side="right")
    return labels


def _parse(smiles: str) -> Chem.Mol:
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError(f"RDKit refuses the SMILES {smiles!r}")
    return molecule
