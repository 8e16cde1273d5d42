"""openfl-flows data validate: one line where data do not fit, and nothing of them anywhere else."""

import csv
import json
import stat
from pathlib import Path

import pytest

from openfl_flows.cli import main
from openfl_flows.data.schema.validate import site_card
from openfl_flows.data.structures.select import SAMPLE
from tests.refusals import refused
from tests.schema_data import (
    MOLECULES,
    PROTEINS,
    STRUCTURES,
    molecule_rows,
    planned,
    protein_records,
    write_proteins,
    write_table,
)

SITE = ("--site", "site-1")


def validate(*words: object) -> int:
    return main(["data", "validate", *map(str, words), *SITE])


def test_good_data_leave_a_card_and_an_empty_list(tmp_path, capsys) -> None:
    out = tmp_path / "out"
    folder = write_table(tmp_path / "in", molecule_rows())
    assert validate(*MOLECULES, folder, "--out", out) == 0
    printed = capsys.readouterr().out
    card = json.loads((out / "card.json").read_text())
    assert f"card {card['digest']}" in printed
    assert "rows  read 40 usable 40 different 40" in printed
    assert (out / "validation.csv").read_text() == "kind,file,line,row,key,value,expected\n"


def test_data_that_do_not_fit_are_refused_in_one_line(tmp_path, capsys) -> None:
    rows = molecule_rows()
    for row in rows[1:]:
        row[3] = "-0.25"
    out = tmp_path / "out"
    line = refused(
        capsys, "data", "validate", *MOLECULES, str(write_table(tmp_path / "in", rows)), *SITE,
        "--out", str(out),
    )  # fmt: skip
    assert line == (
        "openfl-flows: error: the data do not fit the plan's schema molecules_v1: rows, split, "
        f"unit (40 or more); each is a line of {out / 'validation.csv'}"
    )
    assert not json.loads((out / "card.json").read_text())["fits"]
    with (out / "validation.csv").open(newline="") as stream:
        assert sum(row["kind"] == "unit" for row in csv.DictReader(stream)) == 40
    assert stat.S_IMODE((out / "validation.csv").stat().st_mode) == 0o600


def canaries(kind: str, folder: Path) -> list[str]:
    """Data of which every cell, name and path is a word that occurs nowhere else; those words."""
    words = [f"Canary{kind}{i:03d}" for i in range(60)]
    place = folder / words[0]
    if kind == "molecules":
        head, *rows = molecule_rows(20)
        rows = [[words[i + 1], *row[1:], words[i + 30]] for i, row in enumerate(rows)]
        bad = [
            [words[21], words[22], "1.5", "-7", ""],
            ["", "CC", words[23], "-7", ""],
            ["", "CCO", "1", words[24], ""],
            [words[25]],
        ]
        write_table(place, [[*head, words[26]], *rows, *bad])
    elif kind == "proteins":
        good = protein_records(20)
        for i, record in enumerate(good):
            record[0] = record[0].replace(f">p{i} ", f">{words[i + 1]} ")
        bad = [
            [f">x TARGET={words[21]} SET=train", "ACDEFGHIKLMN"],
            [f">y TARGET=Nucleus SET={words[22]}", "ACDEFGHIKLMNP"],
            [f">{words[23]}=Z SET=train", "ACDEFGHIKLMNPQ"],
            [f">z target={words[24]}", "ACDEFGHIKLMNPQRW1"],
            [f">w SET={words[25]}+", "MACDEFGHIKLMNPQRW1"],
        ]
        write_proteins(place, [*good, *bad])
    else:
        place.mkdir(parents=True)
        (place / "set.json").write_bytes((SAMPLE / "set.json").read_bytes())
        cache = json.loads((SAMPLE / "cache.json").read_text())
        entries = cache["structure_data"]
        for i, name in enumerate(sorted(entries)):
            entries[words[i + 1]] = entries.pop(name) | {"release_date": words[i + 30]}
        (place / "cache.json").write_text(json.dumps(cache))
    return [words[0], *words[1:]]


PLANS = {"molecules": MOLECULES, "proteins": PROTEINS, "structures": STRUCTURES}


@pytest.mark.parametrize("kind", PLANS)
def test_no_word_of_the_data_is_in_the_card_on_the_screen_or_in_the_error(
    kind, tmp_path, capsys
) -> None:
    words = canaries(kind, tmp_path / "in")
    folder, out = tmp_path / "in" / words[0], tmp_path / "out"
    assert validate(*PLANS[kind], folder, "--out", out) == 1
    shown = capsys.readouterr()
    outside = shown.out + shown.err + (out / "card.json").read_text()
    # The file that stays has some of them, or the words would prove nothing.
    assert any(word in (out / "validation.csv").read_text() for word in words)
    assert not [word for word in words if word.lower() in outside.lower()]
    with pytest.raises(ValueError, match="do not fit") as error:
        site_card(planned(*PLANS[kind]), folder)
    assert "Canary" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("experiment=demo", "schema=none", "DIR"), "schema=none: the plan agrees on nothing"),
        ((*MOLECULES,), "data validate got 0 folders, expected KEY=VALUE ... FOLDER|FILE"),
        ((*MOLECULES, "DIR", "ELSE"), "data validate got 2 folders"),
        ((*MOLECULES, "schema.floor=1", "DIR"), "schema.floor=1, expected at least 2"),
        ((*MOLECULES, "schema.rows.least=-1", "DIR"), "schema.rows: least=-1, most=None"),
        ((*MOLECULES, "schema.tolerated.range=2", "DIR"), "schema.tolerated.range=2.0, expected"),
        (
            (*MOLECULES, "+schema.tolerated.typo=0.1", "DIR"),
            "schema.tolerated has 'typo'",
        ),
        ((*MOLECULES, "schema.homo_ev.least=9", "DIR"), "least=9.0, most=-1.0: expected least"),
        ((*MOLECULES, "+schema.typo=1", "DIR"), "schema.typo=1: "),
        ((*PROTEINS, "schema.keys=[kingdom]", "DIR"), "schema.keys has 'kingdom', expected"),
        (
            (*PROTEINS, "schema.value={unit: C, least: 1.0, most: 2.0}", "DIR"),
            "schema.value with schema.kind=sequence_to_class: expected null",
        ),
        ((*MOLECULES, "schema.name=molecules_v7", "DIR"), "schema.name='molecules_v7', expected"),
        ((*MOLECULES, "DIR", "--workspace", "w"), "experiment=demo with --workspace, expected"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(words, message, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    line = refused(capsys, "data", "validate", *words, *SITE, "--out", str(out))
    assert message in line
    assert not out.exists()


def test_a_site_of_another_plan_is_refused(tmp_path, capsys) -> None:
    words = (*MOLECULES, str(tmp_path), "--site", "site-9", "--out", str(tmp_path / "out"))
    assert "site 'site-9' is unknown" in refused(capsys, "data", "validate", *words)
