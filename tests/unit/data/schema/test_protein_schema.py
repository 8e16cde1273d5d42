"""Every defect of a FASTA file is found, with its place, and good files pass."""

import shutil
from pathlib import Path

import pytest

from openfl_flows.data.proteins.source import SAMPLE
from tests.schema_data import PROTEINS, found_in, planned, protein_records, sequence, write_proteins

SCHEMA = planned(*PROTEINS)
RECORD = 10
"""The record that is spoilt: its header is on line 21."""

HEADER = ">p10 TARGET=Nucleus SET=train KINGDOM=Fungi"
GOOD = sequence(RECORD)

# Header, sequence; kind, key and value that are found, and a word of what was expected.
DEFECTS = {
    "no name": (">TARGET=Nucleus SET=train", GOOD, "name", "name", "TARGET=Nucleus", "NAME"),
    "key in small letters": (
        ">p10 target=Nucleus SET=train", GOOD, "key", "keys", "target", "TARGET in capitals"),
    "one key, two values": (
        f"{HEADER} SET=val", GOOD, "key", "keys", "SET", "one SET"),
    "no SET": (">p10 TARGET=Nucleus", GOOD, "part", "SET", "None", "SET=train, val, pred"),
    "a SET that is none": (">p10 TARGET=Nucleus SET=+", GOOD, "part", "SET", "+", "SET=train"),
    "no TARGET": (">p10 SET=train", GOOD, "target", "TARGET", "None", "TARGET=VALUE"),
    "another class": (
        ">p10 TARGET=Vacuole SET=train", GOOD, "class", "TARGET", "Vacuole", "one of Cell_mem"),
    "SET misspelt": (
        ">p10 TARGET=Nucleus SET=training", GOOD, "header", "", "training", "SET=train"),
    "a mask": (f"{HEADER} MASK=1", GOOD, "mask", "MASK", "1", "none with kind=sequence_to_class"),
    "a digit": (HEADER, "ACDEFG1HIKLM", "letter", "sequence", "ACDEFG1HIKLM", "'1' at residue 7"),
    "a gap": (HEADER, "ACDEFG-HIKLM", "letter", "sequence", "ACDEFG-HIKLM", "'-' at residue 7"),
    "too short": (HEADER, "ACDEF", "length", "sequence", "ACDEF", "10 to 40000 residues, not 5"),
    "no sequence": (HEADER, "", "length", "sequence", "", "not 0"),
    "a name twice": (
        ">p3 TARGET=Nucleus SET=train", GOOD, "duplicate_name", "name", "as at line 7", "once"),
    "a sequence twice": (
        HEADER, sequence(4), "duplicate_sequence", "sequence", "as at line 9", "once"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_spoilt_record_is_found_with_file_line_key_value_and_what_was_expected(
    name, tmp_path
) -> None:
    header, residues, kind, key, value, expected = DEFECTS[name]
    records = protein_records()
    records[RECORD] = [header, residues]
    folder = write_proteins(tmp_path / "in", records)
    found, counts, fits = found_in(SCHEMA, folder, tmp_path / "out")
    # A header without its name, or with a key misspelt, also lacks what that should have been.
    line = found[0]
    assert (line["kind"], line["file"], line["line"]) == (kind, "proteins.fasta", "21")
    assert line["key"] == key
    assert value in line["value"]
    assert expected in line["expected"]
    assert counts[kind] == 1
    assert counts.keys() <= {kind, "target"}
    assert fits == (SCHEMA.tolerated.get(kind, 0) >= 1 / 40)


def test_keys_that_the_plan_asks_for_are_missed(tmp_path) -> None:
    records = protein_records()
    records[RECORD][0] = HEADER.replace("KINGDOM", "KINGDOMS")
    folder = write_proteins(tmp_path / "in", records)
    strict = planned(*PROTEINS, "schema.keys=[KINGDOM]")
    assert found_in(SCHEMA, folder, tmp_path / "out")[1:] == ({}, True)
    found, counts, fits = found_in(strict, folder, tmp_path / "out")
    assert (counts, fits) == ({"key": 1}, False)
    assert found[0]["expected"] == "the key KINGDOM"


def test_what_is_no_fasta_is_found(tmp_path) -> None:
    (tmp_path / "proteins.fasta").write_text("name,sequence\np1,ACDE\n")
    found, counts, fits = found_in(SCHEMA, tmp_path, tmp_path / "out")
    assert (found[0]["kind"], found[0]["line"], fits) == ("unreadable", "1", False)
    assert counts == {"unreadable": 1, "rows": 1, "split": 1}


def test_parts_that_are_too_small_are_found(tmp_path) -> None:
    folder = write_proteins(tmp_path / "in", protein_records())
    strict = planned(*PROTEINS, "schema.parts.val=9")
    found, _, fits = found_in(strict, folder, tmp_path / "out")
    assert not fits
    (line,) = found
    assert (line["kind"], line["key"], line["value"]) == ("split", "val", "8")


VALUES = ("data.kind=sequence_to_value", "data.classes=[]")
MELTING = "schema.value={unit: C, least: 20.0, most: 100.0, median: [30.0, 80.0]}"


@pytest.mark.parametrize(
    ("target", "kind"), [("hot", "number"), ("nan", "number"), ("331.5", "range"), ("-3", "range")]
)
def test_values_have_a_range(target, kind, tmp_path) -> None:
    schema = planned(*PROTEINS, *VALUES, MELTING)
    records = [[f">v{i} TARGET=5{i % 9}.5 SET=train", sequence(i)] for i in range(40)]
    assert found_in(schema, write_proteins(tmp_path / "a", records), tmp_path / "out")[1:] == (
        {},
        True,
    )
    records[RECORD][0] = f">v10 TARGET={target} SET=train"
    found, counts, fits = found_in(
        schema, write_proteins(tmp_path / "b", records), tmp_path / "out"
    )
    assert (counts, fits) == ({kind: 1}, False)
    assert (found[0]["line"], found[0]["key"], found[0]["value"]) == ("21", "TARGET", target)


RESIDUES = ("data.kind=residue_to_class", "data.classes=[H,E,C]")


@pytest.mark.parametrize(
    ("header", "kind", "key"),
    [
        ("TARGET=HHHH SET=train", "target", "TARGET"),
        ("TARGET=HHHHHHHHHHEEEEEEEEEEX SET=train", "class", "TARGET"),
        ("TARGET=HHHHHHHHHHEEEEEEEEEEX SET=train MASK=111111111111111111112", "mask", "MASK"),
        ("TARGET=HHHHHHHHHHEEEEEEEEEEX SET=train MASK=11", "mask", "MASK"),
        ("TARGET=HHHHHHHHHHEEEEEEEEEEX SET=train MASK=111111111111111111110", None, None),
    ],
)
def test_classes_of_residues(header, kind, key, tmp_path) -> None:
    schema = planned(*PROTEINS, *RESIDUES)
    records = [[f">r{i} TARGET={'HEC' * 7} SET=train", sequence(i)] for i in range(40)]
    records[RECORD][0] = f">r10 {header}"
    folder = write_proteins(tmp_path / "in", records)
    found, counts, fits = found_in(schema, folder, tmp_path / "out")
    assert fits == (kind is None)
    if kind is not None:
        assert counts.keys() >= {kind}
        assert (found[0]["line"], found[0]["key"]) == ("21", key)


def test_the_shipped_proteins_fit(tmp_path) -> None:
    shutil.copyfile(SAMPLE, tmp_path / "proteins.fasta")
    assert found_in(SCHEMA, tmp_path, tmp_path / "out")[1:] == ({}, True)
    assert found_in(SCHEMA, Path(SAMPLE), tmp_path / "out")[1:] == ({}, True)
