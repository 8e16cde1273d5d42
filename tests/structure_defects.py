"""Files with every defect that a structure may have, and what must become of each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from tests.structure_files import (
    entry,
    model,
    recoded,
    with_ligand,
    with_values,
    without,
    write_cif,
    write_pdb,
)

TOLUENE = "Cc1ccccc1"
REVISION = "_pdbx_audit_revision_history."
DEPOSITED = "_pdbx_database_status."
HEADER = "HEADER    HYDROLASE                               01-MAR-19   XXXX\n"

Write = Callable[[Path], None]
CASES: dict[str, tuple[str, str, Write]] = {}
"""By file name: outcome, kind of finding that must be there ('' for any), how it is made."""


def case(file: str, outcome: str, kind: str) -> Callable[[Write], Write]:
    def add(write: Write) -> Write:
        assert file not in CASES
        CASES[file] = (outcome, kind, write)
        return write

    return add


def cif(file: str, outcome: str, kind: str, change: Callable[[gemmi.cif.Block], Any]) -> None:
    """T4 lysozyme with toluene, changed."""

    @case(file, outcome, kind)
    def _(path: Path) -> None:
        block = entry("7l39")
        changed = change(block)
        write_cif(block if changed is None else changed, path)


def pdb(
    file: str, outcome: str, kind: str, change: Callable[[gemmi.Structure], Any] = lambda s: s,
    text: Callable[[str], str] = lambda text: text,
) -> None:  # fmt: skip
    """Ubiquitin in PDB format, changed."""

    @case(file, outcome, kind)
    def _(path: Path) -> None:
        structure = model("1ubq")
        structure.remove_waters()
        change(structure)
        write_pdb(structure, path, change=text)


def ligand(file: str, outcome: str, kind: str, code: str, smiles: str, **how: Any) -> None:
    pdb(file, outcome, kind, lambda s: with_ligand(s, code, smiles, **how))


# Codes of ligands. OpenFold3: another molecule, or none, and "success".
cif("sound.cif", "accepted", "", lambda b: b)
cif("sound-gz.cif.gz", "accepted", "", lambda b: b)
for code in ("LIG", "DRG", "INH", "X7Q"):
    cif(f"code-{code.lower()}.cif", "refused", "ligand_other_molecule",
        lambda b, code=code: recoded(b, "MBN", code, bonds=False))  # fmt: skip
for code in ("UNL", "Q9Z9"):
    cif(f"code-{code.lower()}.cif", "refused", "ligand_undefined",
        lambda b, code=code: recoded(b, "MBN", code, bonds=False))  # fmt: skip
for code in ("LIG", "X7Q", "UNL", "Q9Z9"):
    cif(f"given-{code.lower()}.cif", "repaired", "ligand_given",
        lambda b, code=code: recoded(b, "MBN", code, bonds=False))  # fmt: skip
cif(
    "own-bonds.cif", "repaired", "ligand_file_bonds", lambda b: recoded(b, "MBN", "LIG", bonds=True)
)
cif("renamed-atoms.cif", "repaired", "ligand_renamed", lambda b: _odd_atom_names(b))
cif("two-atoms.cif", "refused", "ligand_partial", lambda b: _ligand_atoms(b, 2))
cif("five-atoms.cif", "accepted", "unresolved_ligand_atoms", lambda b: _ligand_atoms(b, 5))
cif("wrong.cif", "refused", "ligand_definition", lambda b: recoded(b, "MBN", "BAD", bonds=False))
ligand("hydrogens.pdb", "repaired", "ligand_perceived", "LIG", "CC(=O)Nc1ccc(O)cc1", hydrogens=True)
ligand("charged.pdb", "repaired", "ligand_perceived", "LIG", "CC(=O)[O-]", hydrogens=True)
ligand("in-doubt.pdb", "refused", "ligand_other_molecule", "LIG", "C[n+]1ccccc1", hydrogens=True)
ligand("no-hydrogens.pdb", "refused", "ligand_other_molecule", "LIG", "CC(=O)Nc1ccc(O)cc1")
ligand("same-names.pdb", "repaired", "ligand_given", "BIG", "CC(=O)Nc1ccc(O)cc1",
       names=lambda element, i: element)  # fmt: skip
ligand("half.pdb", "repaired", "unresolved_ligand_atoms", "BIG", "CC(=O)Nc1ccc(O)cc1", keep=8)
ligand("less-than-half.pdb", "refused", "ligand_definition", "BIG", "CC(=O)Nc1ccc(O)cc1", keep=4)
ligand("mirrored.pdb", "refused", "ligand_definition", "CHI", "C[C@H](F)c1ccccc1")
ligand("not-mirrored.pdb", "repaired", "ligand_given", "CHI", "C[C@@H](F)c1ccccc1")
ligand("additive-code.pdb", "repaired", "ligand_given", "GOL", "CC(=O)Nc1ccc(O)cc1")
ligand("ion.pdb", "repaired", "release_date", "ZN", "[Zn+2]", names=lambda element, i: element)

# Bonds between ligands and chains, metals, unknown atoms.
pdb("touching.pdb", "refused", "ligand_contact", lambda s: _touching(s, declared=False))
pdb("bonded.pdb", "repaired", "covalent_ligand", lambda s: _touching(s, declared=True))


@case("metal.cif", "accepted", "")
def _(path: Path) -> None:
    write_cif(entry("3u8v"), path)


cif("unknown-element.cif", "refused", "unknown_atom", lambda b: with_values(
    b, ["_atom_site.type_symbol"], lambda e: "X" if e == "CL" else e))  # fmt: skip

# What a file says of itself.
cif("no-revision.cif", "repaired", "release_date", lambda b: without(b, REVISION))
cif("no-date.cif", "refused", "no_date", lambda b: without(b, REVISION, DEPOSITED))
cif("bad-date.cif", "refused", "bad_date",
    lambda b: with_values(b, [f"{REVISION}revision_date"], lambda d: d[:4]))  # fmt: skip
cif("no-method.cif", "repaired", "method", lambda b: without(b, "_exptl."))
cif("no-resolution.cif", "accepted", "no_resolution", lambda b: without(b, "_refine.", "_reflns."))
cif("low-resolution.cif", "refused", "resolution",
    lambda b: with_values(b, ["_refine.ls_d_res_high"], lambda _: "12.0"))  # fmt: skip
cif("Upper_Case.cif", "repaired", "file_name", lambda b: b)

# Entities, sequences, components.
for name, absent in {
    "poly": ["_entity_poly."],
    "poly-seq": ["_entity_poly_seq."],
    "letters": ["_entity_poly.pdbx_seq_one_letter_code_can"],
    "entity-ids": ["_atom_site.label_entity_id"],
    "label-seq": ["_atom_site.label_seq_id"],
    "label-asym": ["_atom_site.label_asym_id", "_struct_asym."],
}.items():
    cif(f"no-{name}.cif", "repaired", "entities",
        lambda b, absent=absent: without(b, *absent))  # fmt: skip
cif("odd-entities.cif", "repaired", "entities", lambda b: with_values(
    b, ["_entity.id", "_entity_poly.entity_id", "_entity_poly_seq.entity_id",
        "_atom_site.label_entity_id", "_struct_asym.entity_id"], lambda e: f"{e}!"))  # fmt: skip
cif("no-types.cif", "repaired", "component_types", lambda b: without(b, "_chem_comp.type"))
cif("null-types.cif", "repaired", "component_types", lambda b: _null_types(b))
cif("no-components.cif", "repaired", "component_types", lambda b: without(b, "_chem_comp."))
cif("assemblies.cif", "repaired", "assembly", lambda b: with_values(
    b, ["_pdbx_struct_assembly_gen.assembly_id", "_pdbx_struct_assembly.id"],
    lambda _: "7"))  # fmt: skip
cif("modified.cif", "refused", "modified_residue", lambda b: with_values(
    b, ["_entity_poly_seq.mon_id", "_atom_site.label_comp_id", "_atom_site.auth_comp_id",
        "_chem_comp.id"], lambda c: "Q9Z9" if c == "TRP" else c))  # fmt: skip
pdb("no-sequence.pdb", "repaired", "sequence", text=lambda t: _without_lines(t, "SEQRES", "DBREF"))
pdb("gap.pdb", "repaired", "sequence", lambda s: _without_residues(s, 30, 35),
    text=lambda t: _without_lines(t, "SEQRES", "DBREF"))  # fmt: skip
pdb("unresolved.pdb", "repaired", "unresolved_residues", lambda s: _without_residues(s, 30, 35))
pdb("contradiction.pdb", "refused", "sequence_mismatch", lambda s: _other_residue(s))
pdb("unknown.pdb", "repaired", "unknown_residues", lambda s: _unknown_residues(s),
    text=lambda t: _without_lines(t, "SEQRES", "DBREF"))  # fmt: skip
pdb("force-field.pdb", "repaired", "residue_names", lambda s: _force_field(s),
    text=lambda t: _without_lines(t, "SEQRES", "DBREF"))  # fmt: skip
pdb("peptide.pdb", "refused", "chain_lost", lambda s: _second_chain(s, 3),
    text=lambda t: _without_lines(t, "SEQRES", "DBREF"))  # fmt: skip
pdb("plain.pdb", "repaired", "release_date")
pdb("Plain-2.ENT", "repaired", "file_name")


@case("models.cif", "accepted", "first_model")
def _(path: Path) -> None:
    write_cif(entry("1hf9"), path)


@case("unreadable.cif", "refused", "unreadable")
def _(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 9)


@case("truncated.cif.gz", "refused", "unreadable")
def _(path: Path) -> None:
    write_cif(entry("1ubq"), path)
    path.write_bytes(path.read_bytes()[:2000])


@case("empty.cif", "refused", "unreadable")
def _(path: Path) -> None:
    path.write_text("data_EMPTY\n_entry.id EMPTY\n")


@case("nothing.pdb", "refused", "empty")
def _(path: Path) -> None:
    path.write_text(HEADER + "END\n")


@case("water.pdb", "refused", "only_water")
def _(path: Path) -> None:
    structure = model("1ubq")
    for chain in structure[0]:
        for i in reversed(range(len(chain))):
            if not chain[i].is_water():
                del chain[i]
    write_pdb(structure, path, change=lambda t: HEADER + _without_lines(t, "HEADER", "SEQRES"))


@case("twice.cif", "refused", "duplicate_id")
def _(path: Path) -> None:
    write_cif(entry("1ubq"), path)
    write_pdb(model("1ubq"), path.with_suffix(".pdb"))


def _without_lines(text: str, *starts: str) -> str:
    return "".join(line for line in text.splitlines(True) if not line.startswith(starts))


def _odd_atom_names(block: gemmi.cif.Block) -> gemmi.cif.Block:
    for row in block.find("_atom_site.", ["label_comp_id", "label_atom_id", "auth_atom_id"]):
        if row[0] == "MBN":
            row[1] = row[2] = f"X{row[1]}"
    return block


def _ligand_atoms(block: gemmi.cif.Block, keep: int) -> gemmi.cif.Block:
    table = block.find("_atom_site.", ["label_comp_id", "label_atom_id"])
    kept = ["C", "C1", "C2", "C3", "C4", "C5", "C6"][:keep]
    rows = [i for i, row in enumerate(table) if row[0] == "MBN" and row[1] not in kept]
    for i in reversed(rows):
        table.remove_row(i)
    return block


def _null_types(block: gemmi.cif.Block) -> None:
    column = block.find_values("_chem_comp.type")
    for i in range(len(column)):
        column[i] = "."


def _without_residues(structure: gemmi.Structure, first: int, last: int) -> None:
    chain = structure[0]["A"]
    for i in reversed(range(len(chain))):
        if first <= chain[i].seqid.num <= last:
            del chain[i]


def _other_residue(structure: gemmi.Structure) -> None:
    for residue in structure[0]["A"]:
        if residue.seqid.num in range(20, 31):
            residue.name = "ALA" if residue.name != "ALA" else "GLY"


def _unknown_residues(structure: gemmi.Structure) -> None:
    for residue in structure[0]["A"]:
        if residue.seqid.num in (10, 11):
            residue.name = "UNK"
            for i in reversed(range(len(residue))):
                if residue[i].name not in ("N", "CA", "C", "O", "CB"):
                    del residue[i]


def _force_field(structure: gemmi.Structure) -> None:
    for residue in structure[0]["A"]:
        if residue.name == "HIS":
            residue.name = "HSE"
        if residue.name == "ILE":
            residue["CD1"][0].name = "CD"


def _second_chain(structure: gemmi.Structure, length: int) -> None:
    chain = gemmi.Chain("B")
    for residue in list(structure[0]["A"])[:length]:
        copied = residue.clone()
        for atom in copied:
            atom.pos += gemmi.Position(80, 80, 80)
        chain.add_residue(copied)
    structure[0].add_chain(chain)


def _touching(structure: gemmi.Structure, *, declared: bool) -> None:
    """A fluorine-free methyl on the end of lysine 63, which reaches into the solvent."""
    lysine = next(residue for residue in structure[0]["A"] if residue.seqid.num == 63)
    nz, ce = lysine["NZ"][0].pos, lysine["CE"][0].pos
    way = np.array((nz - ce).tolist())
    at = np.array(nz.tolist()) + way / np.linalg.norm(way) * 1.45
    with_ligand(structure, "BEZ", "OC(=O)c1ccccc1", at=at, keep=1,
                names=lambda element, i: "C")  # fmt: skip
    residue = structure[0]["A"][-1]
    residue.name = "CH2"
    residue[0].element = gemmi.Element("C")
    if declared:
        link = gemmi.Connection()
        link.name = "covale1"
        link.type = gemmi.ConnectionType.Covale
        for partner, owner, atom in (
            (link.partner1, lysine, lysine["NZ"][0]), (link.partner2, residue, residue[0]),
        ):  # fmt: skip
            partner.chain_name = "A"
            partner.res_id = gemmi.ResidueId()
            partner.res_id.seqid = owner.seqid
            partner.res_id.name = owner.name
            partner.atom_name = atom.name
        structure.connections.append(link)
