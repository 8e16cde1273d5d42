"""openfl-flows data prepare, as a site runs it."""

import json
from pathlib import Path

import pytest

from openfl_flows.cli import main
from tests.structure_files import entry, model, recoded, write_cif, write_pdb


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    write_cif(recoded(entry("7l39"), "MBN", "LIG", bonds=False), folder / "secret-one.cif")
    write_cif(entry("1ubq"), folder / "other.cif.gz")
    write_pdb(model("1ubq"), folder / "third.pdb")
    return folder


def run(*arguments: object) -> int:
    return main(["data", "prepare", *map(str, arguments)])


def test_two_processes_prepare_and_print_counts(source, tmp_path, capsys):
    assert run(source, tmp_path / "set", "--workers", 2) == 0
    printed = capsys.readouterr().out
    counts = json.loads((tmp_path / "set" / "preflight" / "counts.json").read_text())
    assert counts["outcomes"] == {"accepted": 1, "repaired": 1, "refused": 1}
    assert "1  refused   ligand under the code of another public molecule" in printed
    assert "secret" not in printed
    assert run(source, tmp_path / "set", "--strict") == 1
    table = tmp_path / "ligands.csv"
    table.write_text("structure,code,smiles\nsecret-one,LIG,Cc1ccccc1\n")
    assert run(source, tmp_path / "set", "--strict", "--ligands", table) == 0
    assert (tmp_path / "set" / "set.json").is_file()


def test_nothing_usable_is_an_error_in_one_line(source, tmp_path, capsys):
    only = tmp_path / "in"
    only.mkdir()
    (only / "secret-one.cif").write_bytes((source / "secret-one.cif").read_bytes())
    assert run(only, tmp_path / "set", "--workers", 1) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no structure can be used" in line
    assert not (tmp_path / "set" / "set.json").exists()
