"""A site's prepared set of structures, one after the other, held against a schema."""

import json
from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from rdkit import Chem, rdBase

from openfl_flows.data.schema.findings import Finding, Findings, findings_of, refusal
from openfl_flows.data.schema.limits import StructuresV1
from openfl_flows.data.schema.quantities import Labels, read_quantity
from openfl_flows.data.structures.findings import NOTES, REFUSALS, REPAIRS
from openfl_flows.data.structures.preflight_report import OUTCOMES
from openfl_flows.data.structures.select import NO_LIGANDS, Structure
from openfl_flows.data.structures.set import CACHE, StructureSet
from openfl_flows.data.structures.sites import cluster_groups

_LIGAND = "LIGAND"
_COUNTS = Path("preflight") / "counts.json"


class ChainEntry(BaseModel):
    """One chain of an entry of the cache.

    Attributes:
        molecule_type: ``PROTEIN``, ``DNA``, ``RNA`` or ``LIGAND``.
        reference_mol_id: Code of a ligand.
        cluster_id: Of like sequences.
    """

    model_config = ConfigDict(frozen=True)

    molecule_type: str
    reference_mol_id: str | None
    cluster_id: str | None


class StructureRow(BaseModel):
    """One entry of the cache; the context of validation is the schema.

    Attributes:
        release_date: Day of the release.
        resolution: In Angstrom, None where there is none.
        chains: By OpenFold3's number.
    """

    model_config = ConfigDict(frozen=True)

    release_date: date
    resolution: float | None
    chains: Mapping[str, ChainEntry]

    @field_validator("release_date", mode="before")
    @classmethod
    def _released(cls, text: Any, info: ValidationInfo) -> date:
        first, last = _schema(info).released
        try:
            found = date.fromisoformat(str(text))
        except ValueError:
            found = date.max
        if not first <= found <= last:
            raise refusal("date", f"YYYY-MM-DD from {first} to {last}")
        return found

    @field_validator("resolution", mode="before")
    @classmethod
    def _resolution(cls, value: Any, info: ValidationInfo) -> float | None:
        return read_quantity(value, _schema(info).resolution)

    @field_validator("chains")
    @classmethod
    def _chains(
        cls, chains: Mapping[str, ChainEntry], info: ValidationInfo
    ) -> Mapping[str, ChainEntry]:
        schema = _schema(info)
        if not schema.chains.holds(len(chains)):
            raise refusal("chains", f"{schema.chains} chains, not {len(chains)}")
        kinds = {chain.molecule_type.lower() for chain in chains.values()} - {_LIGAND.lower()}
        if foreign := sorted(kinds - set(schema.polymers)):
            raise refusal("polymer", f"chains of {', '.join(schema.polymers)}, not {foreign[0]}")
        return chains


def read_structures(
    schema: StructuresV1, place: Path, findings: Findings
) -> dict[str, dict[str, int]]:
    """Look at every structure of a prepared set.

    Chemistry was compared when the set was prepared; what the pre-flight counted is told here again
    where its report is still there.

    Args:
        schema: What it must look like.
        place: Folder of the set.
        findings: Gets whatever is not as agreed.

    Returns:
        Exact counts by group and name, all of which the schema or this package names.

    Raises:
        OSError: A file cannot be read.
    """
    found: list[Structure] = []
    resolution = Labels("resolution", schema.resolution)
    entries: Mapping[str, Any] = {}
    try:
        prepared = StructureSet.open(place)
        entries = prepared.structures
    except ValueError as error:
        kind = "unreadable" if place.is_dir() else "absent"
        expected = "a set that `openfl-flows data prepare` wrote"
        findings.later([Finding(kind, place.name, 0, "", "", str(error), expected)])
    bonded: dict[str, bool] = {}
    for name, entry in sorted(entries.items()):
        structure = _structure(schema, prepared.folder, name, entry, bonded, findings)
        if structure is None:
            continue
        found.append(structure)
        if entry["resolution"] is not None:
            resolution.known.append(float(entry["resolution"]))
    polymers = Counter(kind for each in found for kind in set(each.polymers))
    with_ligand = sum(bool(each.ligands) for each in found)
    groups = len(set(cluster_groups(found))) if found else 0
    sizes = (
        ("structures", len(found), schema.structures.least, schema.structures.most),
        ("groups", groups, schema.groups, None),
        ("with_ligand", with_ligand, schema.with_ligand, None),
    )
    findings.later(resolution.findings(CACHE, len(found)))
    for key, size, least, most in sizes:
        if size < least or (most is not None and size > most):
            wanted = f"at least {least}" if most is None else f"{least} to {most}"
            kind = "split" if key == "groups" else "rows"
            findings.later([Finding(kind, CACHE, 0, "", key, str(size), wanted)])
    return {
        "structures": {"read": findings.rows, "usable": len(found), "with_ligand": with_ligand},
        "groups": {"of_like_sequences": groups},
        "labels": {"resolution": len(resolution.known)},
        "polymers": {kind: polymers[kind] for kind in schema.polymers},
        "preflight": _preflight(place),
    }


def _structure(
    schema: StructuresV1,
    folder: Path,
    name: str,
    entry: Any,
    bonded: dict[str, bool],
    findings: Findings,
) -> Structure | None:
    """One structure if it is as agreed; ``bonded`` keeps which ligands have their bonds."""
    try:
        row = StructureRow.model_validate(entry, context=schema)
    except ValidationError as error:
        findings.row(findings_of(error, file=CACHE, line=0, row=name))
        return None
    wrong: list[Finding] = []
    file = folder / "structure_files" / name / f"{name}.npz"
    tokens = _tokens(file)
    if tokens is None:
        wrong.append(Finding("file", file.name, 0, name, "", "", "arrays that can be read"))
    elif not schema.tokens.holds(tokens):
        what = f"{schema.tokens} tokens"
        wrong.append(Finding("tokens", file.name, 0, name, "token_id", str(tokens), what))
    codes = [c.reference_mol_id or "" for c in row.chains.values() if c.molecule_type == _LIGAND]
    for code in sorted(set(codes)):
        if code not in bonded:
            bonded[code] = _has_bonds(folder / "reference_mols" / f"{code}.sdf")
        if not bonded[code]:
            what = "a reference molecule with bonds"
            wrong.append(Finding("ligand", f"{code}.sdf", 0, name, "reference_mol_id", code, what))
    findings.row(wrong)
    if wrong or tokens is None:
        return None
    polymers = [c for c in row.chains.values() if c.molecule_type != _LIGAND]
    return Structure(
        name=name,
        released=row.release_date,
        num_tokens=tokens,
        polymers=tuple(sorted(chain.molecule_type.lower() for chain in polymers)),
        clusters=frozenset(str(chain.cluster_id) for chain in polymers),
        ligands=tuple(sorted(code for code in codes if code not in NO_LIGANDS)),
    )


def _tokens(file: Path) -> int | None:
    try:
        with np.load(file) as arrays:
            return len(np.unique(arrays["token_id"]))
    except (OSError, ValueError, KeyError, BadZipFile):
        return None


def _has_bonds(file: Path) -> bool:
    """Whether a reference molecule is there, with a bond unless it is a single atom."""
    if not file.is_file():
        return False
    with rdBase.BlockLogs():
        # Not sanitized: metal complexes break the rules of valence.
        molecule = Chem.MolFromMolFile(str(file), sanitize=False, removeHs=False)
    if molecule is None:
        return False
    return bool(molecule.GetNumAtoms() == 1 or molecule.GetNumBonds() > 0)


def _preflight(place: Path) -> dict[str, int]:
    """What `data prepare` counted, of the kinds that it knows; zeros where its report is gone."""
    known = {"outcomes": OUTCOMES, "refusals": REFUSALS, "repairs": REPAIRS, "notes": NOTES}
    try:
        counts = json.loads((place / _COUNTS).read_text())
        return {
            kind: int(counts[group].get(kind, 0))
            for group, kinds in known.items()
            for kind in kinds
        }
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return {kind: 0 for kinds in known.values() for kind in kinds}


def _schema(info: ValidationInfo) -> StructuresV1:
    assert isinstance(info.context, StructuresV1)
    return info.context
