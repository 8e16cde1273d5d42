"""Decide what molecule each ligand of a structure is; refuse where nothing tells.

In this order: the site's own definition; the public component of its code, if names, elements and
distances agree; the public component under other atom names; bonds in the structure's own mmCIF;
RDKit's perception, if all hydrogens are there. A code alone is no evidence: in-house files call
their compounds LIG, DRG, INH or any three letters, and most of these are public molecules.
"""

from dataclasses import dataclass
from pathlib import Path

import gemmi
from rdkit import Chem

from openfl_flows.data.structures.components import (
    RESERVED,
    Component,
    canonical_smiles,
    own_component,
    public_component,
)
from openfl_flows.data.structures.definitions import Definitions
from openfl_flows.data.structures.findings import Finding, Refused
from openfl_flows.data.structures.geometry import Residue, contradictions, flat_graph
from openfl_flows.data.structures.matching import isomorphism, match, perceive, with_coordinates

_ORDERS = {
    "SING": Chem.BondType.SINGLE,
    "DOUB": Chem.BondType.DOUBLE,
    "TRIP": Chem.BondType.TRIPLE,
    "AROM": Chem.BondType.AROMATIC,
    "DELO": Chem.BondType.AROMATIC,
}


_PARTIAL = "only"


@dataclass(frozen=True, kw_only=True, eq=False)
class Identified:
    """A ligand of which it is known what it is.

    Attributes:
        residue: Its heavy atoms as in the file.
        component: The molecule.
        names: The component's name of each of the residue's atoms.
        smiles: What its reference molecule must be; None for public components.
        findings: How it was identified, where not by its code alone.
        origin: Of the definition that was used.
    """

    residue: Residue
    component: Component
    names: tuple[str, ...]
    smiles: str | None
    findings: tuple[Finding, ...]
    origin: str | None = None

    @property
    def bonds(self) -> dict[frozenset[str], str]:
        """Bonds between the atoms that have coordinates."""
        present = set(self.names)
        return {pair: order for pair, order in self.component.bonds.items() if pair <= present}


@dataclass(frozen=True, kw_only=True, eq=False)
class Chemist:
    """What is known about the ligands of one structure.

    Attributes:
        id: Of the structure.
        file: Its name, for messages.
        definitions: The site's own.
        block: The structure's own mmCIF, if it is one.
        registry: Where codes of own components are claimed.
    """

    id: str
    file: str
    definitions: Definitions
    block: gemmi.cif.Block | None
    registry: Path

    def identify(self, residue: Residue) -> Identified:
        """Identify a ligand.

        Args:
            residue: With hydrogens, if the file has any.

        Raises:
            Refused: It is not known what it is.
        """
        heavy = residue.heavy_atoms()
        definition = self.definitions.find(self.id, residue.code)
        if definition is not None:
            try:
                matched = match(definition.molecule, heavy)
            except ValueError as error:
                raise self._refused(
                    "ligand_definition", residue, f"{error} ({definition.origin})"
                ) from None
            return self._own(heavy, definition.molecule, matched, "ligand_given", definition.origin)
        public = public_component(residue.code)
        doubts = "" if public is None else _doubts(heavy, public)
        if public is not None and not doubts:
            return self._as_public(heavy, public)
        if doubts.startswith(_PARTIAL) and residue.code not in RESERVED:
            raise self._refused("ligand_partial", residue, f"{doubts}; --ligands can define it")
        if public is not None and residue.code not in RESERVED:
            names = _other_names(heavy, public)
            if names is not None:
                return self._renamed(heavy, public, names)
        stated = self._stated(residue.code)
        if stated is not None:
            try:
                matched = match(stated, heavy)
            except ValueError as error:
                raise self._refused(
                    "ligand_definition", residue, f"{error} (its own file)"
                ) from None
            return self._own(heavy, stated, matched, "ligand_file_bonds", None)
        perceived = perceive(residue)
        if perceived is not None:
            matched = tuple(range(len(heavy.names)))
            return self._own(heavy, perceived, matched, "ligand_perceived", None)
        if public is None:
            why = "its code is no public component and nothing tells its bonds"
            raise self._refused("ligand_undefined", residue, f"{why}; --ligands can")
        what = f"not known to be the public {residue.code}: {doubts}; --ligands can define it"
        raise self._refused("ligand_other_molecule", residue, what)

    def _as_public(self, heavy: Residue, public: Component) -> Identified:
        missing = len(public.elements) - len(heavy.names)
        text = f"{self.file}: ligand {heavy}: {missing} of {len(public.elements)} heavy atoms"
        finding = Finding(kind="unresolved_ligand_atoms", text=f"{text} have no coordinates")
        return Identified(
            residue=heavy, component=public, names=heavy.names, smiles=None,
            findings=(finding,) if missing else (),
        )  # fmt: skip

    def _renamed(self, heavy: Residue, public: Component, names: list[str]) -> Identified:
        text = f"{self.file}: ligand {heavy}: atoms renamed as in the public {public.code}"
        finding = Finding(kind="ligand_renamed", text=text)
        return Identified(
            residue=heavy, component=public, names=tuple(names), smiles=None, findings=(finding,)
        )

    def _own(
        self, heavy: Residue, molecule: Chem.Mol, matched: tuple[int, ...], kind: str,
        origin: str | None,
    ) -> Identified:  # fmt: skip
        missing = molecule.GetNumAtoms() - len(matched)
        if not missing:
            molecule = with_coordinates(molecule, heavy, matched)
        component, names = own_component(molecule, self.registry)
        smiles = canonical_smiles(molecule)
        text = f"{self.file}: ligand {heavy}: is {smiles}, entered as {component.code}"
        findings = [Finding(kind=kind, text=f"{text}, from {origin}" if origin else text)]
        if missing:
            text = f"{self.file}: ligand {heavy}: {missing} of {molecule.GetNumAtoms()} heavy atoms"
            findings.append(
                Finding(kind="unresolved_ligand_atoms", text=f"{text} have no coordinates")
            )
        return Identified(
            residue=heavy, component=component, names=tuple(names[i] for i in matched),
            smiles=smiles, findings=tuple(findings), origin=origin,
        )  # fmt: skip

    def _stated(self, code: str) -> Chem.Mol | None:
        """The molecule that ``_chem_comp_atom`` and ``_chem_comp_bond`` of the file make."""
        if self.block is None:
            return None
        atoms = self.block.find(
            "_chem_comp_atom.", ["comp_id", "atom_id", "type_symbol", "?charge"]
        )
        bonds = self.block.find(
            "_chem_comp_bond.", ["comp_id", "atom_id_1", "atom_id_2", "value_order"]
        )
        molecule = Chem.RWMol()
        where: dict[str, int] = {}
        try:
            for row in atoms:
                if row.str(0) == code:
                    atom = Chem.Atom(row.str(2).capitalize())
                    if row.has(3) and not gemmi.cif.is_null(row[3]):
                        atom.SetFormalCharge(int(row.str(3)))
                    where[row.str(1)] = molecule.AddAtom(atom)
            for row in bonds:
                if row.str(0) == code:
                    order = _ORDERS[row.str(3).upper()[:4]]
                    molecule.AddBond(where[row.str(1)], where[row.str(2)], order)
            for bond in molecule.GetBonds():
                if bond.GetBondType() == Chem.BondType.AROMATIC:
                    for atom in (bond.GetBeginAtom(), bond.GetEndAtom()):
                        atom.SetIsAromatic(True)
            Chem.SanitizeMol(molecule)
        except (KeyError, ValueError, RuntimeError):
            return None
        whole = molecule.GetNumAtoms() > 1 and len(Chem.GetMolFrags(molecule)) == 1
        return Chem.RemoveAllHs(molecule.GetMol()) if whole else None

    def _refused(self, kind: str, residue: Residue, why: str) -> Refused:
        size = len(residue.heavy)
        return Refused(
            Finding(kind=kind, text=f"{self.file}: ligand {residue} ({size} heavy atoms): {why}")
        )


def _doubts(heavy: Residue, public: Component) -> str:
    """Why a residue may not be the component of its code; empty where there is no doubt."""
    size = len(public.elements)
    count = len(heavy.names)
    strangers = [
        f"{name} ({element})"
        for name, element in zip(heavy.names, heavy.elements, strict=True)
        if public.elements.get(name) != element
    ]
    if strangers:
        return f"it has no atom {strangers[0]}"
    if len(set(heavy.names)) < count:
        return "atom names repeat"
    wrong = contradictions(heavy, _indexed(heavy.names, public))
    if wrong:
        return wrong[0]
    if count < size and (heavy.code in RESERVED or 2 * count < size):
        return f"{_PARTIAL} {count} of its {size} heavy atoms are there"
    return ""


def _indexed(names: tuple[str, ...], public: Component) -> list[tuple[int, int]]:
    where = {name: i for i, name in enumerate(names)}
    pairs = (sorted(where[name] for name in pair) for pair in public.bonds if pair <= where.keys())
    return [(pair[0], pair[1]) for pair in pairs]


def _other_names(heavy: Residue, public: Component) -> list[str] | None:
    names = list(public.elements)
    where = {name: i for i, name in enumerate(names)}
    bonds = [tuple(sorted(where[name] for name in pair)) for pair in public.bonds]
    graph = flat_graph(list(public.elements.values()), [(a, b) for a, b in bonds])
    return isomorphism(heavy, names, graph)
