"""`openfl-flows evaluate`: figures of files, and what is wrong with a file in one line."""

import gzip

import pytest

from openfl_flows.cli import main

REAL = ["CCO", "CCN", "C1CC1O", "CC(=O)N", "c1ccccc1", "CC#N", "OCCO", "NCC=O"]


@pytest.fixture
def files(tmp_path):
    """Generated molecules as CSV with an invalid one, real ones as SMILES and compressed."""
    drawn = tmp_path / "drawn.csv"
    drawn.write_text("smiles,novel\nCCO,0\nOCC,0\n,0\nC1CC1N,1\n")
    reference = tmp_path / "real.smi"
    reference.write_text("".join(f"{smiles} name-{i}\n" for i, smiles in enumerate(REAL)))
    train = tmp_path / "train.smi.gz"
    train.write_bytes(gzip.compress(b"CCO\nCCC\n"))
    return drawn, reference, train


def figures(text):
    return {name: float(value) for name, value in (line.split() for line in text.splitlines())}


def test_figures_are_printed_and_written(capsys, files, tmp_path):
    drawn, reference, train = map(str, files)
    out = tmp_path / "figures.csv"
    assert main(["evaluate", drawn, "--reference", reference, "--train", train,
                 "--out", str(out)]) == 0  # fmt: skip
    found = figures(capsys.readouterr().out)
    assert found["num_generated"] == 4
    assert found["validity"] == 0.75
    assert found["uniqueness"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["novelty"] == 0.5
    assert found["num_measured"] == 3
    assert found["num_reference"] == 8
    assert 0 < found["kl_score"] < 1
    written = dict(line.split(",") for line in out.read_text().splitlines()[1:])
    assert {name: round(float(value), 4) for name, value in written.items()} == found


def test_a_file_is_like_itself_and_no_file_is_compared_beyond_the_limit(capsys, files):
    real = str(files[1])
    assert main(["evaluate", real, "--reference", real]) == 0
    found = figures(capsys.readouterr().out)
    assert found["validity"] == found["kl_score"] == found["snn"] == 1
    assert main(["evaluate", real, "--reference", real, "--most", "4"]) == 0
    assert figures(capsys.readouterr().out)["num_reference"] == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no molecules, expected at least one"),
        ("x\ny\n", "none of 2 molecules is valid"),
        (b"\xff\xfe\xfd", "not UTF-8 text at byte 0"),
    ],
)
def test_files_without_molecules_are_refused(capsys, files, tmp_path, content, message):
    bad = tmp_path / "bad.smi"
    bad.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["evaluate", str(bad), "--reference", str(files[1])]) == 1
    error = capsys.readouterr().err
    assert f"{bad}: {message}" in error
    assert error.count("\n") == 1


def test_a_table_without_smiles_and_a_limit_too_small_are_refused(capsys, files, tmp_path):
    (tmp_path / "t.csv").write_text("molecule\nC\n")
    assert main(["evaluate", str(tmp_path / "t.csv"), "--reference", str(files[1])]) == 1
    assert "no column 'smiles'" in capsys.readouterr().err
    assert main(["evaluate", str(files[0]), "--reference", str(files[1]), "--most", "1"]) == 1
    assert "--most is 1, expected at least 2" in capsys.readouterr().err
