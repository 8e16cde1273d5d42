"""Molecules larger than those of QM9, from a list of SMILES to a report, charges included."""

import csv
import gzip
import json
from itertools import islice

import pytest

from openfl_flows.cli import main
from tests.tiny import OVERRIDES


def status(*arguments: str) -> int:
    """Exit status in this process."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(str(end.code))


@pytest.fixture
def drugs(shared_data, tmp_path):
    """A list of 80 drug-like molecules and one that cannot be used."""
    with gzip.open(shared_data / "qm9" / "zinc100k.smi.gz", "rt") as stream:
        lines = list(islice(stream, 80))
    path = tmp_path / "drugs.smi"
    path.write_text("".join((*lines, "C1CC[Si]CC1 unusable\n")))
    return path


def test_a_list_of_smiles_is_simulated_to_molecules(drugs, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = (
        "model=digress_zinc", "data=smiles", f"data.path={drugs}", "federation.rounds=1",
        "federation.epochs=1", "runtime.quiet=true", *OVERRIDES, "data.limit=null",
        "model.training.batch_size=16", "model.training.micro_pairs=4000", "out=run",
    )  # fmt: skip
    assert status("simulate", *plan) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    metrics = record["metrics"]
    assert 0 <= metrics["validity"] <= 1
    assert metrics["test_elbo"] > 0
    assert "test_mae" not in metrics
    (rejected,) = csv.DictReader((tmp_path / "run" / "rejected.csv").open())
    assert (rejected["line"], rejected["mol_id"]) == ("81", "unusable")
    assert rejected["reason"].startswith("atom Si is outside C,N,O,F")
    assert len(list(csv.DictReader((tmp_path / "run" / "samples" / "samples.csv").open()))) == 8
    assert list((tmp_path / "data" / "parsed").glob("molecules-*/atoms.bin"))


def test_a_regressor_without_labels_is_one_line_before_training(drugs, tmp_path, capsys) -> None:
    plan = ("model=digress_zinc", "data=smiles", f"data.path={drugs}", f"data.folder={tmp_path}")
    out = tmp_path / "run"
    assert status("simulate", *plan, "model.training.regressor=true", f"out={out}") != 0
    assert "training.regressor=true, expected false" in capsys.readouterr().err
    assert not (out / "run.json").exists()
