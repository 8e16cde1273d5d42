"""What may leave a site: counts of agreed names, rounded, the same whatever the order of rows."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_flows.data.schema.card import Card, told
from openfl_flows.data.schema.kinds import FILE_KINDS, KINDS
from openfl_flows.data.schema.limits import Schema, schema_digest
from openfl_flows.data.schema.validate import examine, site_card
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

MOLECULE, PROTEIN, STRUCTURE = (planned(*words) for words in (MOLECULES, PROTEINS, STRUCTURES))


def strings(value: Any) -> set[str]:
    """All keys and texts of a document."""
    if isinstance(value, dict):
        return set(value) | {text for each in value.values() for text in strings(each)}
    if isinstance(value, list):
        return {text for each in value for text in strings(each)}
    return {value} if isinstance(value, str) else set()


def numbers(value: Any) -> list[int]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers(each)]
    return [value] if isinstance(value, int) else []


def mixed_rows(seed: int) -> list[list[str]]:
    """Good rows, repeated ones and bad ones, in an order of their own."""
    header, *rows = molecule_rows()
    rows = [*rows, *rows[:15], ["x", "C1CC(", "", ""], ["y", "CBr", "1", "-7"], ["z", "CC", "", ""]]
    order = np.random.default_rng(seed).permutation(len(rows))
    return [header, *(rows[i] for i in order)]


@pytest.fixture(scope="module")
def tolerant() -> Schema:
    kinds = ("smiles", "element", "duplicate")
    return planned(*MOLECULES, *(f"schema.tolerated.{kind}=0.5" for kind in kinds))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_order_of_rows_changes_no_byte_of_a_card(tmp_path_factory, tolerant, seed) -> None:
    folder = tmp_path_factory.mktemp("site")
    first = site_card(tolerant, write_table(folder / "a", mixed_rows(0)))
    again = site_card(tolerant, write_table(folder / "b", mixed_rows(seed)))
    assert first.document() == again.document()
    assert first.counts["rows"] == {"read": 50, "usable": 50, "different": 40}


def test_the_order_of_proteins_changes_no_byte_of_a_card(tmp_path) -> None:
    records = [*protein_records(), *protein_records(1)]
    records[-1][0] = records[-1][0].replace(">p0", ">q")
    first, again = (
        site_card(PROTEIN, write_proteins(tmp_path / name, ordered))
        for name, ordered in (("a", records), ("b", records[::-1]))
    )
    assert first.digest == again.digest
    assert first.counts["classes"]["Nucleus"] == 10


def test_a_card_is_the_same_in_another_process(tmp_path) -> None:
    folder = write_table(tmp_path, molecule_rows())
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.schema_data import MOLECULES, planned\n"
        "from openfl_flows.data.schema.validate import site_card\n"
        "print(site_card(planned(*MOLECULES), Path(sys.argv[1])).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(folder)],
        cwd=Path(__file__).parents[4],
        env={"PYTHONHASHSEED": "17", "PATH": "", "TZ": "Asia/Tokyo"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == site_card(MOLECULE, folder).digest


def test_the_digest_is_that_of_the_document(tmp_path) -> None:
    out = tmp_path / "out"
    card = site_card(MOLECULE, write_table(tmp_path / "in", molecule_rows()), out)
    document = json.loads((out / "card.json").read_text())
    assert document == card.document()
    assert document.pop("digest") == card.digest
    # 40 rows, all of them good.
    other = Card.of(MOLECULE, {**card.counts, "rows": {"read": 50}}, ())
    assert other.digest != card.digest
    assert Card.of(MOLECULE, card.counts, ["unit"]).digest != card.digest


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**7), st.integers(2, 1000))
def test_no_count_below_the_floor_is_told(number, floor) -> None:
    schema = replace(MOLECULE, floor=floor)
    (found,) = numbers(Card.of(schema, {"rows": {"read": number}}, ()).counts["rows"])
    assert found % floor == 0
    assert 0 <= number - found < floor
    assert (told(number, floor) == f"fewer than {floor}") == (number < floor)


@pytest.mark.parametrize("schema", [MOLECULE, PROTEIN, STRUCTURE], ids=lambda s: s.name)
def test_a_card_names_the_same_things_whatever_is_found(schema, tmp_path) -> None:
    """That a kind is there at all would tell of a single row."""
    nothing = examine(schema, tmp_path / "nowhere")[0]
    names = {(group, name) for group, counts in nothing.counts.items() for name in counts}
    assert {name for group, name in names if group == "findings"} == set(schema.kinds)
    folder = tmp_path / "in"
    write_table(folder, mixed_rows(1))
    write_proteins(folder, protein_records()[:20] + [[">x", "AC1"]])
    some = examine(schema, folder)[0]
    assert {(group, name) for group, counts in some.counts.items() for name in counts} == names


def test_a_card_holds_nothing_but_agreed_names_and_round_numbers(tmp_path) -> None:
    card = examine(MOLECULE, write_table(tmp_path, mixed_rows(3)))[0]
    document = card.document()
    agreed = {*KINDS, *MOLECULE.elements, "dipole_debye", "homo_ev", MOLECULE.name}
    own = {"format", "schema", "name", "digest", "floor", "fits", "broken", "counts", "findings"}
    digests = {card.digest, schema_digest(MOLECULE)}
    groups = {"rows", "read", "usable", "different", "labels", "elements"}
    assert strings(document) <= agreed | own | digests | groups
    assert all(number % 10 == 0 for number in numbers(document["counts"]))
    assert document["broken"] == ["duplicate", "smiles"]


def test_the_digest_of_a_schema_is_that_of_all_its_limits() -> None:
    base = schema_digest(MOLECULE)
    assert schema_digest(planned(*MOLECULES)) == base
    assert re.fullmatch("[0-9a-f]{64}", base)
    seen = {base, schema_digest(PROTEIN), schema_digest(STRUCTURE)}
    for words in (
        "schema.rows.least=11",
        "schema.homo_ev.unit=Hartree",
        "schema.homo_ev.most=-2",
        "schema.homo_ev.median=null",
        "schema.floor=20",
        "schema.tolerated.range=0.1",
        "model.network.vocabulary=[C,N]",
        "model.network.max_atoms=8",
        "partition.split=[0.7,0.2,0.1]",
    ):
        seen.add(schema_digest(planned(*MOLECULES, words)))
    assert len(seen) == 12
    assert not set(FILE_KINDS) & set(MOLECULE.kinds)
