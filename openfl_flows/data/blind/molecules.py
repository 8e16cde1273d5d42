"""Which group a molecule belongs to: a pure function of it, coarse enough to hold its kin.

The largest fragment of a molecule, neutral and without stereochemistry and isotopes, is reduced to
its **core**: its ring systems, those with most rings first, until there are as many rings as asked
for; of those with equally many, the ones with most heteroatoms first. So far this is akin to the
parent of a scaffold tree (Schuffenhauer et al., J. Chem. Inf. Model. 47 (2007) 47), but ring
systems stay whole and linkers are dropped. Then every chain of CH2 within a ring is shortened to a
single one, since homologous rings have nearly the same fingerprint: cyclopentane and azepane are a
cyclopropane and an aziridine here.

A molecule without rings, and every molecule where the parties choose ``atoms``, is grouped by the
set of its kinds of atoms: element, hybridisation, in a ring or not. In exhaustive enumerations of
small molecules, such as QM9, near duplicates differ in their rings more than in these.

Tautomers are not united. What each choice leaks is measured in docs/results/blind_split.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize

Rule = Literal["core", "atoms"]

_CARBON, _SINGLE = 6, Chem.BondType.SINGLE


@dataclass(frozen=True, kw_only=True)
class MoleculeGroups:
    """Names groups of molecules.

    Attributes:
        rule: ``core`` or ``atoms``.
        rings: Rings from which on a core is complete.
    """

    rule: Rule = "core"
    rings: int = 1
    _uncharger: Any = field(
        default_factory=rdMolStandardize.Uncharger, init=False, repr=False, compare=False
    )

    def group(self, smiles: str) -> str:
        """The name of a molecule's group, to be compared as a string.

        Raises:
            ValueError: RDKit refuses the SMILES.
        """
        with rdBase.BlockLogs():
            parsed = Chem.MolFromSmiles(smiles)
            if parsed is None or not parsed.GetNumAtoms():
                raise ValueError(f"RDKit refuses the SMILES {smiles!r}")
            molecule = self._uncharger.uncharge(_largest_fragment(parsed))
        Chem.RemoveStereochemistry(molecule)
        core = _core(molecule, self.rings) if self.rule == "core" else ""
        return core or _kinds_of_atoms(molecule)


def _largest_fragment(molecule: Chem.Mol) -> Chem.Mol:
    fragments = Chem.GetMolFrags(molecule, asMols=True)
    return max(
        fragments, key=lambda each: (each.GetNumHeavyAtoms(), Chem.MolToSmiles(each)), default=None
    )


def _kinds_of_atoms(molecule: Chem.Mol) -> str:
    kinds = {
        f"{atom.GetSymbol()}{str(atom.GetHybridization()).lower()}{'r' * atom.IsInRing()}"
        for atom in molecule.GetAtoms()
        if atom.GetAtomicNum() > 1
    }
    return "/".join(sorted(kinds))


def _core(molecule: Chem.Mol, rings: int) -> str:
    """Names of the ring systems that make the core, joined by dots; empty without rings."""
    atoms_of_rings = [frozenset(ring) for ring in molecule.GetRingInfo().AtomRings()]
    ranked = []
    for system in _ring_systems(atoms_of_rings):
        num_rings = sum(ring <= system for ring in atoms_of_rings)
        others = sum(molecule.GetAtomWithIdx(i).GetAtomicNum() != _CARBON for i in system)
        ranked.append((-num_rings, -others, _shortened(molecule, system)))
    kept, found = [], 0
    for num_rings, _, name in sorted(ranked):
        if found >= rings:
            break
        kept.append(name)
        found -= num_rings
    return ".".join(sorted(kept))


def _ring_systems(rings: Sequence[frozenset[int]]) -> list[frozenset[int]]:
    """Atoms of rings that share at least one."""
    systems: list[frozenset[int]] = []
    for ring in rings:
        apart = [system for system in systems if not system & ring]
        systems = [*apart, ring.union(*(system for system in systems if system & ring))]
    return systems


def _shortened(molecule: Chem.Mol, system: frozenset[int]) -> str:
    """Canonical SMILES of a ring system with every chain of CH2 reduced to one."""
    graph = Chem.RWMol()
    place = {}
    for index in sorted(system):
        atom = Chem.Atom(molecule.GetAtomWithIdx(index).GetAtomicNum())
        # Hydrogens would tell where substituents were.
        atom.SetNoImplicit(True)
        place[index] = graph.AddAtom(atom)
    for bond in molecule.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if system.issuperset(ends):
            kind = Chem.BondType.AROMATIC if bond.GetIsAromatic() else bond.GetBondType()
            graph.AddBond(place[ends[0]], place[ends[1]], kind)
    while (chain := _two_in_a_chain(graph)) is not None:
        kept, gone, beyond = chain
        graph.AddBond(kept, beyond, _SINGLE)
        graph.RemoveAtom(gone)
    return _canonical(Chem.MolToSmiles(graph, canonical=False))


@lru_cache(maxsize=100_000)
def _canonical(smiles: str) -> str:
    """The one SMILES of a graph whose atoms came in any order."""
    graph = Chem.MolFromSmiles(smiles, sanitize=False)
    graph.UpdatePropertyCache(strict=False)
    name: str = Chem.MolToSmiles(graph)
    return name


def _two_in_a_chain(graph: Chem.RWMol) -> tuple[int, int, int] | None:
    """Two CH2 side by side and what comes after them, if they can become one."""
    for bond in graph.GetBonds():
        first, second = bond.GetBeginAtom(), bond.GetEndAtom()
        if not (_is_link(first) and _is_link(second)):
            continue
        beyond = next(
            atom.GetIdx() for atom in second.GetNeighbors() if atom.GetIdx() != first.GetIdx()
        )
        # In a ring of three there is nothing to shorten.
        if graph.GetBondBetweenAtoms(first.GetIdx(), beyond) is None:
            return first.GetIdx(), second.GetIdx(), beyond
    return None


def _is_link(atom: Chem.Atom) -> bool:
    return (
        atom.GetAtomicNum() == _CARBON
        and atom.GetDegree() == 2
        and all(bond.GetBondType() == _SINGLE for bond in atom.GetBonds())
    )
