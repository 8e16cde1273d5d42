"""predict of a run of ESM-2: a row for every protein of any FASTA, or one line on what is wrong."""

import csv
import gzip
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openfl_flows.cli import main
from openfl_flows.data.proteins.fasta import read_fasta, write_fasta
from openfl_flows.data.proteins.source import SAMPLE
from openfl_flows.experiment import Experiment
from openfl_flows.metrics.predictions import Predictions
from openfl_flows.ops.files import save_state
from openfl_flows.ops.run import RunDirectory
from tests.refusals import refused as command_refused
from tests.tiny_esm import CLASSES, proteins

RUN = (
    "experiment=esm_scl", "federation.sites=2", "federation.rounds=2", "federation.epochs=1",
    "runtime.quiet=true", "model.training.cache=null",
)  # fmt: skip
KINDS = {
    "sequence_to_value": ("data.kind=sequence_to_value", "data.classes=[]", "model.value.mean=7"),
    "residue_to_class": ("data.kind=residue_to_class", "data.classes=[H,L]", "data.max_length=20"),
}
PLAIN = """\
>sp|P12345|AATM_RABIT Aspartate aminotransferase OS=Oryctolagus cuniculus OX=9986 GN=GOT2 PE=1 SV=2
MALLHSARVLSGVASAFHPGLAAAASARASSWW
AHVEMGPPDPILGVTEAYKRDTNSKKMNLGVGAYRDDNGKPYVLPS

>short
mkj*
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose tested model is the best one, which is not the last."""
    out = tmp_path_factory.mktemp("esm") / "run"
    words = ("data.limit=150", "federation.tested=best", "model.training.lr=0.002")
    assert main(["simulate", *RUN, *words, f"out={out}"]) == 0
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    return command_refused(capsys, "predict", *map(str, arguments))


def test_predictions_are_those_that_the_run_was_tested_with(run, tmp_path, capsys) -> None:
    tested = Predictions.read(run / "samples" / "predictions_test.csv")
    records = [r for r in read_fasta(SAMPLE) if r.part == "test"]
    write_fasta(tmp_path / "asked.fasta", records)
    assert main(["predict", str(run), str(tmp_path / "asked.fasta")]) == 0
    out = run / "predictions" / "asked.csv"
    told = capsys.readouterr().out.splitlines()
    assert told == [f"{len(records):,} proteins", f"written to {out}"]
    found = {row["name"]: row for row in rows(out)}
    assert list(found) == [record.name for record in records]
    assert list(next(iter(found.values()))) == ["name", "predicted", *tested.classes]
    for name, chosen, probabilities in zip(
        tested.names, tested.predicted, tested.probabilities, strict=True
    ):
        row = found[name]
        assert row["predicted"] == tested.classes[chosen]
        numbers = [float(row[name]) for name in tested.classes]
        np.testing.assert_allclose(numbers, probabilities, rtol=2e-3, atol=1e-6)


def test_the_model_is_the_tested_one_unless_another_is_asked_for(run, tmp_path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    opened = RunDirectory.open(copy)
    # As if the first model had been the best one.
    initial = Experiment.from_config(opened.record["config"]).initial_state()
    save_state(copy / "best.safetensors", initial)
    chosen = {"round": 0, "digest": initial.digest()}
    opened.record["best"] |= chosen
    opened.record["tested"] = chosen
    opened.write()
    (tmp_path / "two.fasta").write_text(PLAIN)
    found = {}
    for name, words in {"tested": (), "last": ("--weights", "model")}.items():
        out = tmp_path / f"{name}.csv"
        arguments = ("predict", copy, tmp_path / "two.fasta", *words, "--out", out)
        assert main([str(word) for word in arguments]) == 0
        found[name] = rows(out)
    assert found["tested"] != found["last"]


def test_any_fasta_will_do(run, tmp_path, capsys) -> None:
    file = tmp_path / "any.fa.gz"
    file.write_bytes(gzip.compress(PLAIN.encode()))
    assert main(["predict", str(run), str(file), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "2 proteins; 1 letters replaced by X"
    found = rows(run / "predictions" / "any.csv")
    assert [row["name"] for row in found] == ["sp|P12345|AATM_RABIT", "short"]
    for row in found:
        probabilities = {key: float(row[key]) for key in [*row][2:]}
        assert sum(probabilities.values()) == pytest.approx(1, abs=0.01)
        assert row["predicted"] == max(probabilities, key=probabilities.__getitem__)


@pytest.mark.parametrize(
    ("kind", "mode"), [("sequence_to_value", "full"), ("residue_to_class", "frozen")]
)
def test_values_and_residues(tmp_path, kind, mode) -> None:
    data = tmp_path / "all.fasta"
    write_fasta(data, proteins(kind, num=90))
    words = (*RUN, *KINDS[kind], f"data.path={data}", f"model.network.mode={mode}")
    words = (*words, "partition=proteins_iid", "federation.epochs=10", "model.training.lr=0.01")
    assert main(["simulate", *words, f"out={tmp_path / 'run'}"]) == 0
    data.rename(tmp_path / "new.fasta")
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.fasta")]) == 0
    records = {record.name: record for record in read_fasta(tmp_path / "new.fasta")}
    found = rows(tmp_path / "run" / "predictions" / "new.csv")
    assert [row["name"] for row in found] == list(records)
    assert {tuple(row) for row in found} == {("name", "predicted")}
    if kind == "sequence_to_value":
        values = [float(row["predicted"]) for row in found]
        targets = [float(records[row["name"]].target) for row in found]
        assert np.corrcoef(values, targets)[0, 1] > 0.7
        return
    right = num = 0
    for row in found:
        record, said = records[row["name"]], row["predicted"]
        length = len(record.sequence)
        assert len(said) == length
        unseen = [i for i, letter in enumerate(said) if letter == "?"]
        assert unseen == ([] if length <= 20 else list(range(10, length - 10)))
        assert {*said} <= {*CLASSES[kind], "?"}
        right += sum(a == b for a, b in zip(said, record.target, strict=True))
        num += length - len(unseen)
    assert right / num > 0.7


def test_what_is_too_long_is_left_out_and_told(run, tmp_path, capsys) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    opened = RunDirectory.open(copy)
    file = tmp_path / "long.fasta"
    file.write_text(f">a\nMKV\n>long x\n{'MKVA' * 200}\n")
    for how, status in (("leave_out", 0), ("refuse", 1)):
        opened.record["config"]["data"]["long"] = how
        opened.write()
        assert main(["predict", str(copy), str(file)]) == status
        said = capsys.readouterr()
        reason = "800 residues, longer than 510"
        if status:
            assert f"{file}, line 3: long has {reason} (data.max_length)" in said.err
        else:
            left = f"1 proteins; warning: 1 left out, the first: line 3, long: {reason}"
            assert said.out.splitlines()[0] == left
            assert [row["name"] for row in rows(copy / "predictions" / "long.csv")] == ["a"]
    file.write_text(f">long x\n{'MKVA' * 200}\n")
    opened.record["config"]["data"]["long"] = "leave_out"
    opened.write()
    assert "nothing to predict, all 1 are left out, the first: line 1" in refused(
        capsys, copy, file
    )


BAD_FILES = {
    "table": ("name,sequence\na,MKV\n", r"line 1: this looks like a table \(CSV\), expected FASTA"),
    "twice": (">a\nMK\n>a\nMV\n", "line 3: a is also at line 1 with another sequence"),
    "letter": (">a\nMK1\n", "line 2: '1' at position 3"),
    "bare": (">a\n>b\nMK\n", "line 1: a has no sequence"),
    "empty": ("", "the file is empty"),
    "nameless": (">\nMK\n", "line 1: header '' has no name"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_used_is_one_line(run, tmp_path, capsys, case) -> None:
    text, message = BAD_FILES[case]
    file = tmp_path / "bad.fasta"
    file.write_text(text)
    line = refused(capsys, run, file, "--out", tmp_path / "out.csv")
    assert re.search(f"{file}.*{message}", line), line
    assert not (tmp_path / "out.csv").exists()


def test_what_does_not_fit_is_one_line(run, tmp_path, capsys) -> None:
    file = tmp_path / "two.fasta"
    file.write_text(PLAIN)
    unfinished = Path(shutil.copytree(run, tmp_path / "unfinished"))
    opened = RunDirectory.open(unfinished)
    opened.record["status"] = "running"
    opened.write()
    for arguments, message in (
        ((run,), "expected PROTEINS.fasta after a run of ESM-2"),
        ((run, tmp_path / "gone.fasta"), "gone.fasta: no such file, expected proteins as FASTA"),
        ((run, file, "--smiles", "C"), "--smiles is of OpenFold3, and this is a run of ESM-2"),
        ((run, file, "--seed", "1"), "--seed is of OpenFold3"),
        ((run, file, "--msa-server"), "--msa-server is of OpenFold3"),
        ((run, file, "--weights", "ema"), "keeps no moving average"),
        ((run, file, "--out", tmp_path), f"--out={tmp_path} is a folder, expected a file"),
        ((run, file, "--device", "gpu"), "--device=gpu cannot be used, expected e.g. cpu"),
        ((unfinished, file), "the run is not finished"),
        ((tmp_path / "nowhere", file), "nowhere: no such run or checkpoint"),
        ((tmp_path, file), "not a run directory"),
    ):
        assert message in refused(capsys, *arguments)


def test_a_damaged_model_predicts_nothing(run, tmp_path, capsys) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for model in copy.rglob("*.safetensors"):
        model.write_bytes(model.read_bytes()[:-1])
    (tmp_path / "two.fasta").write_text(PLAIN)
    line = refused(capsys, copy, tmp_path / "two.fasta")
    assert ".safetensors" in line
    assert not (copy / "predictions" / "two.csv").exists()
