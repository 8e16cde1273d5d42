"""What a pre-flight finds in structures: kinds that may be counted, lines that stay at the site."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["accepted", "repaired", "refused"]

NOTES = {
    "converted": "read from PDB format",
    "first_model": "several models, the first taken",
    "alternative_locations": "alternative locations, the most occupied taken",
    "unresolved_residues": "residues of the sequence without coordinates, kept as unresolved",
    "unresolved_ligand_atoms": "ligand atoms without coordinates, kept as unresolved",
    "unknown_residues": "residues of unknown identity",
    "no_resolution": "no resolution, so losses of the confidence heads are off",
    "additives_removed": "crystallization aids removed, as OpenFold3 does for X-ray structures",
    "outside_assembly": "chains outside the first biological assembly",
    "covalent_ligand": "ligand bonded to a chain",
}
"""Kinds of remarks that change nothing about the outcome."""

REPAIRS = {
    "file_name": "name made lower-case and plain",
    "release_date": "release date taken from elsewhere",
    "method": "experimental method filled in",
    "sequence": "sequence made from the residues that are there",
    "entities": "entities, sequences or labels of chains written anew",
    "component_types": "types of components filled in",
    "assembly": "description of assemblies dropped, which lacks the first",
    "residue_names": "residues of force fields given their public names",
    "atom_names": "atoms of residues given their public names",
    "ligand_given": "ligand's bonds taken from the site's own definition",
    "ligand_file_bonds": "ligand's bonds taken from the structure's own file",
    "ligand_perceived": "ligand's bonds perceived from all its atoms, hydrogens included",
    "ligand_renamed": "ligand's atoms given the names of the same public component",
}
"""Kinds of repairs."""

REFUSALS = {
    "unreadable": "file cannot be read",
    "duplicate_id": "two files with one name",
    "empty": "no atoms",
    "only_water": "nothing but water and crystallization aids",
    "no_date": "no release date",
    "bad_date": "release date that is none",
    "unknown_atom": "atoms of unknown element",
    "sequence_mismatch": "residues that contradict the sequence",
    "modified_residue": "residue of a chain that is no public component",
    "ligand_undefined": "ligand whose bonds nothing tells",
    "ligand_other_molecule": "ligand under the code of another public molecule",
    "ligand_partial": "ligand with less than half of its atoms",
    "ligand_definition": "ligand that contradicts its definition",
    "ligand_contact": "ligand at bonding distance of a chain, with no bond declared",
    "resolution": "resolution beyond OpenFold3's limit",
    "too_many_chains": "more chains than OpenFold3's limit",
    "chain_lost": "chain that OpenFold3 drops",
    "chain_changed": "chain that differs after OpenFold3's preprocessing",
    "ligand_lost": "ligand that OpenFold3 drops",
    "ligand_changed": "ligand that differs after OpenFold3's preprocessing",
    "failed": "OpenFold3's preprocessing failed",
}
"""Kinds of reasons to refuse a structure."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found in one structure.

    Attributes:
        kind: A key of :data:`NOTES`, :data:`REPAIRS` or :data:`REFUSALS`: may be counted elsewhere.
        text: One line with names and values: stays at the site.
    """

    kind: str
    text: str

    def __post_init__(self) -> None:
        assert self.kind in NOTES or self.kind in REPAIRS or self.kind in REFUSALS, self.kind
        object.__setattr__(self, "text", " ".join(self.text.split()))


class Refused(Exception):
    """A structure cannot be used; carries every reason that was found."""

    def __init__(self, reasons: Finding | Sequence[Finding]) -> None:
        self.reasons = [reasons] if isinstance(reasons, Finding) else list(reasons)
        super().__init__("; ".join(reason.text for reason in self.reasons))


def outcome_of(findings: Iterable[Finding]) -> Outcome:
    """``refused`` where there is any reason to, else ``repaired`` where anything was repaired."""
    kinds = {finding.kind for finding in findings}
    if kinds & REFUSALS.keys():
        return "refused"
    return "repaired" if kinds & REPAIRS.keys() else "accepted"
