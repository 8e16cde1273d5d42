"""openfl-flows domain: sketch, merge, distance."""

import csv

import pytest

from openfl_flows.cli import main
from openfl_flows.data.blind.key_file import write_key
from tests.refusals import refused

SMILES = [f"{a}CCCCC{b}" for a in ("C", "O", "N", "F", "Cl", "Br") for b in ("C", "CO", "S", "I")]


@pytest.fixture
def files(tmp_path):
    write_key(tmp_path / "key")
    table = [("smiles", "part", "error"), *((s, "train", 0.1) for s in SMILES)]
    table += [("c1ccccc1Br", "test", 2.0), ("CCCCCCO", "test", 0.1), ("CCC(C)CO", "test", 0.2)]
    with (tmp_path / "data.csv").open("w", newline="") as file:
        csv.writer(file).writerows(table)
    return tmp_path


def run(files, *words):
    return main(["domain", *(word.format(d=files) for word in words)])


def sketched(files, name="a.json", *more):
    words = ("sketch", "{d}/data.csv", "--key", "{d}/key", "--out", f"{{d}}/{name}")
    return run(files, *words, "--where", "part=train", "--floor", "5", *more)


def test_from_data_to_distances(files, capsys):
    assert sketched(files) == 0
    assert sketched(files, "b.json", "--keep", "20") == 0
    assert "24 molecules" in capsys.readouterr().out
    assert run(files, "merge", "{d}/a.json", "{d}/b.json", "--out", "{d}/all.json") == 0
    assert "2 sites" in capsys.readouterr().out
    words = ("distance", "{d}/data.csv", "--sketch", "{d}/a.json", "--key", "{d}/key")
    assert run(files, *words, "--errors", "error", "--out", "{d}/found.csv") == 0
    out = capsys.readouterr().out
    assert "Spearman" in out
    assert "27 molecules" in out
    rows = list(csv.DictReader((files / "found.csv").open()))
    assert len(rows) == 27
    by_name = {row["name"]: row for row in rows}
    assert by_name["c1ccccc1Br"]["inside"] == "false"
    assert float(by_name["c1ccccc1Br"]["distance"]) == 1
    assert float(by_name["CCCCCCCO"]["distance"]) < 0.5


def test_the_sketch_is_the_same_whatever_the_order(files):
    sketched(files)
    head, *lines = (files / "data.csv").read_text().splitlines()
    (files / "data.csv").write_text("\n".join([head, *reversed(lines)]) + "\n")
    sketched(files, "b.json")
    assert (files / "a.json").read_bytes() == (files / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sketch", "{d}/none.csv", "--key", "{d}/key", "--out", "{d}/o"), "none.csv: no such"),
        (("sketch", "{d}/data.csv", "--key", "{d}/none", "--out", "{d}/o"), "none: no such"),
        (
            ("sketch", "{d}/data.csv", "--key", "{d}/key", "--out", "{d}/o", "--where", "part"),
            "--where is 'part'",
        ),
        (
            ("sketch", "{d}/data.csv", "--key", "{d}/key", "--out", "{d}/o", "--where", "a=b"),
            "no column 'a'",
        ),
        (
            ("sketch", "{d}/data.csv", "--key", "{d}/key", "--out", "{d}/o", "--where", "part=x"),
            "no items",
        ),
        (("merge", "{d}/data.csv", "--out", "{d}/o"), "expected a sketch"),
        (
            ("distance", "{d}/data.csv", "--sketch", "{d}/a.json", "--key", "{d}/other"),
            "commitment",
        ),
        (
            (
                "distance", "{d}/data.csv", "--sketch", "{d}/a.json", "--key", "{d}/key",
                "--errors", "none",
            ),
            "no column 'none'",
        ),
        (
            ("distance", "{d}/p.fasta", "--sketch", "{d}/a.json", "--key", "{d}/key"),
            "file of proteins, expected molecules",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_and_nothing_written(files, capsys, words, said):
    sketched(files)
    write_key(files / "other")
    (files / "p.fasta").write_text(">a SET=train TARGET=x\nMKVLAMKVLA\n")
    line = refused(capsys, "domain", *(word.format(d=files) for word in words))
    assert said in line
    assert not (files / "o").exists()
