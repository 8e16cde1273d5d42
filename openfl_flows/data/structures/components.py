"""Chemical components as OpenFold3 reads them: public ones, and a site's own.

The public Chemical Component Dictionary (CCD) is the one that biotite ships. A site's own molecule
gets a code of five characters that the CCD does not know: another molecule under a public code
would silently be given the public one's atoms and bonds.
"""

import hashlib
import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from biotite.structure.info.ccd import get_from_ccd
from biotite.structure.io.pdbx import CIFBlock, CIFCategory, CIFColumn
from openfold3.core.data.resources.residues import STANDARD_RESIDUES_3
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMolecule

from openfl_flows.atomic import write_json

STANDARD = tuple(STANDARD_RESIDUES_3)
"""Residues of which OpenFold3 wants a reference in every set, whatever its structures hold."""

RESERVED = frozenset({"LIG", "DRG", "INH", "UNL", "UNX", *(f"{i:02d}" for i in range(1, 100))})
"""Codes that stand for any molecule: wwPDB keeps 01 to 99, DRG, INH and LIG for ligands without a
code yet (its news of September 2023); UNL and UNX are its unknown ligand and unknown atom."""

_CATEGORIES = ("chem_comp", "chem_comp_atom", "chem_comp_bond")
_ORDERS = {
    Chem.BondType.SINGLE: "SING",
    Chem.BondType.DOUBLE: "DOUB",
    Chem.BondType.TRIPLE: "TRIP",
}
_LETTERS = string.digits + string.ascii_uppercase


@dataclass(frozen=True, kw_only=True, eq=False)
class Component:
    """A molecule under a code.

    Attributes:
        code: Its name in mmCIF.
        block: Its ``_chem_comp``, ``_chem_comp_atom`` and ``_chem_comp_bond``.
    """

    code: str
    block: CIFBlock

    @cached_property
    def elements(self) -> Mapping[str, str]:
        """Element of each heavy atom, by the atom's name."""
        atoms = self.block["chem_comp_atom"]
        pairs = zip(_texts(atoms, "atom_id"), _texts(atoms, "type_symbol"), strict=True)
        return {name: element.upper() for name, element in pairs if element not in ("H", "D")}

    @cached_property
    def bonds(self) -> Mapping[frozenset[str], str]:
        """``SING``, ``DOUB`` or ``TRIP`` of each pair of bonded heavy atoms."""
        bonds = self.block.get("chem_comp_bond")
        if bonds is None:
            return {}
        rows = zip(
            _texts(bonds, "atom_id_1"), _texts(bonds, "atom_id_2"), _texts(bonds, "value_order"),
            strict=True,
        )  # fmt: skip
        heavy = self.elements
        return {frozenset((a, b)): order for a, b, order in rows if a in heavy and b in heavy}

    @property
    def type(self) -> str:
        """``_chem_comp.type``, such as ``L-PEPTIDE LINKING``."""
        return _texts(self.block["chem_comp"], "type")[0]

    @property
    def letter(self) -> str:
        """One-letter code; X where it has none or several."""
        letter = _texts(self.block["chem_comp"], "one_letter_code")[0]
        return letter if len(letter) == 1 and letter.isalpha() else "X"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its definition."""
        return hashlib.sha256(self.block.serialize().encode()).hexdigest()


@cache
def public_component(code: str) -> Component | None:
    """The component of the CCD, or None where the code is not public."""
    block = CIFBlock(name=code)
    for category in _CATEGORIES:
        table = get_from_ccd(category, code)
        if table is not None:
            columns = {key: CIFColumn(table[key].as_array(str)) for key in table}
            block[category] = CIFCategory(columns)
    return Component(code=code, block=block) if "chem_comp_atom" in block else None


def own_component(molecule: Chem.Mol, registry: Path) -> tuple[Component, tuple[str, ...]]:
    """Make a component of a site's own molecule.

    Args:
        molecule: Heavy atoms with bonds, charges and stereochemistry, sanitized; may have
            coordinates, which then decide where no conformer can be embedded.
        registry: Folder of the codes that this set has given, one file each.

    Returns:
        The component and the names of its atoms in the molecule's order; both depend on the
        molecule alone, not on the order in which a file lists its atoms.
    """
    molecule = Chem.Mol(molecule)
    code = _claimed_code(canonical_smiles(molecule), registry)
    ranks = list(Chem.CanonicalRankAtoms(molecule, breakTies=True))
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    names = tuple(
        f"{symbol.upper()}{rank + 1}" for symbol, rank in zip(symbols, ranks, strict=True)
    )
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    sorted_names = [names[i] for i in order]
    with_hydrogens = Chem.AddHs(
        Chem.RenumberAtoms(molecule, order), addCoords=molecule.GetNumConformers() > 0
    )
    return Component(code=code, block=_block(code, with_hydrogens, sorted_names)), names


def canonical_smiles(molecule: Chem.Mol) -> str:
    """Canonical isomeric SMILES without hydrogens and atom maps."""
    return str(Chem.MolToSmiles(Chem.RemoveAllHs(Chem.Mol(molecule))))


def _texts(category: CIFCategory, key: str) -> list[str]:
    return [str(value) for value in category[key].as_array(str)]


def _claimed_code(smiles: str, registry: Path) -> str:
    registry.mkdir(parents=True, exist_ok=True)
    for attempt in range(1000):
        digest = hashlib.sha256(json.dumps([smiles, attempt]).encode()).digest()
        number = int.from_bytes(digest[:8], "big")
        # The CCD's own codes of five characters begin with A.
        code = string.ascii_uppercase[1 + number % 25]
        for _ in range(4):
            number //= 36
            code += _LETTERS[number % 36]
        file = registry / f"{code}.json"
        if public_component(code) is not None:
            continue
        if not file.exists():
            write_json(file, {"smiles": smiles})
        if json.loads(file.read_text())["smiles"] == smiles:
            return code
    raise AssertionError("no free code for a component")


def _block(code: str, molecule: Chem.Mol, heavy_names: list[str]) -> CIFBlock:
    """The mmCIF of a molecule with explicit hydrogens after its heavy atoms."""
    embedded = Chem.Mol(molecule)
    ideal = EmbedMolecule(embedded, randomSeed=1) == 0
    # Where no conformer can be embedded the given coordinates still tell the stereochemistry; the
    # flag keeps them from becoming the reference conformer, which would give the answer away.
    shown = embedded if ideal else molecule
    hydrogens = molecule.GetNumAtoms() - len(heavy_names)
    names = [*heavy_names, *(f"H{i + 1}" for i in range(hydrogens))]
    kekulized = Chem.Mol(molecule)
    Chem.Kekulize(kekulized, clearAromaticFlags=False)
    rows = [_atom(code, names, shown, i) for i in range(len(names))]
    block = CIFBlock(name=code)
    block["chem_comp"] = CIFCategory(
        {
            "id": code,
            "name": code,
            "type": "NON-POLYMER",
            "formula": "?",
            "formula_weight": "?",
            "one_letter_code": "?",
            "three_letter_code": code,
            "pdbx_release_status": "REL",
            "pdbx_modified_date": "?",
            "pdbx_ideal_coordinates_missing_flag": "N" if ideal else "Y",
            "pdbx_model_coordinates_db_code": "?",
        }
    )
    block["chem_comp_atom"] = CIFCategory({key: [row[key] for row in rows] for key in rows[0]})
    bonds = [
        {
            "comp_id": code,
            "atom_id_1": names[bond.GetBeginAtomIdx()],
            "atom_id_2": names[bond.GetEndAtomIdx()],
            "value_order": _ORDERS[bond.GetBondType()],
            "pdbx_aromatic_flag": "Y" if bond.GetIsAromatic() else "N",
            "pdbx_stereo_config": "N",
            "pdbx_ordinal": str(i + 1),
        }
        for i, bond in enumerate(kekulized.GetBonds())
    ]
    if bonds:
        columns = {key: [bond[key] for bond in bonds] for key in bonds[0]}
        block["chem_comp_bond"] = CIFCategory(columns)
    return block


def _atom(code: str, names: list[str], molecule: Chem.Mol, i: int) -> dict[str, str]:
    atom = molecule.GetAtomWithIdx(i)
    xyz = ["?"] * 3
    if molecule.GetNumConformers():
        xyz = [f"{value:.3f}" for value in molecule.GetConformer().GetAtomPosition(i)]
    return {
        "comp_id": code,
        "atom_id": names[i],
        "alt_atom_id": names[i],
        "type_symbol": atom.GetSymbol().upper(),
        "charge": str(atom.GetFormalCharge()),
        "pdbx_aromatic_flag": "Y" if atom.GetIsAromatic() else "N",
        "pdbx_leaving_atom_flag": "N",
        "pdbx_stereo_config": "N",
        "model_Cartn_x": "?",
        "model_Cartn_y": "?",
        "model_Cartn_z": "?",
        "pdbx_model_Cartn_x_ideal": xyz[0],
        "pdbx_model_Cartn_y_ideal": xyz[1],
        "pdbx_model_Cartn_z_ideal": xyz[2],
        "pdbx_ordinal": str(i + 1),
    }
