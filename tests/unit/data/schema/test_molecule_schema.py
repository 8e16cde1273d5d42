"""Every defect of a table of molecules is found, with its place, and good tables pass."""

import functools
import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_flows.data.schema.limits import Schema
from openfl_flows.data.schema.molecules import read_molecule
from openfl_flows.data.smiles import encode_smiles
from openfl_flows.data.source import SAMPLE, MoleculeSource, write_site_table
from tests.schema_data import MOLECULES, found_in, molecule_rows, planned, write_table

SCHEMA = planned(*MOLECULES)
ROW = 12
"""The row that is spoilt, on this line of the file, which counts from 1."""

# Column, what is put there; kind, key and value that are found, and a word of what was expected.
DEFECTS = {
    "not a SMILES": (1, "C1CC(", "smiles", "smiles", "C1CC(", "a SMILES that RDKit reads"),
    "no SMILES": (1, " ", "smiles", "smiles", " ", "a SMILES"),
    "valence": (1, "C(C)(C)(C)(C)C", "smiles", "smiles", "C(C)(C)(C)(C)C", "RDKit"),
    "too large": (1, "C" * 10, "atoms", "smiles", "C" * 10, "1 to 9 heavy atoms, not 10"),
    "hydrogen alone": (1, "[H][H]", "atoms", "smiles", "[H][H]", "heavy atoms"),
    "foreign element": (1, "CCBr", "element", "smiles", "CCBr", "atoms of C,N,O,F, not Br"),
    "salt": (1, "CCN.O", "fragments", "smiles", "CCN.O", "one molecule"),
    "duplicate, written otherwise": (1, "N(C)CC", "duplicate", "smiles", "as at line 3", "once"),
    "text for a number": (2, "n/a", "number", "dipole_debye", "n/a", "a finite number"),
    "decimal comma": (3, "-6,5", "number", "homo_ev", "-6,5", "a finite number"),
    "infinite": (2, "inf", "number", "dipole_debye", "inf", "a finite number"),
    "negative dipole": (2, "-1.5", "range", "dipole_debye", "-1.5", "0 to 50 D"),
    "HOMO in Hartree": (3, "-0.25", "unit", "homo_ev", "-0.25", "if given in Hartree"),
    "HOMO in meV": (3, "-6802", "unit", "homo_ev", "-6802", "it is -6.8 if given in meV"),
    "HOMO in kcal/mol": (3, "-157", "unit", "homo_ev", "-157", "kcal/mol"),
    "dipole in mD": (2, "2500", "unit", "dipole_debye", "2500", "it is 2.5 if given in mD"),
    "HOMO above zero": (3, "6.8", "range", "homo_ev", "6.8", "-25 to -1 eV"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_spoilt_cell_is_found_with_file_line_key_value_and_what_was_expected(
    name, tmp_path
) -> None:
    column, cell, kind, key, value, expected = DEFECTS[name]
    rows = molecule_rows()
    rows[ROW - 1][column] = cell
    found, counts, fits = found_in(SCHEMA, write_table(tmp_path / "in", rows), tmp_path / "out")
    (line,) = found
    assert (line["kind"], line["file"], line["line"]) == (kind, "molecules.csv", str(ROW))
    assert (line["key"], line["value"]) == (key, value)
    assert expected in line["expected"]
    assert line["row"] == ("" if kind == "duplicate" else "m10")
    assert counts == {kind: 1}
    # One row of 40 is more than the plan tolerates of most kinds.
    assert fits == (SCHEMA.tolerated.get(kind, 0) >= 1 / 40)


def whole(kind: str, rows: list[list[str]], folder: Path) -> dict[str, str]:
    found, counts, fits = found_in(SCHEMA, write_table(folder / "in", rows), folder / "out")
    assert not fits
    assert counts[kind] == 1
    (line,) = (line for line in found if line["kind"] == kind)
    return line


def test_a_missing_column_is_found(tmp_path) -> None:
    rows = molecule_rows()
    rows[0][3] = "homo"
    line = whole("columns", rows, tmp_path)
    assert (line["line"], line["key"]) == ("1", "homo_ev")
    assert line["value"] == "mol_id, smiles, dipole_debye, homo"


def test_a_column_that_is_there_twice_is_found(tmp_path) -> None:
    rows = [[*row, row[1]] for row in molecule_rows()]
    assert whole("columns", rows, tmp_path)["key"] == "smiles"


def test_a_row_with_a_cell_too_many_is_found(tmp_path) -> None:
    rows = molecule_rows()
    rows[ROW - 1].append("x")
    line = whole("cells", rows, tmp_path)
    assert (line["line"], line["value"]) == (str(ROW), "5")


def test_too_few_rows_and_too_small_a_part_are_found(tmp_path) -> None:
    rows = molecule_rows(9)
    line = whole("rows", rows, tmp_path)
    assert (line["value"], line["expected"]) == ("9", "at least 10 molecules that can be used")
    folder = write_table(tmp_path / "few", rows)
    found, counts, _ = found_in(SCHEMA, folder, tmp_path / "out")
    assert counts == {"rows": 1, "split": 3}
    assert [line["key"] for line in found if line["kind"] == "split"] == ["train", "val", "test"]


def test_a_column_in_another_unit_of_like_size_is_found_by_its_median(tmp_path) -> None:
    rows = molecule_rows()
    for row in rows[1:]:
        row[2] = "3.3e-30"
    line = whole("median", rows, tmp_path)
    assert (line["key"], line["value"]) == ("dipole_debye", "3.3e-30")
    assert line["expected"] == "a median of 0.1 to 12 D"


def test_labels_may_be_missing_as_far_as_agreed(tmp_path) -> None:
    rows = molecule_rows()
    for row in rows[1:11]:
        row[3] = ""
    folder = write_table(tmp_path / "in", rows)
    assert found_in(SCHEMA, folder, tmp_path / "out")[1:] == ({}, True)
    strict = planned(*MOLECULES, "schema.homo_ev.missing=0.2")
    found, counts, fits = found_in(strict, folder, tmp_path / "out")
    assert (counts, fits) == ({"missing": 1}, False)
    assert (found[0]["key"], found[0]["value"]) == ("homo_ev", "25.00%")


@pytest.mark.parametrize(
    "content",
    [b"smiles\xff,x\n", gzip.compress(b"smiles\n" * 99)[:20], b""],
    ids=["not UTF-8", "cut off", "empty"],
)
def test_a_file_that_is_no_table_is_found(content, tmp_path) -> None:
    (tmp_path / "molecules.csv").write_bytes(content)
    found, _, fits = found_in(SCHEMA, tmp_path, tmp_path / "out")
    assert not fits
    assert found[0]["kind"] in ("unreadable", "columns")


def test_no_file_is_found(tmp_path) -> None:
    found, counts, fits = found_in(SCHEMA, tmp_path, tmp_path / "out")
    assert (found[0]["kind"], counts["absent"], fits) == ("absent", 1, False)
    assert "smiles, dipole_debye, homo_ev" in found[0]["expected"]


def test_the_shipped_molecules_fit(tmp_path) -> None:
    molecules, _ = MoleculeSource().read(("C", "N", "O", "F"), 9)
    write_site_table(tmp_path, molecules)
    assert found_in(SCHEMA, tmp_path, tmp_path / "out")[1:] == ({}, True)


def test_the_shipped_table_itself_is_in_hartree_and_says_so(tmp_path) -> None:
    text = SAMPLE.read_text().replace("mol_id,smiles,mu,homo", "mol_id,smiles,dipole_debye,homo_ev")
    (tmp_path / "molecules.csv").write_text(text)
    _, counts, fits = found_in(SCHEMA, tmp_path, tmp_path / "out")
    assert not fits
    assert counts["unit"] == len(text.splitlines()) - 1


def test_several_defects_of_a_row_are_all_found(tmp_path) -> None:
    rows = molecule_rows()
    rows[ROW - 1][1:] = ["C1CC(", "-1.5", "-0.25"]
    found, counts, _ = found_in(SCHEMA, write_table(tmp_path / "in", rows), tmp_path / "out")
    assert [line["kind"] for line in found] == ["smiles", "range", "unit"]
    assert counts == {"smiles": 1, "range": 1, "unit": 1}


SMILES = st.lists(st.sampled_from([*"CNOF()=#12.", "Br", "[N+]", "[O-]", "c1ccccc1"]), max_size=12)


@functools.cache
def of_elements(more: str) -> Schema:
    return planned(*MOLECULES, f"model.network.vocabulary=[C,{more}]")


@settings(max_examples=150, deadline=None)
@given(SMILES.map("".join), st.booleans())
def test_what_is_accepted_is_what_training_can_represent(smiles, charges) -> None:
    schema = of_elements("N,O,F,N+,O-" if charges else "N,O,F")
    try:
        encode_smiles(smiles, vocabulary=schema.elements, max_atoms=9)
        represented = True
    except ValueError:
        represented = False
    try:
        read_molecule(smiles, schema)
        accepted = True
    except ValueError:
        accepted = False
    assert accepted == represented
