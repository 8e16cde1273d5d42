"""What a party does with the key: read it, tell parts, prove conformance, measure."""

import csv
import logging
import random
from dataclasses import replace
from pathlib import Path

import pytest

from openfl_flows.cli import main
from openfl_flows.data.blind.config import SplitConfig
from openfl_flows.data.blind.conformance import check_conformance, conformance_digest
from openfl_flows.data.blind.key_file import read_key, write_key
from openfl_flows.data.blind.leakage import measure, near_proteins
from openfl_flows.data.blind.proteins import ProteinGroups, lowest_word, read_clusters
from openfl_flows.data.blind.split import BlindSplit, indices_by_part, open_split
from openfl_flows.data.blind.structures import structure_groups, structure_parts
from openfl_flows.data.proteins.source import SAMPLE as PROTEINS
from openfl_flows.data.source import SAMPLE as MOLECULES
from openfl_flows.data.structures.select import SAMPLE as STRUCTURES
from openfl_flows.data.structures.select import read_structures
from openfl_flows.data.structures.set import StructureSet

SECRET = bytes(range(32))
CONFIG = SplitConfig(name="blind", key_file="blind.key")
SPLIT = BlindSplit.of(CONFIG, SECRET)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "blind.key"
    write_key(path)
    return path


def test_a_key_is_for_its_owner_alone_and_never_replaced(key) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(read_key(key)) == 32
    assert read_key(key) != write_key(key.with_name("other.key"))
    with pytest.raises(ValueError, match="never replaced"):
        write_key(key)


def test_a_key_that_others_may_read_is_refused(key) -> None:
    key.chmod(0o640)
    with pytest.raises(ValueError, match="has the rights 0640, expected 0600"):
        read_key(key)


@pytest.mark.parametrize("content", [b"", b"00", b"\xff" * 64, b"G" * 64])
def test_what_is_no_key_is_refused_and_not_shown(key, content) -> None:
    key.write_bytes(content)
    with pytest.raises(ValueError, match="not a key, expected 64 hex") as error:
        read_key(key)
    assert "GGG" not in str(error.value)


def test_the_key_is_not_shown() -> None:
    assert SECRET.hex() not in repr(SPLIT)
    assert repr(SECRET) not in repr(SPLIT)
    assert SPLIT.commitment not in SECRET.hex()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fractions": (0.5, 0.5, 0.5)}, "split.fractions"),
        ({"rings": 0}, "split.rings=0"),
        ({"key_file": None}, "split.key_file=None with split.name=blind"),
        ({"name": "random"}, "split.key_file=blind.key with split.name=random"),
        ({"clusters_sha256": "00"}, "split.clusters=null"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        replace(CONFIG, **options)


def test_random_needs_no_key() -> None:
    assert open_split(SplitConfig()) is None


def test_the_order_of_rows_moves_nothing() -> None:
    with MOLECULES.open() as file:
        smiles = [row["smiles"] for row in csv.DictReader(file)][:500]
    parts = dict(zip(smiles, SPLIT.molecule_parts(smiles), strict=True))
    random.Random(0).shuffle(smiles)
    assert SPLIT.molecule_parts(smiles) == [parts[each] for each in smiles]
    assert set(parts.values()) == {"train", "val", "test"}


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(ValueError, match="none of them in val .2 train, 0 val, 1 test."):
        indices_by_part(["train", "test", "train"])


def test_a_structure_between_parts_is_in_none() -> None:
    groups = {f"c{i}": SPLIT.part("protein", f"c{i}") for i in range(100)}
    first = {part: name for name, part in groups.items()}
    assert SPLIT.common_part([("protein", first["train"]), ("protein", first["test"])]) == ""
    assert SPLIT.common_part([("protein", first["test"])]) == "test"


def test_no_protein_and_no_ligand_of_a_structure_is_in_another_part() -> None:
    prepared = StructureSet.open(STRUCTURES)
    structures = read_structures(prepared)
    groups = structure_groups(prepared, structures, "all", SPLIT.molecules, SPLIT.proteins)
    assert any(kind == "molecule" for each in groups.values() for kind, _ in each)
    for secret in (SECRET, SECRET[::-1], b"3" * 32):
        split = BlindSplit.of(replace(CONFIG, fractions=(0.4, 0.3, 0.3)), secret)
        parts = structure_parts(split, prepared, structures)
        part_of_group = {}
        for name, part in parts.items():
            for group in groups[name] if part else ():
                assert part_of_group.setdefault(group, part) == part


def test_ligands_count_only_where_asked_for() -> None:
    prepared = StructureSet.open(STRUCTURES)
    structures = read_structures(prepared)
    polymers = structure_groups(prepared, structures, "polymers", SPLIT.molecules, SPLIT.proteins)
    assert all(kind != "molecule" for groups in polymers.values() for kind, _ in groups)


SEQUENCE = "MKLLIVVLFIINAGAKDGPFAVFRLTNVSDSSGIVVGRRDGTRAHFTADFGTSGVHVPVKEFQCVVGVTN"


def test_a_protein_in_the_table_is_in_its_cluster(tmp_path) -> None:
    table = tmp_path / "clusters.csv"
    table.write_text(f"protein,cluster\nP1,a\n{SEQUENCE},b\n")
    groups = read_clusters(table)
    assert groups.group("P1", "MKV") == "cluster a"
    assert groups.group("private", SEQUENCE.lower() + "*") == "cluster b"
    assert groups.group("private", SEQUENCE[1:]).startswith("word ")
    assert groups.group("", "MKV") == "word " + lowest_word("MKV")


@pytest.mark.parametrize(
    ("rows", "words"),
    [("P1,a\nP1,b\n", "line 3: P1 is in b and in a"), ("P1,\n", "line 2: an empty cell")],
)
def test_a_table_with_two_answers_is_refused(tmp_path, rows, words) -> None:
    table = tmp_path / "clusters.csv"
    table.write_text(f"protein,cluster\n{rows}")
    with pytest.raises(ValueError, match=words):
        read_clusters(table)
    with pytest.raises(ValueError, match="expected 00"):
        read_clusters(table, "00")


def test_a_variant_mostly_keeps_its_word() -> None:
    words = set()
    for position in range(10, 60, 5):
        letters = list(SEQUENCE)
        letters[position] = "W"
        words.add(lowest_word("".join(letters)))
    assert len(words) <= 3


def test_near_proteins_are_pairs_both_ways() -> None:
    pairs = near_proteins([SEQUENCE, "MWWWWWWWWWWWWWWWWWWWW", SEQUENCE[:-2]])
    assert sorted(pairs.tolist()) == [[0, 2], [2, 0]]
    assert measure(pairs, ["train", "val", "test"], [0, 1, 2]).leaking == pytest.approx(2 / 3)


@pytest.fixture(scope="module")
def digest() -> str:
    return conformance_digest(CONFIG, SECRET)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"fractions": (0.7, 0.2, 0.1)}, "parameters"),
        ({"molecules": "atoms"}, "molecules"),
        ({"rings": 2}, "molecules"),
        ({"complexes": "polymers"}, "structures"),
    ],
)
def test_any_parameter_changes_the_digest(digest, changed, field) -> None:
    other = conformance_digest(replace(CONFIG, **changed), SECRET)
    with pytest.raises(ValueError, match=f"other .*{field} [(]") as error:
        check_conformance(other, digest)
    assert "key (" not in str(error.value)


def test_another_key_is_told_as_such(digest) -> None:
    other = conformance_digest(CONFIG, SECRET[::-1])
    with pytest.raises(ValueError, match=r": other key \(the key\)$"):
        check_conformance(other, digest)
    same = [one == two for one, two in zip(other.split("-"), digest.split("-"), strict=True)]
    assert same == [True, True, True, True, False, False]
    check_conformance(digest, conformance_digest(CONFIG, SECRET))


def test_another_table_of_clusters_changes_the_digest(digest, tmp_path) -> None:
    table = tmp_path / "clusters.csv"
    table.write_text("protein,cluster\nsample_1,a\n")
    with pytest.raises(ValueError, match=r"parameters \(.*proteins \("):
        check_conformance(conformance_digest(replace(CONFIG, clusters=str(table)), SECRET), digest)


def test_another_toolchain_changes_the_digest(digest, monkeypatch) -> None:
    monkeypatch.setattr("openfl_flows.data.blind.proteins.WORD", 5)
    other = conformance_digest(CONFIG, SECRET)
    # The chains of structures are grouped as proteins are.
    with pytest.raises(ValueError, match=r": other proteins \(.*; structures \(") as error:
        check_conformance(other, digest)
    assert "key (" not in str(error.value)


def test_the_commands_of_a_party(tmp_path, monkeypatch, capsys, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    assert main(["data", "split-key", "private/blind.key"]) == 0
    assert main(["data", "split-key", "private/blind.key"]) == 1
    assert main(["data", "conformance"]) == 0
    digest = capsys.readouterr().out.splitlines()[-1]
    assert main(["data", "conformance", "--expect", digest]) == 0
    assert main(["data", "conformance", "--set", "rings=2", "--expect", digest]) == 1
    assert main(["data", "conformance", "--set", "ring=2"]) == 1
    for number, source in enumerate((MOLECULES, PROTEINS, STRUCTURES)):
        assert main(["data", "split", str(source), f"{number}.csv"]) == 0
    told = capsys.readouterr()
    secret = read_key(Path("private/blind.key")).hex()
    assert secret not in told.out + told.err + caplog.text
    assert "sample_1" not in told.out
    with open("0.csv", newline="") as table, MOLECULES.open() as molecules:
        rows, smiles = list(csv.DictReader(table)), list(csv.DictReader(molecules))
    split = BlindSplit.of(CONFIG, bytes.fromhex(secret))
    assert [row["name"] for row in rows] == [row["mol_id"] for row in smiles]
    expected = split.molecule_parts(row["smiles"] for row in smiles[:50])
    assert [row["part"] for row in rows[:50]] == expected


def test_clusters_are_a_table_that_every_party_can_make(tmp_path, capsys) -> None:
    fasta = tmp_path / "public.fasta"
    fasta.write_text(f">P1\n{SEQUENCE}\n>P2\n{SEQUENCE[3:]}\n>P3\nMWWWWWWWWWWWWWW\n")
    assert main(["data", "clusters", str(fasta), str(tmp_path / "clusters.csv")]) == 0
    digest = capsys.readouterr().out.strip().rpartition("=")[2]
    groups = read_clusters(tmp_path / "clusters.csv", digest)
    assert groups.group("P1", "M") == groups.group("P2", "M") != groups.group("P3", "M")
    assert groups.group("mine", SEQUENCE) == groups.group("P1", "M")
    assert isinstance(groups, ProteinGroups)
