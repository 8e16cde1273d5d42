"""Put a known molecule's bonds on a residue's atoms, or perceive them where that is certain."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdDetermineBonds
from rdkit.Chem.rdDistGeom import EmbedMolecule
from rdkit.Geometry import Point3D

from openfl_flows.data.structures.geometry import (
    Residue,
    distances,
    flat_graph,
    flattened,
    is_connected,
    perceived_bonds,
)

_MOST_MATCHES = 2000
_LENGTH_ERROR = 0.1
_CHARGES = ((0,), (1, -1), (2, -2))


def match(molecule: Chem.Mol, residue: Residue) -> tuple[int, ...]:
    """Which atom of the molecule each heavy atom of the residue is.

    Of all ways in which the connectivity fits, the one whose bond lengths and stereochemistry agree
    best with the molecule is taken.

    Args:
        molecule: The chemistry, heavy atoms only.
        residue: Heavy atoms with coordinates; may lack up to half of the molecule's.

    Raises:
        ValueError: The residue is not this molecule, or only one of several parts of it.
    """
    size = molecule.GetNumAtoms()
    count = len(residue.names)
    if count > size:
        raise ValueError(f"it has {count} heavy atoms, the definition {size}")
    if 2 * count < size:
        raise ValueError(f"it has {count} of the definition's {size} heavy atoms, expected half")
    bonds = perceived_bonds(residue)
    template = flattened(molecule)
    found = template.GetSubstructMatches(
        flat_graph(residue.elements, bonds), uniquify=False, maxMatches=_MOST_MATCHES
    )
    if count == size:
        found = tuple(m for m in found if len(bonds) == molecule.GetNumBonds())
    else:
        found = tuple(m for m in found if _induced(molecule, m) == len(bonds))
        ranks = list(Chem.CanonicalRankAtoms(template, breakTies=False))
        if len({tuple(sorted(ranks[i] for i in m)) for m in found}) > 1:
            raise ValueError(f"its {count} atoms may be several parts of the definition's {size}")
    if not found:
        raise ValueError(f"its {_formula(residue)} with bonds by distance is not the definition's")
    best = _best(molecule, residue, found)
    if count == size and not _same_stereo(molecule, with_coordinates(molecule, residue, best)):
        raise ValueError("its stereochemistry is not the definition's")
    return best


def with_coordinates(molecule: Chem.Mol, residue: Residue, matched: Sequence[int]) -> Chem.Mol:
    """The molecule where the residue is, its open stereochemistry told by the coordinates.

    Only for residues that lack no atom.
    """
    placed = Chem.Mol(molecule)
    placed.RemoveAllConformers()
    conformer = Chem.Conformer(molecule.GetNumAtoms())
    for atom, xyz in zip(matched, residue.xyz, strict=True):
        conformer.SetAtomPosition(int(atom), Point3D(*map(float, xyz)))
    placed.AddConformer(conformer, assignId=True)
    Chem.AssignStereochemistryFrom3D(placed)
    return placed


def isomorphism(residue: Residue, names: Sequence[str], graph: Chem.Mol) -> list[str] | None:
    """Names for the residue's heavy atoms under which it is ``graph``; None where it is not.

    Args:
        residue: Heavy atoms, none missing.
        names: Of the graph's atoms.
        graph: Of single bonds, see :func:`~openfl_flows.data.structures.geometry.flat_graph`.
    """
    bonds = perceived_bonds(residue)
    if len(residue.names) != graph.GetNumAtoms() or len(bonds) != graph.GetNumBonds():
        return None
    found = graph.GetSubstructMatch(flat_graph(residue.elements, bonds))
    return [names[i] for i in found] if found else None


def perceive(residue: Residue) -> Chem.Mol | None:
    """The molecule that a residue with all its hydrogens is, where there is no doubt.

    RDKit's bond perception (Kim & Kim 2015, Bull. Korean Chem. Soc. 36, 1769) needs every
    hydrogen and the charge. No doubt means: the file has hydrogens; of the charges 0, +-1, +-2 the
    smallest in size for which there is a molecule of one piece without radicals is alone of its
    size; and the molecule's bond lengths in a conformer of RDKit's agree within 0.1 Angstrom (root
    mean square), which they do not where hydrogens are missing.

    Returns:
        Heavy atoms in the residue's order with coordinates, or None.
    """
    if len(residue.heavy) == len(residue.names):
        return None
    for charges in _CHARGES:
        found = [m for m in (_perceived(residue, charge) for charge in charges) if m is not None]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _perceived(residue: Residue, charge: int) -> Chem.Mol | None:
    raw = Chem.RWMol()
    conformer = Chem.Conformer(len(residue.names))
    for i, (element, xyz) in enumerate(zip(residue.elements, residue.xyz, strict=True)):
        raw.AddAtom(Chem.Atom("H" if element == "D" else element.capitalize()))
        conformer.SetAtomPosition(i, Point3D(*map(float, xyz)))
    raw.AddConformer(conformer, assignId=True)
    molecule = raw.GetMol()
    try:
        rdDetermineBonds.DetermineBonds(molecule, charge=charge)
        Chem.SanitizeMol(molecule)
    except (ValueError, RuntimeError):
        return None
    if any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms()):
        return None
    heavy = Chem.RemoveAllHs(molecule)
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in heavy.GetBonds()]
    if heavy.GetNumAtoms() != len(residue.heavy) or not is_connected(heavy.GetNumAtoms(), bonds):
        return None
    lengths = _lengths(heavy)
    if lengths is None or not bonds:
        return None
    xyz = residue.xyz[residue.heavy]
    errors = [float(np.linalg.norm(xyz[i] - xyz[j])) - lengths[i, j] for i, j in bonds]
    return heavy if np.sqrt(np.mean(np.square(errors))) < _LENGTH_ERROR else None


def _best(
    molecule: Chem.Mol, residue: Residue, found: Sequence[tuple[int, ...]]
) -> tuple[int, ...]:
    """The match with the right stereochemistry, if any, and the least error of bond lengths."""
    if len(found) == 1:
        return found[0]
    lengths = _lengths(molecule)
    apart = distances(residue.xyz, residue.xyz)
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in molecule.GetBonds()]
    complete = len(residue.names) == molecule.GetNumAtoms()

    def error(matched: tuple[int, ...]) -> float:
        if lengths is None:
            return 0.0
        where = {atom: i for i, atom in enumerate(matched)}
        pairs = [(i, j) for i, j in bonds if i in where and j in where]
        errors = [apart[where[i], where[j]] - lengths[i, j] for i, j in pairs]
        return float(np.square(errors).sum())

    ordered = sorted(found, key=error)
    if complete:
        for matched in ordered:
            if _same_stereo(molecule, with_coordinates(molecule, residue, matched)):
                return matched
    return ordered[0]


def _same_stereo(molecule: Chem.Mol, placed: Chem.Mol) -> bool:
    """Whether what the molecule says of its stereochemistry holds for its placed copy."""
    return bool(placed.HasSubstructMatch(molecule, useChirality=True))


def _lengths(molecule: Chem.Mol) -> NDArray[np.float64] | None:
    """All distances between heavy atoms in a conformer, Angstrom; None where there is none."""
    with_hydrogens = Chem.AddHs(molecule)
    if EmbedMolecule(with_hydrogens, randomSeed=1) != 0:
        return None
    xyz = with_hydrogens.GetConformer().GetPositions()[: molecule.GetNumAtoms()]
    return distances(xyz, xyz)


def _induced(molecule: Chem.Mol, atoms: Sequence[int]) -> int:
    """Bonds of the molecule between some of its atoms."""
    chosen = set(atoms)
    return sum(
        b.GetBeginAtomIdx() in chosen and b.GetEndAtomIdx() in chosen for b in molecule.GetBonds()
    )


def _formula(residue: Residue) -> str:
    counts = {e: residue.elements.count(e) for e in sorted(set(residue.elements))}
    return "".join(f"{e.capitalize()}{n if n > 1 else ''}" for e, n in counts.items())
