"""Make of a structure what OpenFold3 reads without guessing; say what was done, or refuse.

OpenFold3 wants more than a file of a modelling program has: integer entities with sequences, types
of components, a release date, a method, bonds of every component. What it lacks it fails on, or
takes a protein for a ligand, or a ligand for another, without a word. An mmCIF that has everything
is passed on as it is, but for categories that nothing reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gemmi
from openfold3.core.data.resources.lists import CRYSTALLIZATION_AIDS

from openfl_flows.data.structures import header, tables
from openfl_flows.data.structures.chemistry import Chemist, Identified
from openfl_flows.data.structures.components import STANDARD, Component, public_component
from openfl_flows.data.structures.findings import Finding, Refused
from openfl_flows.data.structures.geometry import Residue
from openfl_flows.data.structures.polymers import (
    complete_entities,
    rename_force_field,
    undeclared_contacts,
)
from openfl_flows.data.structures.reading import (
    Input,
    Source,
    full_sequences,
    ligands,
    polymer_residues,
)

_ANY = ("PROTEIN", "DNA", "RNA")
_KINDS = {
    gemmi.PolymerType.PeptideL: ("PROTEIN",),
    gemmi.PolymerType.PeptideD: ("PROTEIN",),
    gemmi.PolymerType.Dna: ("DNA",),
    gemmi.PolymerType.Rna: ("RNA",),
    gemmi.PolymerType.DnaRnaHybrid: ("DNA", "RNA"),
}
_COPIED = ("_refine.", "_reflns.", "_em_3d_reconstruction.")


@dataclass(frozen=True, kw_only=True)
class Polymer:
    """A chain before OpenFold3's preprocessing.

    Attributes:
        kinds: Molecule types that it may have; all, where its residues do not tell.
        length: Of its sequence.
        atoms: Heavy atoms with coordinates.
    """

    kinds: tuple[str, ...]
    length: int
    atoms: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Repaired:
    """A structure that OpenFold3 can read, and what must come out of it.

    Attributes:
        block: Its mmCIF.
        components: All that it holds, by code.
        ligands: Every ligand that must be there afterwards.
        chains: Every polymer that must be there afterwards, by author's chain.
        release_date: YYYY-MM-DD.
        findings: What was repaired and noted.
    """

    block: gemmi.cif.Block
    components: Mapping[str, Component]
    ligands: Sequence[Identified]
    chains: Mapping[str, Polymer]
    release_date: str
    findings: Sequence[Finding]


def repair(entry: Input, source: Source, chemist: Chemist, date: str | None) -> Repaired:
    """Repair one structure.

    Args:
        entry: The file.
        source: What it holds; changed.
        chemist: Knows its ligands.
        date: Release date of structures that tell none, YYYY-MM-DD.

    Raises:
        Refused: It cannot be used, with all reasons.
    """
    file = entry.path.name
    structure = source.structure
    findings = _notes(entry, source)
    renamed = rename_force_field(structure, file)
    method, found = header.method(source, file)
    findings += renamed + found
    known, notes, reasons = _identified(structure, chemist, method, file)
    findings += notes
    reasons += undeclared_contacts(structure, file) + _modified_residues(structure, file)
    if not known and not polymer_residues(structure) and not reasons:
        text = f"{file}: nothing but water and crystallization aids"
        reasons.append(Finding(kind="only_water", text=text))
    released, found = header.release_date(source, date, file)
    (reasons if released is None else findings).extend(found)
    repeated = any(len(set(one.residue.names)) < len(one.residue.names) for one in known)
    try:
        block, found = _block(source, file, anew=bool(renamed) or repeated)
        findings += found
        resolution = tables.resolution(block)
        reasons += header.limits(structure, resolution, file)
    except Refused as refused:
        reasons += refused.reasons
    if reasons:
        raise Refused(reasons)
    assert released is not None
    findings += _component_types(source, file) + header.keep_first_assembly(block, file)
    if resolution is None:
        findings.append(Finding(kind="no_resolution", text=f"{file}: no resolution"))
    outside = header.subchains_outside(structure, block)
    findings += _outside(structure, outside, file)
    tables.strip(block)
    header.write_header(block, entry.id, released, method)
    tables.rename_atoms(block, _new_names(known))
    components = _components(structure, known)
    tables.write_components(block, components.values())
    chains = _expected_chains(structure, outside)
    return Repaired(
        block=block, components=components, chains=chains, release_date=released,
        ligands=[one for one in known if one.residue.subchain not in outside], findings=findings,
    )  # fmt: skip


def _notes(entry: Input, source: Source) -> list[Finding]:
    file = entry.path.name
    found = []
    if entry.renamed:
        found.append(Finding(kind="file_name", text=f"{file}: named {entry.id}"))
    if source.block is None:
        found.append(Finding(kind="converted", text=f"{file}: PDB format"))
    if source.models > 1:
        text = f"{file}: {source.models} models, the first taken"
        found.append(Finding(kind="first_model", text=text))
    if source.alternatives:
        text = f"{file}: {source.alternatives} residues with alternative locations"
        found.append(Finding(kind="alternative_locations", text=text))
    unknown = [
        residue for _, residue in polymer_residues(source.structure) if residue.name == "UNK"
    ]
    if unknown:
        text = f"{file}: {len(unknown)} residues of unknown identity"
        found.append(Finding(kind="unknown_residues", text=text))
    return found


def _identified(
    structure: gemmi.Structure, chemist: Chemist, method: str, file: str
) -> tuple[list[Identified], list[Finding], list[Finding]]:
    """Ligands, notes and repairs, and reasons to refuse."""
    known: list[Identified] = []
    notes: list[Finding] = []
    reasons: list[Finding] = []
    seen: set[tuple[str, str, str]] = set()
    for residue in ligands(structure):
        key = (residue.chain, residue.number, residue.code)
        if key in seen:
            text = f"{file}: two residues are {residue}, expected one"
            reasons.append(Finding(kind="ligand_definition", text=text))
            continue
        seen.add(key)
        if method == header.XRAY and _is_additive(residue):
            text = f"{file}: {residue} is a crystallization aid, left out"
            notes.append(Finding(kind="additives_removed", text=text))
            continue
        try:
            known.append(chemist.identify(residue))
        except Refused as refused:
            reasons += refused.reasons
    for one in known:
        notes += one.findings
    linked = {
        (partner.chain_name, str(partner.res_id.seqid))
        for link in structure.connections
        if link.type == gemmi.ConnectionType.Covale
        for partner in (link.partner1, link.partner2)
    }
    notes += [
        Finding(kind="covalent_ligand", text=f"{file}: ligand {one.residue} is bonded")
        for one in known
        if (one.residue.chain, one.residue.number) in linked
    ]
    return known, notes, reasons


def _is_additive(residue: Residue) -> bool:
    """Whether it is what its code says, and OpenFold3 removes it."""
    if residue.code not in CRYSTALLIZATION_AIDS:
        return False
    heavy = residue.heavy_atoms()
    public = public_component(residue.code)
    return public is not None and all(
        public.elements.get(name) == element
        for name, element in zip(heavy.names, heavy.elements, strict=True)
    )


def _modified_residues(structure: gemmi.Structure, file: str) -> list[Finding]:
    codes = {code for sequence in full_sequences(structure).values() for code in sequence}
    codes |= {residue.name for _, residue in polymer_residues(structure)}
    return [
        Finding(
            kind="modified_residue",
            text=f"{file}: residue {code} of a chain, expected a code of the public dictionary",
        )
        for code in sorted(codes)
        if public_component(code) is None
    ]


def _block(source: Source, file: str, *, anew: bool) -> tuple[gemmi.cif.Block, list[Finding]]:
    """The mmCIF: the file's own if it lacks nothing, else written from the structure."""
    lacking = _lacking(source.block) if source.block is not None else ""
    if source.block is not None and not (lacking or anew or source.rivals):
        return source.block, _unresolved(source.structure, file)
    findings = complete_entities(source.structure, file)
    if lacking:
        findings.append(Finding(kind="entities", text=f"{file}: {lacking}, written anew"))
    structure = source.structure.clone()
    structure.remove_waters()
    structure.remove_empty_chains()
    block = structure.make_mmcif_block()
    if source.block is not None:
        for category in _COPIED:
            table = source.block.get_mmcif_category(category)
            if table:
                block.set_mmcif_category(category, table)
    if tables.resolution(block) is None and structure.resolution > 0:
        high = {"entry_id": [structure.name], "ls_d_res_high": [f"{structure.resolution:g}"]}
        block.set_mmcif_category("_refine.", high)
    letters = {
        entity.name: "".join(_letter(item) for item in entity.full_sequence)
        for entity in structure.entities
        if entity.entity_type == gemmi.EntityType.Polymer
    }
    rows = block.find("_entity_poly.", ["entity_id", "type"])
    block.set_mmcif_category(
        "_entity_poly.",
        {
            "entity_id": [row.str(0) for row in rows],
            "type": [row.str(1) for row in rows],
            "pdbx_seq_one_letter_code_can": [letters[row.str(0)] for row in rows],
        },
    )
    return block, findings + _unresolved(source.structure, file)


def _lacking(block: gemmi.cif.Block) -> str:
    """What of entities, sequences and labels an mmCIF lacks; empty if nothing."""
    for tag in (
        "_atom_site.label_asym_id", "_atom_site.label_comp_id", "_atom_site.label_atom_id",
        "_atom_site.auth_asym_id", "_atom_site.auth_seq_id", "_atom_site.label_entity_id",
    ):  # fmt: skip
        if tables.has_gaps(block, tag):
            return f"no {tag}"
    if not len(block.find_values("_atom_site.label_seq_id")):
        return "no _atom_site.label_seq_id"
    for tag in (
        "_entity_poly.entity_id", "_entity_poly.pdbx_seq_one_letter_code_can",
        "_entity_poly_seq.entity_id", "_entity_poly_seq.num", "_entity_poly_seq.mon_id",
    ):  # fmt: skip
        if tables.has_gaps(block, tag):
            return f"no {tag}"
    for tag in ("_atom_site.label_entity_id", "_entity_poly.entity_id"):
        wrong = [value for value in tables.values(block, tag) if not value.isdecimal()]
        if wrong:
            return f"{tag} is {wrong[0]!r}, expected an integer"
    return ""


def _unresolved(structure: gemmi.Structure, file: str) -> list[Finding]:
    counts: dict[str, int] = {}
    for chain, _ in polymer_residues(structure):
        counts[chain] = counts.get(chain, 0) + 1
    return [
        Finding(
            kind="unresolved_residues",
            text=f"{file}: chain {chain}: {len(sequence) - counts.get(chain, 0)} of "
            f"{len(sequence)} residues have no coordinates",
        )
        for chain, sequence in full_sequences(structure).items()
        if counts.get(chain, 0) < len(sequence)
    ]


def _component_types(source: Source, file: str) -> list[Finding]:
    """Whether the file left out types of components, without which a protein becomes a ligand."""
    if source.block is None:
        return []
    rows = source.block.find("_chem_comp.", ["id", "type"])
    known = {row.str(0) for row in rows if not gemmi.cif.is_null(row[1])}
    used = {residue.name for chain in source.structure[0] for residue in chain}
    missing = sorted(used - known)
    if not missing:
        return []
    text = f"{file}: no _chem_comp.type of {len(missing)} components, the first {missing[0]}"
    return [Finding(kind="component_types", text=text)]


def _outside(structure: gemmi.Structure, outside: set[str], file: str) -> list[Finding]:
    names = {
        f"{chain.name} ({residue.subchain})"
        for chain in structure[0]
        for residue in chain
        if residue.subchain in outside and not residue.is_water()
    }
    return [
        Finding(kind="outside_assembly", text=f"{file}: chain {name} is outside the first assembly")
        for name in sorted(names)
    ]


def _new_names(
    known: Sequence[Identified],
) -> dict[tuple[str, str, str], tuple[str, list[tuple[str, str]]]]:
    return {
        (one.residue.chain, one.residue.number, one.residue.code): (
            one.component.code,
            list(zip(one.residue.names, one.names, strict=True)),
        )
        for one in known
        if one.component.code != one.residue.code or one.names != one.residue.names
    }


def _components(structure: gemmi.Structure, known: Sequence[Identified]) -> dict[str, Component]:
    codes = {code for sequence in full_sequences(structure).values() for code in sequence}
    codes |= {residue.name for _, residue in polymer_residues(structure)}
    found = {one.component.code: one.component for one in known}
    for code in sorted(codes | set(STANDARD)):
        public = public_component(code)
        if public is not None:
            found.setdefault(code, public)
    return found


def _expected_chains(structure: gemmi.Structure, outside: set[str]) -> dict[str, Polymer]:
    sequences = full_sequences(structure)
    found = {}
    for chain in structure[0]:
        polymer = chain.get_polymer()
        if len(polymer) and polymer[0].subchain not in outside:
            found[chain.name] = Polymer(
                kinds=_KINDS.get(polymer.check_polymer_type(), _ANY),
                length=len(sequences[chain.name]),
                atoms=sum(not atom.is_hydrogen() for residue in polymer for atom in residue),
            )
    return found


def _letter(item: str) -> str:
    public = public_component(gemmi.Entity.first_mon(item))
    return public.letter if public is not None else "X"
