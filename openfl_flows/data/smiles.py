"""One SMILES as class arrays, and back: which class each atom is of, which bond joins each pair."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from openfl_flows.data.vocabulary import (
    AtomClass,
    atom_class,
    class_index,
    class_name,
    has_charges,
)

PADDING = -1
"""Atom class of an empty position."""

BOND_CLASSES = ("none", "single", "double", "triple", "aromatic")
"""Bond classes in order; `aromatic` never occurs in what `encode_smiles` returns."""

_BOND_TYPES = (
    Chem.BondType.ZERO,
    Chem.BondType.SINGLE,
    Chem.BondType.DOUBLE,
    Chem.BondType.TRIPLE,
    Chem.BondType.AROMATIC,
)


def encode_smiles(
    smiles: str, *, vocabulary: Sequence[str], max_atoms: int
) -> tuple[NDArray[np.int8], NDArray[np.int8], bool]:
    """Turn one SMILES into class arrays: hydrogens removed, kekulised.

    Formal charges are kept where the vocabulary has a class with a charge: an atom whose element
    and charge have no class is then refused. Otherwise they are dropped, as in the published
    pre-processing.

    Args:
        smiles: One molecule.
        vocabulary: Atom classes in order, see :mod:`openfl_flows.data.vocabulary`.
        max_atoms: Width of the arrays.

    Returns:
        Atoms (max_atoms,), bonds (max_atoms, max_atoms), and whether a formal charge was dropped.

    Raises:
        ValueError: The molecule cannot be represented; the message is the reason.
    """
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ValueError("RDKit refuses the SMILES")
    found = [AtomClass(atom.GetSymbol(), atom.GetFormalCharge()) for atom in molecule.GetAtoms()]
    num = len(found)
    if all(one.element == "H" for one in found):
        raise ValueError("no heavy atom")
    if num > max_atoms:
        raise ValueError(f"{num} heavy atoms, at most {max_atoms} are allowed")
    charged = any(one.charge for one in found)
    if charged and not has_charges(vocabulary):
        found = [AtomClass(one.element, 0) for one in found]
    else:
        charged = False
    index = class_index(tuple(vocabulary))
    foreign = sorted(class_name(*one) for one in set(found) - index.keys())
    if foreign:
        raise ValueError(f"atom {','.join(foreign)} is outside {','.join(vocabulary)}")
    fragments = len(Chem.GetMolFrags(molecule))
    if fragments > 1:
        raise ValueError(f"{fragments} fragments, expected one molecule")

    Chem.Kekulize(molecule, clearAromaticFlags=True)
    orders = Chem.GetAdjacencyMatrix(molecule, useBO=True)
    if not np.isin(orders, (0, 1, 2, 3)).all():
        raise ValueError(f"bond order {orders.max():g}, expected 1, 2 or 3")
    atoms = np.full(max_atoms, PADDING, dtype=np.int8)
    atoms[:num] = [index[one] for one in found]
    bonds = np.zeros((max_atoms, max_atoms), dtype=np.int8)
    bonds[:num, :num] = orders
    return atoms, bonds, charged


def build_molecule(
    atoms: NDArray[np.integer], bonds: NDArray[np.integer], vocabulary: Sequence[str]
) -> Chem.RWMol:
    """Build one molecule of class arrays; not sanitized, so it may be chemical nonsense.

    Atoms have the charges of their classes and no others.

    Args:
        atoms: (n,) index into `vocabulary`, -1 is padding.
        bonds: (n, n) bond classes; the upper triangle is read.
        vocabulary: Atom classes in order.

    Returns:
        The molecule, atoms in the order of the array.
    """
    molecule = Chem.RWMol()
    present = np.flatnonzero(atoms >= 0)
    for position in present:
        kind = atom_class(vocabulary[int(atoms[position])])
        atom = Chem.Atom(kind.element)
        atom.SetFormalCharge(kind.charge)
        molecule.AddAtom(atom)
    classes = np.triu(bonds[np.ix_(present, present)], k=1)
    for begin, end in zip(*(axis.tolist() for axis in np.nonzero(classes)), strict=True):
        molecule.AddBond(begin, end, _BOND_TYPES[int(classes[begin, end])])
    return molecule
