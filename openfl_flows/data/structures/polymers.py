"""Chains of a structure: names of residues and atoms, sequences, entities, label numbers."""

from collections.abc import Sequence

import gemmi
import numpy as np
from numpy.typing import NDArray

from openfl_flows.data.structures.components import public_component
from openfl_flows.data.structures.findings import Finding, Refused
from openfl_flows.data.structures.geometry import distances, radii
from openfl_flows.data.structures.reading import polymer_residues

_FORCE_FIELDS = {
    "HSD": "HIS", "HSE": "HIS", "HSP": "HIS", "HID": "HIS", "HIE": "HIS", "HIP": "HIS",
    "CYX": "CYS", "CYM": "CYS", "ASH": "ASP", "GLH": "GLU", "LYN": "LYS",
}  # fmt: skip
_ALIASES = {
    "OT1": "O", "OT2": "OXT", "O1": "O", "O2": "OXT", "OC1": "O", "OC2": "OXT",
    "O1P": "OP1", "O2P": "OP2", "C5M": "C7",
}  # fmt: skip
_ALIASES_OF = {("ILE", "CD"): "CD1"}
_LINK = 2.5
_LONGEST_GAP = 100
_CONTACT = 0.1


def rename_force_field(structure: gemmi.Structure, file: str) -> list[Finding]:
    """Give residues and atoms of chains their public names, where they have those of a force field.

    OpenFold3 drops atoms that a component does not know, and takes unknown residues for no
    peptides. A residue is only renamed if its atoms say so: HSE is also homoserine.
    """
    residues: list[str] = []
    atoms: list[str] = []
    for chain, residue in polymer_residues(structure):
        where = f"{residue.name} {chain} {residue.seqid}"
        present = {atom.name for atom in residue if not atom.is_hydrogen()}
        meant = _FORCE_FIELDS.get(residue.name)
        if meant and present <= _heavy(meant) and not present <= _heavy(residue.name):
            residue.name = meant
            residues.append(where)
        known = _heavy(residue.name)
        if present <= known or not known:
            continue
        for atom in residue:
            name = _public_name(residue.name, atom.name)
            if atom.name not in known and name in known - present and not atom.is_hydrogen():
                atoms.append(f"{where} {atom.name}")
                atom.name = name
    found = (("residue_names", "residues", residues), ("atom_names", "atoms", atoms))
    return [
        Finding(kind=kind, text=f"{file}: {len(which)} {what} renamed, the first {which[0]}")
        for kind, what, which in found
        if which
    ]


def complete_entities(structure: gemmi.Structure, file: str) -> list[Finding]:
    """Give every chain a sequence and its residues their places in it; number the entities.

    Raises:
        Refused: Residues contradict the sequence of their chain.
    """
    findings = []
    for chain in structure[0]:
        polymer = chain.get_polymer()
        if not len(polymer):
            continue
        entity = structure.get_entity_of(polymer)
        if entity is None or not entity.full_sequence:
            unknown = _sequence_from_residues(structure, polymer, entity)
            text = (
                f"{file}: chain {chain.name}: no sequence, taken from its {len(polymer)} residues"
            )
            if unknown:
                text += f", {unknown} missing ones entered as unknown"
            findings.append(Finding(kind="sequence", text=text))
    structure.deduplicate_entities()
    structure.assign_label_seq_id()
    wrong = _contradicting(structure)
    if wrong:
        text = f"{file}: {wrong[0]}; {len(wrong)} residues contradict the sequence of their chain"
        raise Refused(Finding(kind="sequence_mismatch", text=text))
    for number, entity in enumerate(structure.entities, 1):
        entity.name = str(number)
    structure.add_entity_ids(overwrite=True)
    return findings


def undeclared_contacts(structure: gemmi.Structure, file: str) -> list[Finding]:
    """Ligands that touch another residue at bonding distance, with no bond declared.

    Pairs that may exclude each other (occupancies sum to at most 1), metals and water aside.
    """
    linked = {
        frozenset((_where(link.partner1), _where(link.partner2))) for link in structure.connections
    }
    atoms = [
        (chain.name, residue, atom)
        for chain in structure[0]
        for residue in chain
        if not residue.is_water()
        for atom in residue
        if not atom.is_hydrogen() and not atom.element.is_metal
    ]
    inside = [a for a in atoms if a[1].entity_type != gemmi.EntityType.Polymer]
    if not inside:
        return []
    xyz, radius = _points(atoms)
    xyz_in, radius_in = _points(inside)
    near = distances(xyz_in, xyz) < radius_in[:, None] + radius + _CONTACT
    found: dict[frozenset[tuple[str, str]], Finding] = {}
    for i, j in zip(*np.nonzero(near), strict=True):
        (chain_a, a, atom_a), (chain_b, b, atom_b) = inside[i], atoms[j]
        pair = frozenset(((chain_a, str(a.seqid)), (chain_b, str(b.seqid))))
        if a == b or a is b or len(pair) == 1 or pair in linked or pair in found:
            continue
        if atom_a.occ + atom_b.occ <= 1.0:
            continue
        distance = atom_a.pos.dist(atom_b.pos)
        text = (
            f"{file}: ligand {a.name} {chain_a} {a.seqid} {atom_a.name} is {distance:.2f} A from "
            f"{b.name} {chain_b} {b.seqid} {atom_b.name}, expected LINK or _struct_conn to say "
            "whether they are bonded"
        )
        found[pair] = Finding(kind="ligand_contact", text=text)
    return list(found.values())


def _points(
    atoms: Sequence[tuple[str, gemmi.Residue, gemmi.Atom]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places and covalent radii, Angstrom."""
    xyz = np.array([atom.pos.tolist() for _, _, atom in atoms])
    return xyz, radii(atom.element.name for _, _, atom in atoms)


def _heavy(code: str) -> set[str]:
    component = public_component(code)
    return set(component.elements) if component else set()


def _public_name(residue: str, atom: str) -> str:
    name = _ALIASES_OF.get((residue, atom)) or _ALIASES.get(atom) or atom
    return name.replace("*", "'")


def _sequence_from_residues(
    structure: gemmi.Structure, polymer: gemmi.ResidueSpan, entity: gemmi.Entity | None
) -> int:
    """Set the sequence to the residues that are there; gaps in their numbers are unknown ones."""
    sequence: list[str] = []
    unknown = 0
    previous = None
    for residue in polymer:
        if previous is not None:
            gap = int(residue.seqid.num or 0) - int(previous.seqid.num or 0) - 1
            if 0 < gap <= _LONGEST_GAP and not _linked(previous, residue):
                sequence += ["UNK" if residue.find_atom("CA", "*") else "N"] * gap
                unknown += gap
        sequence.append(residue.name)
        residue.label_seq = len(sequence)
        previous = residue
    subchain = polymer.subchain_id()
    if entity is None or len(entity.subchains) > 1:
        polymer_type = polymer.check_polymer_type()
        if entity is not None:
            entity.subchains = [name for name in entity.subchains if name != subchain]
        entity = gemmi.Entity(f"new{subchain}")
        entity.entity_type = gemmi.EntityType.Polymer
        entity.polymer_type = polymer_type
        entity.subchains = [subchain]
        entity.full_sequence = sequence
        structure.entities.append(entity)
    else:
        entity.full_sequence = sequence
    return unknown


def _linked(a: gemmi.Residue, b: gemmi.Residue) -> bool:
    for first, second in (("C", "N"), ("O3'", "P")):
        one, other = a.find_atom(first, "*"), b.find_atom(second, "*")
        if one and other:
            return bool(one.pos.dist(other.pos) < _LINK)
    return False


def _contradicting(structure: gemmi.Structure) -> list[str]:
    wrong = []
    for chain in structure[0]:
        polymer = chain.get_polymer()
        entity = structure.get_entity_of(polymer) if len(polymer) else None
        if entity is None:
            continue
        sequence = list(entity.full_sequence)
        for residue in polymer:
            place = residue.label_seq
            names = sequence[place - 1].split(",") if place and place <= len(sequence) else []
            if place is None or residue.name not in names:
                there = names[0] if names else "no residue"
                wrong.append(
                    f"chain {chain.name}: {residue.name} {residue.seqid}, expected {there}"
                )
            elif len(names) > 1:
                sequence[place - 1] = residue.name
        entity.full_sequence = sequence
    return wrong


def _where(partner: gemmi.AtomAddress) -> tuple[str, str]:
    return partner.chain_name, str(partner.res_id.seqid)
