"""One SMILES as class arrays: which element each atom is, which bond joins each pair."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

PADDING = -1
"""Atom class of an empty position."""

BOND_CLASSES = ("none", "single", "double", "triple", "aromatic")
"""Bond classes in order; `aromatic` never occurs in what `encode_smiles` returns."""


def encode_smiles(
    smiles: str, *, vocabulary: Sequence[str], max_atoms: int
) -> tuple[NDArray[np.int8], NDArray[np.int8], bool]:
    """Turn one SMILES into class arrays: hydrogens removed, kekulised, charges dropped.

    Args:
        smiles: One molecule.
        vocabulary: Element symbols, in class order.
        max_atoms: Width of the arrays.

    Returns:
        Atoms (max_atoms,), bonds (max_atoms, max_atoms), and whether an atom had a formal charge.

    Raises:
        ValueError: The molecule cannot be represented; the message is the reason.
    """
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError("RDKit refuses the SMILES")
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    num = len(symbols)
    if all(symbol == "H" for symbol in symbols):
        raise ValueError("no heavy atom")
    if num > max_atoms:
        raise ValueError(f"{num} heavy atoms, at most {max_atoms} are allowed")
    foreign = sorted(set(symbols) - set(vocabulary))
    if foreign:
        raise ValueError(f"atom {','.join(foreign)} is outside {','.join(vocabulary)}")
    fragments = len(Chem.GetMolFrags(molecule))
    if fragments > 1:
        raise ValueError(f"{fragments} fragments, expected one molecule")

    charged = any(atom.GetFormalCharge() for atom in molecule.GetAtoms())
    Chem.Kekulize(molecule, clearAromaticFlags=True)
    orders = Chem.GetAdjacencyMatrix(molecule, useBO=True)
    if not np.isin(orders, (0, 1, 2, 3)).all():
        raise ValueError(f"bond order {orders.max():g}, expected 1, 2 or 3")
    atoms = np.full(max_atoms, PADDING, dtype=np.int8)
    atoms[:num] = [vocabulary.index(symbol) for symbol in symbols]
    bonds = np.zeros((max_atoms, max_atoms), dtype=np.int8)
    bonds[:num, :num] = orders
    return atoms, bonds, charged
