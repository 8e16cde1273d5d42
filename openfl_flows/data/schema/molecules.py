"""A site's table of molecules, row by row, held against a schema."""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from rdkit import Chem, rdBase

from openfl_flows.data.schema.findings import Finding, Findings, findings_of, refusal
from openfl_flows.data.schema.limits import MoleculesV1
from openfl_flows.data.schema.quantities import Labels, read_quantity
from openfl_flows.data.schema.repeats import Repeats
from openfl_flows.data.source import SITE_COLUMNS, SITE_TABLE
from openfl_flows.data.text_files import open_text
from openfl_flows.data.vocabulary import AtomClass, class_index, class_name, has_charges

PARTS = ("train", "val", "test")
"""In the order of their shares."""

_LABELS = SITE_COLUMNS[1:]
_NAMES = ("mol_id", "id", "name")
"""Columns that may name a row, for the site's own list."""


@dataclass(frozen=True, slots=True)
class Molecule:
    """What is counted of a SMILES.

    Attributes:
        canonical: The same for the same molecule, however it is written.
        classes: Names of its classes of atoms.
    """

    canonical: str
    classes: frozenset[str]


class MoleculeRow(BaseModel):
    """One row; the context of validation is the schema.

    Attributes:
        smiles: One molecule of the agreed classes of atoms.
        dipole_debye: Dipole moment in D, None where it is missing.
        homo_ev: Orbital energy in eV, None where it is missing.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    smiles: Molecule
    dipole_debye: float | None
    homo_ev: float | None

    @field_validator("smiles", mode="before")
    @classmethod
    def _molecule(cls, text: str, info: ValidationInfo) -> Molecule:
        return read_molecule(text.strip(), _schema(info))

    @field_validator("dipole_debye", "homo_ev", mode="before")
    @classmethod
    def _label(cls, cell: str, info: ValidationInfo) -> float | None:
        assert info.field_name is not None
        return read_quantity(cell, getattr(_schema(info), info.field_name))


def read_molecule(smiles: str, schema: MoleculesV1) -> Molecule:
    """A SMILES as training reads it: without hydrogens, charges dropped where no class has one.

    Raises:
        PydanticCustomError: It is none, or not of the agreed atoms.
    """
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
    if molecule is None:
        raise refusal("smiles", "a SMILES that RDKit reads")
    charges = has_charges(schema.elements)
    found = {
        AtomClass(atom.GetSymbol(), atom.GetFormalCharge() if charges else 0)
        for atom in molecule.GetAtoms()
    }
    heavy = molecule.GetNumAtoms()
    if not schema.atoms.holds(heavy) or all(one.element == "H" for one in found):
        raise refusal("atoms", f"{schema.atoms} heavy atoms, not {heavy}")
    foreign = sorted(class_name(*one) for one in found - class_index(schema.elements).keys())
    if foreign:
        allowed = ",".join(schema.elements)
        raise refusal("element", f"atoms of {allowed}, not {','.join(foreign)}")
    if len(Chem.GetMolFrags(molecule)) > 1:
        raise refusal("fragments", "one molecule")
    return Molecule(Chem.MolToSmiles(molecule), frozenset(class_name(*one) for one in found))


def read_molecules(
    schema: MoleculesV1, place: Path, findings: Findings
) -> dict[str, dict[str, int]]:
    """Look at every row of a table.

    Args:
        schema: What it must look like.
        place: The table, or the folder with :data:`~openfl_flows.data.source.SITE_TABLE` in it.
        findings: Gets whatever is not as agreed.

    Returns:
        Exact counts by group and name, all of which the schema names.

    Raises:
        OSError: The file cannot be read.
    """
    path = place / SITE_TABLE if place.is_dir() else place
    labels = {key: Labels(key, getattr(schema, key)) for key in _LABELS}
    repeats = Repeats()
    elements: Counter[str] = Counter()
    usable = 0
    if not path.is_file():
        expected = f"a table with the columns {', '.join(SITE_COLUMNS)}"
        findings.later([Finding("absent", SITE_TABLE, 0, "", "", "no such file", expected)])
    else:
        for line, cells in _rows(path, findings):
            name = next((cells[key] for key in _NAMES if key in cells), "")
            try:
                row = MoleculeRow.model_validate(cells, context=schema)
            except ValidationError as error:
                findings.row(findings_of(error, file=path.name, line=line, row=name))
                continue
            findings.row(())
            usable += 1
            repeats.add(row.smiles.canonical, line)
            elements.update(row.smiles.classes)
            for key in _LABELS:
                value = getattr(row, key)
                if value is not None:
                    labels[key].known.append(value)
    again = repeats.found()
    findings.later(
        Finding("duplicate", path.name, int(line), "", "smiles", f"as at line {first}", "it once")
        for line, first in again
    )
    findings.later(_of_the_whole(schema, path.name, usable, labels))
    return {
        "rows": {"read": findings.rows, "usable": usable, "different": usable - len(again)},
        "labels": {key: len(values.known) for key, values in labels.items()},
        "elements": {name: elements[name] for name in schema.elements},
    }


def _rows(path: Path, findings: Findings) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and cells of each whole row; what cannot be read is a finding."""
    try:
        with open_text(path, expected="a table") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            absent = [name for name in SITE_COLUMNS if header.count(name) != 1]
            if absent:
                value, expected = ", ".join(header), f"the column {absent[0]} once"
                columns = Finding("columns", path.name, 1, "", absent[0], value, expected)
                findings.later([columns])
                return
            for cells in reader:
                if len(cells) == len(header):
                    yield reader.line_num, dict(zip(header, cells, strict=True))
                elif cells:
                    value, expected = str(len(cells)), f"{len(header)} cells as in the header"
                    wrong = Finding("cells", path.name, reader.line_num, "", "", value, expected)
                    findings.row([wrong])
    except (ValueError, csv.Error) as error:
        what = Finding("unreadable", path.name, 0, "", "", str(error), "a table of UTF-8 text")
        findings.later([what])


def _of_the_whole(
    schema: MoleculesV1, file: str, usable: int, labels: dict[str, Labels]
) -> list[Finding]:
    found = [each for values in labels.values() for each in values.findings(file, usable)]
    if not schema.rows.holds(usable):
        what = f"{schema.rows} molecules that can be used"
        found.append(Finding("rows", file, 0, "", "rows", str(usable), what))
    sizes = (int(usable * share) for share in schema.shares)
    return found + schema.parts.findings(file, dict(zip(PARTS, sizes, strict=True)))


def _schema(info: ValidationInfo) -> MoleculesV1:
    assert isinstance(info.context, MoleculesV1)
    return info.context
