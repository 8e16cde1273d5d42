"""Files of structures with defects, made of sound ones, for the pre-flight to catch or repair."""

import gzip
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import gemmi
import numpy as np
import openfold3
from rdkit import Chem
from rdkit.Chem import AllChem

ENTRIES = Path(openfold3.__file__).parent / "tests" / "test_data" / "mmcifs"
"""Entries of the PDB in full, which OpenFold3's package holds."""

FAR = np.array([80.0, 80.0, 80.0])
"""A place outside of ubiquitin."""


def entry(name: str) -> gemmi.cif.Block:
    """The mmCIF of an entry."""
    return gemmi.cif.read(str(ENTRIES / f"{name}.cif")).sole_block()


def model(name: str) -> gemmi.Structure:
    """The structure of an entry."""
    structure = gemmi.read_structure(str(ENTRIES / f"{name}.cif"))
    structure.setup_entities()
    return structure


def without(block: gemmi.cif.Block, *names: str) -> gemmi.cif.Block:
    """The block without these categories (ending with a dot) or tags."""
    for name in names:
        if name.endswith("."):
            block.find_mmcif_category(name).erase()
        else:
            category, tag = name.split(".")
            table = block.get_mmcif_category(f"{category}.")
            del table[tag]
            block.set_mmcif_category(f"{category}.", table)
    return block


def with_values(
    block: gemmi.cif.Block, tags: Iterable[str], change: Callable[[str], str]
) -> gemmi.cif.Block:
    """The block with every value of some tags changed."""
    for tag in tags:
        column = block.find_values(tag)
        for i in range(len(column)):
            column[i] = gemmi.cif.quote(change(gemmi.cif.as_string(column[i])))
    return block


def recoded(block: gemmi.cif.Block, old: str, new: str, *, bonds: bool) -> gemmi.cif.Block:
    """The block with a component under another code, with or without its definition."""
    text = re.sub(rf"\b{old}\b", new, block.as_string())
    renamed = gemmi.cif.read_string(text).sole_block()
    return renamed if bonds else without(renamed, "_chem_comp_atom.", "_chem_comp_bond.")


def with_ligand(
    structure: gemmi.Structure, code: str, smiles: str, *, hydrogens: bool = False, keep: int = 999,
    names: Callable[[str, int], str] = lambda element, i: f"{element}{i}", at: np.ndarray = FAR,
) -> gemmi.Structure:  # fmt: skip
    """The structure with a molecule added as residue 900 of chain A, as HETATM.

    Args:
        structure: Changed.
        code: The residue's name.
        smiles: Of the molecule.
        hydrogens: Whether to write them.
        keep: Write so many atoms only.
        names: Of an atom, by element and number.
        at: Where its first atom is, Angstrom.
    """
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(molecule, randomSeed=7) == 0
    xyz = molecule.GetConformer().GetPositions()
    residue = gemmi.Residue()
    residue.name = code
    residue.seqid = gemmi.SeqId("900")
    residue.het_flag = "H"
    for i, atom in enumerate(molecule.GetAtoms()):
        if (atom.GetAtomicNum() == 1 and not hydrogens) or len(residue) >= keep:
            continue
        added = gemmi.Atom()
        added.element = gemmi.Element(atom.GetSymbol())
        added.name = names(atom.GetSymbol().upper(), i)
        added.pos = gemmi.Position(*(xyz[i] - xyz[0] + at))
        residue.add_atom(added)
    structure[0]["A"].add_residue(residue)
    return structure


def write_pdb(
    structure: gemmi.Structure, file: Path, *, change: Callable[[str], str] = str
) -> None:
    """Write PDB format; ``change`` changes its text."""
    options = gemmi.PdbWriteOptions()
    file.write_text(change(structure.make_pdb_string(options)))


def write_cif(block: gemmi.cif.Block, file: Path) -> None:
    """Write mmCIF, compressed if the name says so."""
    text = block.as_string()
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file.write_text(text)
