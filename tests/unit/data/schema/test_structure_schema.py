"""Every defect of a prepared set is found, with the structure that has it, and good sets pass."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openfl_flows.data.structures.select import SAMPLE
from tests.schema_data import STRUCTURES, found_in, planned

SCHEMA = planned(*STRUCTURES)
NAME = "1a8q"


@pytest.fixture
def prepared(tmp_path) -> Path:
    """The shipped set, its files linked, its own cache to spoil."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("set.json", "cache.json"):
        (folder / name).write_bytes((SAMPLE / name).read_bytes())
    for name in ("structure_files", "reference_mols", "alignment_arrays"):
        (folder / name).mkdir()
        for file in (SAMPLE / name).iterdir():
            (folder / name / file.name).symlink_to(file)
    return folder


def spoil(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    cache = json.loads((folder / "cache.json").read_text())
    change(cache["structure_data"][NAME])
    (folder / "cache.json").write_text(json.dumps(cache, indent=1))


def many_chains(entry: dict[str, Any]) -> None:
    entry["chains"] |= {str(i): entry["chains"]["1"] for i in range(2, 400)}


# Change; kind, key and value that are found, and a word of what was expected.
DEFECTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str, str, str]] = {
    "no date": (lambda e: e.pop("release_date"), "entry", "release_date", "", "required"),
    "a date that is none": (
        lambda e: e.update(release_date="yesterday"), "date", "release_date", "yesterday", "YYYY"),
    "a date to come": (
        lambda e: e.update(release_date="2345-01-01"), "date", "release_date", "2345", "1971-01"),
    "resolution in nm": (
        lambda e: e.update(resolution=0.175), "unit", "resolution", "0.175", "1.75 if given in nm"),
    "resolution in pm": (
        lambda e: e.update(resolution=175), "unit", "resolution", "175", "1.75 if given in pm"),
    "resolution that is none": (
        lambda e: e.update(resolution="good"), "number", "resolution", "good", "finite number"),
    "negative resolution": (
        lambda e: e.update(resolution=-1), "range", "resolution", "-1", "0.4 to 9 A"),
    "no chains": (lambda e: e.update(chains={}), "chains", "chains", "{}", "1 to 300 chains, not"),
    "many chains": (many_chains, "chains", "chains", "", "not 399"),
    "a foreign polymer": (
        lambda e: e["chains"]["1"].update(molecule_type="PNA"), "polymer", "chains", "", "not pna"),
    "a chain without a kind": (
        lambda e: e["chains"]["1"].pop("molecule_type"), "entry", "chains.1.molecule_type", "", ""),
    "a ligand without a molecule": (
        lambda e: e["chains"]["1"].update(molecule_type="LIGAND", reference_mol_id="XYZ"),
        "ligand", "reference_mol_id", "XYZ", "a reference molecule with bonds"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_a_spoilt_entry_is_found_with_the_structure_key_value_and_what_was_expected(
    name, prepared, tmp_path
) -> None:
    change, kind, key, value, expected = DEFECTS[name]
    spoil(prepared, change)
    found, counts, fits = found_in(SCHEMA, prepared, tmp_path / "out")
    (line,) = found
    assert (line["kind"], line["row"], line["key"]) == (kind, NAME, key)
    assert line["file"] in ("cache.json", "XYZ.sdf")
    assert value in line["value"]
    assert expected in line["expected"]
    assert (counts, fits) == ({kind: 1}, False)


def test_a_structure_without_its_file_is_found(prepared, tmp_path) -> None:
    (prepared / "structure_files" / NAME).unlink()
    (line,) = found_in(SCHEMA, prepared, tmp_path / "out")[0]
    assert (line["kind"], line["row"], line["file"]) == ("file", NAME, f"{NAME}.npz")


def test_a_ligand_whose_molecule_has_no_bonds_is_found(prepared, tmp_path) -> None:
    file = prepared / "reference_mols" / "MBN.sdf"
    text = file.read_text().splitlines(keepends=True)
    atoms = int(text[3][:3])
    bare = [*text[:3], f"{atoms:3d}  0" + text[3][6:], *text[4 : 4 + atoms], "M  END\n", "$$$$\n"]
    file.unlink()
    file.write_text("".join(bare))
    found, counts, fits = found_in(SCHEMA, prepared, tmp_path / "out")
    assert counts.keys() == {"ligand"}
    assert not fits
    assert {line["value"] for line in found} == {"MBN"}


def test_sizes_of_the_set_are_held_against_the_plan(tmp_path) -> None:
    words = ("schema.groups=99", "schema.with_ligand=98", "schema.structures.least=97")
    found, counts, fits = found_in(planned(*STRUCTURES, *words), SAMPLE, tmp_path / "out")
    assert (counts, fits) == ({"rows": 2, "split": 1}, False)
    assert {line["key"] for line in found} == {"structures", "groups", "with_ligand"}
    large = planned(*STRUCTURES, "schema.tokens.most=100")
    found, counts, _ = found_in(large, SAMPLE, tmp_path / "out")
    assert counts["tokens"] > 5
    assert all(int(line["value"]) > 100 for line in found if line["kind"] == "tokens")


@pytest.mark.parametrize("what", ["nothing", "empty"])
def test_no_set_is_found(what, tmp_path) -> None:
    folder = tmp_path / "set"
    if what == "empty":
        folder.mkdir()
    found, counts, fits = found_in(SCHEMA, folder, tmp_path / "out")
    assert found[0]["kind"] == ("absent" if what == "nothing" else "unreadable")
    assert not fits


def test_the_shipped_structures_fit_and_so_does_what_was_counted_when_they_were_prepared(
    prepared, tmp_path
) -> None:
    assert found_in(SCHEMA, SAMPLE, tmp_path / "out")[1:] == ({}, True)
    (prepared / "preflight").mkdir()
    counted = {"outcomes": {"accepted": 31, "refused": 12}, "refusals": {"no_date": 12}}
    text = json.dumps({**counted, "repairs": {}, "notes": {"secret-kind": 50}})
    (prepared / "preflight" / "counts.json").write_text(text)
    assert found_in(SCHEMA, prepared, tmp_path / "out")[1:] == ({}, True)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    told = {kind: number for kind, number in card["counts"]["preflight"].items() if number}
    assert told == {"accepted": 30, "refused": 10, "no_date": 10}
