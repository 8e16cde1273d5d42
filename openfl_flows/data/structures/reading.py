"""Files of structures: which there are, and what they hold before anything touches it."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np

from openfl_flows.data.structures.findings import Finding, Refused
from openfl_flows.data.structures.geometry import Residue

SUFFIXES = (".cif", ".mmcif", ".pdb", ".ent")
"""Of the files that are taken, with or without ``.gz``, in any case."""

_PDB = (".pdb", ".ent")


@dataclass(frozen=True, kw_only=True)
class Input:
    """One file of a site.

    Attributes:
        id: Name of the structure: the file's, lower-case and plain.
        path: The file.
        sha256: Of its content.
    """

    id: str
    path: Path
    sha256: str

    @property
    def renamed(self) -> bool:
        """Whether the structure has another name than the file."""
        return self.id != _stem(self.path)


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What a file holds.

    Attributes:
        structure: First model, one conformer of each residue, with entities.
        block: The mmCIF itself; None for PDB format.
        models: How many there are.
        alternatives: Residues that have alternative locations.
        rivals: Residues that were dropped as alternatives of another one under the same number.
    """

    structure: gemmi.Structure
    block: gemmi.cif.Block | None
    models: int
    alternatives: int
    rivals: int


def find_inputs(folder: Path) -> list[Input]:
    """All files of structures in a folder, sorted by id.

    Raises:
        ValueError: There are none.
    """
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and _suffix(file)]
    if not files:
        raise ValueError(f"{folder}: holds no {', '.join(SUFFIXES)} file, plain or .gz")
    found = []
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        found.append(Input(id=plain_name(_stem(file)), path=file, sha256=digest))
    return sorted(found, key=lambda entry: (entry.id, entry.path.name))


def read_source(file: Path) -> Source:
    """Read a structure.

    Raises:
        Refused: It cannot be read, or holds no atoms or unknown ones.
    """
    block = None
    try:
        if _suffix(file) in _PDB:
            structure = gemmi.read_pdb(str(file))
        else:
            block = _atom_block(gemmi.cif.read(str(file)))
            structure = _structure(block)
    except (RuntimeError, ValueError, OSError, EOFError, KeyError, IndexError) as error:
        raise Refused(
            Finding(kind="unreadable", text=f"{file.name}: cannot be read: {error}")
        ) from None
    models = len(structure)
    if models == 0 or not any(len(residue) for chain in structure[0] for residue in chain):
        raise Refused(Finding(kind="empty", text=f"{file.name}: has no atoms"))
    while len(structure) > 1:
        del structure[1]
    alternatives, dropped = _take_most_occupied(structure)
    _refuse_unknown_atoms(structure, file)
    structure.setup_entities()
    if block is not None:
        _sequences_from_letters(structure, block)
    return Source(
        structure=structure, block=block, models=models, alternatives=alternatives, rivals=dropped
    )


def as_residue(chain: str, residue: gemmi.Residue) -> Residue:
    """A residue's atoms as arrays."""
    return Residue(
        chain=chain,
        number=str(residue.seqid),
        code=residue.name,
        subchain=residue.subchain,
        names=tuple(atom.name for atom in residue),
        elements=tuple(atom.element.name.upper() for atom in residue),
        xyz=np.array([atom.pos.tolist() for atom in residue], np.float64).reshape(-1, 3),
    )


def ligands(structure: gemmi.Structure) -> list[Residue]:
    """Every residue that is neither of a polymer nor water."""
    kinds = (gemmi.EntityType.Polymer, gemmi.EntityType.Water)
    return [
        as_residue(chain.name, residue)
        for chain in structure[0]
        for residue in chain
        if residue.entity_type not in kinds and not residue.is_water()
    ]


def polymer_residues(structure: gemmi.Structure) -> list[tuple[str, gemmi.Residue]]:
    """Author's chain and residue for all residues of polymers."""
    return [
        (chain.name, residue)
        for chain in structure[0]
        for residue in chain
        if residue.entity_type == gemmi.EntityType.Polymer
    ]


def full_sequences(structure: gemmi.Structure) -> dict[str, list[str]]:
    """Sequence of each polymer with those residues that have no coordinates, by author's chain."""
    found: dict[str, list[str]] = {}
    for chain in structure[0]:
        entity = structure.get_entity_of(chain.get_polymer())
        if entity is not None and entity.full_sequence:
            found[chain.name] = [gemmi.Entity.first_mon(item) for item in entity.full_sequence]
    return found


def _atom_block(document: gemmi.cif.Document) -> gemmi.cif.Block:
    blocks = [block for block in document if block.find_values("_atom_site.Cartn_x")]
    if len(blocks) != 1:
        raise ValueError(f"{len(blocks)} data blocks have atoms, expected one")
    return blocks[0]


def _structure(block: gemmi.cif.Block) -> gemmi.Structure:
    if len(block.find_values("_atom_site.label_asym_id")):
        return gemmi.make_structure_from_block(block)
    # Without labels gemmi reads no atoms; with the author's chains instead it divides them itself.
    labelled = gemmi.cif.read_string(block.as_string()).sole_block()
    atoms = labelled.get_mmcif_category("_atom_site.", raw=True)
    atoms["label_asym_id"] = atoms["auth_asym_id"]
    labelled.set_mmcif_category("_atom_site.", atoms, raw=True)
    structure = gemmi.make_structure_from_block(labelled)
    structure.entities.clear()
    for chain in structure[0]:
        for residue in chain:
            residue.subchain = residue.entity_id = ""
            residue.entity_type = gemmi.EntityType.Unknown
    return structure


def _sequences_from_letters(structure: gemmi.Structure, block: gemmi.cif.Block) -> None:
    """Sequences of an mmCIF that gives them in one-letter codes alone."""
    kinds = {"polypeptide(L)": gemmi.ResidueKind.AA, "polyribonucleotide": gemmi.ResidueKind.RNA,
             "polydeoxyribonucleotide": gemmi.ResidueKind.DNA}  # fmt: skip
    tags = ["entity_id", "type", "pdbx_seq_one_letter_code", "?pdbx_strand_id"]
    for row in block.find("_entity_poly.", tags):
        strands = row.str(3).split(",") if row.has(3) else []
        chain = next((c for c in structure[0] if c.name in strands), None)
        entity = structure.get_entity_of(chain.get_polymer()) if chain else None
        entity = entity or structure.get_entity(row.str(0))
        if entity is None or entity.full_sequence or row.str(1) not in kinds:
            continue
        letters = "".join(row.str(2).split())
        try:
            entity.full_sequence = gemmi.expand_one_letter_sequence(letters, kinds[row.str(1)])
        except (RuntimeError, ValueError):
            continue


def _take_most_occupied(structure: gemmi.Structure) -> tuple[int, int]:
    """Keep of each residue the conformer with the highest sum of occupancies, as biotite does.

    Returns:
        How many residues had alternatives, and how many were alternatives of another residue.
    """
    count = dropped = 0
    for chain in structure[0]:
        rivals: dict[str, list[tuple[float, int]]] = {}
        for i, residue in enumerate(chain):
            sums: dict[str, float] = defaultdict(float)
            for atom in residue:
                if atom.has_altloc():
                    sums[atom.altloc] += atom.occ
            if not sums:
                continue
            count += 1
            best = max(sorted(sums), key=sums.__getitem__)
            if all(atom.has_altloc() for atom in residue):
                weight = sums[best] / sum(atom.altloc == best for atom in residue)
                rivals.setdefault(str(residue.seqid), []).append((-weight, i))
            for j in reversed(range(len(residue))):
                if residue[j].has_altloc() and residue[j].altloc != best:
                    del residue[j]
                else:
                    residue[j].altloc = "\0"
        # Residues of different names under one number are alternatives, too.
        losers = [i for group in rivals.values() for _, i in sorted(group)[1:]]
        for i in sorted(losers, reverse=True):
            del chain[i]
        dropped += len(losers)
    return count, dropped


def _refuse_unknown_atoms(structure: gemmi.Structure, file: Path) -> None:
    wrong = [
        f"{residue.name} {chain.name} {residue.seqid} {atom.name}"
        for chain in structure[0]
        for residue in chain
        for atom in residue
        if atom.element == gemmi.Element("X")
    ]
    if wrong:
        raise Refused(
            Finding(
                kind="unknown_atom",
                text=f"{file.name}: {len(wrong)} atoms of unknown element, the first {wrong[0]}",
            )
        )


def _suffix(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else ""


def _stem(file: Path) -> str:
    stem = file.name
    if stem.lower().endswith(".gz"):
        stem = stem[:-3]
    return stem[: -len(_suffix(file))]


def plain_name(stem: str) -> str:
    """Id of a structure from the name of its file: lower-case letters, digits and hyphens."""
    # OpenFold3 joins names by "_" and later divides at the first.
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "structure"


def duplicates(inputs: Sequence[Input]) -> dict[str, list[Input]]:
    """Inputs that share an id, by id."""
    counts = Counter(entry.id for entry in inputs)
    return {
        name: [entry for entry in inputs if entry.id == name]
        for name, count in counts.items()
        if count > 1
    }
