"""Heavy-atom graphs of residues: what distances say, and whether two graphs are the same.

A pair of atoms is bonded by its distance where that is below the sum of the covalent radii plus
0.45 Angstrom, the convention of crystallographic databases (Allen 2002, Acta Cryst. B58, 380).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import gemmi
import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

_TABLE = Chem.GetPeriodicTable()

TOLERANCE = 0.45
_SURE = 0.2
_BROKEN = 0.8


@dataclass(frozen=True, kw_only=True, eq=False)
class Residue:
    """A residue as a file has it, one conformer.

    Attributes:
        chain: Author's name of its chain.
        number: Author's number, with the insertion code.
        code: Name of its component.
        subchain: Label of the piece of the structure that it belongs to.
        names: Of all atoms.
        elements: Upper case.
        xyz: Angstrom, shape (atoms, 3).
    """

    chain: str
    number: str
    code: str
    subchain: str
    names: tuple[str, ...]
    elements: tuple[str, ...]
    xyz: NDArray[np.float64]

    def __str__(self) -> str:
        return f"{self.code} {self.chain} {self.number}"

    @property
    def heavy(self) -> NDArray[np.intp]:
        """Indices of the atoms that are no hydrogens."""
        return np.array([i for i, e in enumerate(self.elements) if e not in ("H", "D")], np.intp)

    def heavy_atoms(self) -> "Residue":
        """The same without hydrogens."""
        keep = self.heavy
        return Residue(
            chain=self.chain, number=self.number, code=self.code, subchain=self.subchain,
            xyz=self.xyz[keep],
            names=tuple(self.names[i] for i in keep),
            elements=tuple(self.elements[i] for i in keep),
        )  # fmt: skip


def is_metal(element: str) -> bool:
    """Whether contacts of an element are no covalent bonds, so that distances decide nothing."""
    return bool(gemmi.Element(element).is_metal)


def radii(elements: Iterable[str]) -> NDArray[np.float64]:
    """Covalent radii in Angstrom of elements in upper case."""
    return np.array([_TABLE.GetRcovalent(element.capitalize()) for element in elements])


def distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """All distances between two sets of points, shape (a, b)."""
    difference: NDArray[np.float64] = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return difference


def perceived_bonds(residue: Residue, tolerance: float = TOLERANCE) -> set[tuple[int, int]]:
    """Pairs of atoms at bonding distance, metals left out."""
    radius = radii(residue.elements)
    near = distances(residue.xyz, residue.xyz) < radius[:, None] + radius + tolerance
    covalent = np.array([not is_metal(element) for element in residue.elements])
    near &= covalent[:, None] & covalent
    return {(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(near, 1)), strict=True)}


def contradictions(residue: Residue, bonds: Iterable[tuple[int, int]]) -> list[str]:
    """What distances say against a bond graph; between the two thresholds they say nothing.

    Args:
        residue: The heavy atoms.
        bonds: Pairs of their indices, the smaller first.

    Returns:
        A few words for each pair.
    """
    given = set(bonds)
    radius = radii(residue.elements)
    apart = distances(residue.xyz, residue.xyz)
    wrong = [
        f"{residue.names[i]}-{residue.names[j]} are bonded but {apart[i, j]:.2f} A apart"
        for i, j in sorted(given)
        if apart[i, j] > radius[i] + radius[j] + _BROKEN
        and not (is_metal(residue.elements[i]) or is_metal(residue.elements[j]))
    ]
    near = perceived_bonds(residue, _SURE) - given
    return wrong + [
        f"{residue.names[i]}-{residue.names[j]} are not bonded but {apart[i, j]:.2f} A apart"
        for i, j in sorted(near)
    ]


def flat_graph(elements: Sequence[str], bonds: Iterable[tuple[int, int]]) -> Chem.Mol:
    """A molecule of single bonds and bare atoms, to compare connectivity alone."""
    graph = Chem.RWMol()
    for element in elements:
        atom = Chem.Atom(element.capitalize())
        atom.SetNoImplicit(True)
        graph.AddAtom(atom)
    for i, j in bonds:
        graph.AddBond(int(i), int(j), Chem.BondType.SINGLE)
    flat = graph.GetMol()
    Chem.FastFindRings(flat)
    return flat


def flattened(molecule: Chem.Mol) -> Chem.Mol:
    """The connectivity of a molecule alone."""
    return flat_graph(
        [atom.GetSymbol() for atom in molecule.GetAtoms()],
        [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()],
    )


def is_connected(count: int, bonds: Iterable[tuple[int, int]]) -> bool:
    """Whether ``count`` nodes are one piece."""
    parts = list(range(count))
    for i, j in bonds:
        old, new = parts[i], parts[j]
        parts = [new if part == old else part for part in parts]
    return len(set(parts)) <= 1
