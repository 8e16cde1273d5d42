"""ESM-2 by the command line: simulated, rehearsed, killed, and with what users get wrong."""

import csv
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from openfl_flows.cli import main
from openfl_flows.cli.plan import compose
from openfl_flows.data.embedding_store import EmbeddingStore
from openfl_flows.data.proteins.fasta import write_fasta
from openfl_flows.data.proteins.source import SAMPLE
from openfl_flows.ops.files import load_state
from openfl_flows.ops.run import RunDirectory
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.parity import compare_rounds
from openfl_flows.taskrunner.rehearsal import rehearse
from tests.fx_processes import launch, living
from tests.processes import Command, run
from tests.refusals import refused
from tests.tiny_esm import CLASSES, proteins

SMALL = (
    "experiment=esm_scl", "data.limit=150", "federation.rounds=2", "federation.epochs=1",
    "runtime.quiet=true",
)  # fmt: skip
TINY = (
    "experiment=esm_scl", "federation.sites=2", "federation.rounds=1", "federation.epochs=1",
    "runtime.quiet=true", "model.training.cache=null", "partition=proteins_iid",
    f"data.classes=[{','.join(CLASSES['sequence_to_class'])}]",
)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", ["openfl-flows"])
    return tmp_path / "here"


def record(path: Path) -> dict[str, Any]:
    found = RunDirectory.open(path).record
    assert found["status"] == "finished"
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of three sites, by the command line."""
    out = tmp_path_factory.mktemp("esm") / "run"
    assert run("simulate", *SMALL, f"out={out}", log=out.parent / "log") == 0
    return out


def test_a_run_learns_measures_and_writes_its_predictions(undisturbed) -> None:
    found = record(undisturbed)
    losses = [entry["metrics"]["loss"] for entry in (found["initial"], *found["rounds"])]
    assert losses[-1] < losses[0]
    assert {"test_accuracy", "test_loss", "test_recall_Nucleus"} <= found["metrics"].keys()
    with (undisturbed / "samples" / "predictions_test.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["name"] for row in rows}) == len(rows) == SAMPLE.read_text().count("SET=test")
    right = sum(row["target"] == row["predicted"] for row in rows)
    assert found["metrics"]["test_accuracy"] == pytest.approx(right / len(rows))
    assert "Predictions: 600 proteins" in (undisturbed / "report.html").read_text()


@pytest.mark.slow
def test_a_run_that_is_killed_ends_in_the_same_bits(undisturbed, folder) -> None:
    log, out = folder / "log", folder / "run"
    files = ("sites/site-1/local-00001.pt", "checkpoints/00001/model.safetensors")
    arguments = (*SMALL, f"out={out}")
    for file in files:
        with Command("simulate", *arguments, log=log) as process:
            killed = process.kill_when(lambda file=file: (out / file).is_file())
            assert killed == -signal.SIGKILL
        arguments = (f"resume={out}",)
    assert run("simulate", *arguments, log=log) == 0, log.read_text()
    found, expected = record(out), record(undisturbed)
    for key in ("digest", "best", "tested", "metrics"):
        assert found[key] == expected[key]
    assert [r["digest"] for r in found["rounds"]] == [r["digest"] for r in expected["rounds"]]
    assert load_state(out / "model.safetensors") == load_state(undisturbed / "model.safetensors")
    for file in ("partition.json", "samples/predictions_test.csv"):
        assert (out / file).read_bytes() == (undisturbed / file).read_bytes()


@pytest.mark.parametrize(
    ("mode", "join"),
    [
        ("frozen", "fedavg"),
        pytest.param("lora", "diloco", marks=pytest.mark.slow),
        pytest.param("full", "fedavg", marks=pytest.mark.slow),
    ],
)
def test_a_federation_of_processes_is_its_simulation(folder, mode, join) -> None:
    plan = (
        *SMALL, "federation.sites=2", f"model.network.mode={mode}", f"join={join}",
        "model.training.cache=store.sqlite",
    )  # fmt: skip
    export_workspace(compose(plan), folder / "workspace")
    rehearsed = rehearse(folder / "workspace", out=folder / "parties", launch=launch)
    assert living(folder / "parties") == []
    stores = {store.parent.name for store in (folder / "parties").rglob("store.sqlite")}
    assert stores == ({"site-1", "site-2"} if mode == "frozen" else set())
    assert main(["simulate", *plan, "out=simulated"]) == 0
    simulated = RunDirectory.open(folder / "simulated")
    compared = compare_rounds(rehearsed, simulated)
    assert [row.equal for row in compared] == [True] * 3
    assert len({row.a for row in compared}) == 3
    assert rehearsed.record["metrics"] == simulated.record["metrics"]
    for a, b in zip(rehearsed.record["rounds"], simulated.record["rounds"], strict=True):
        assert a["metrics"] == b["metrics"]
        for site in a["sites"]:
            assert a["sites"][site]["metrics"] == b["sites"][site]["metrics"]
    for file in ("partition.json", "samples/predictions_test.csv"):
        assert (rehearsed.path / file).read_bytes() == (simulated.path / file).read_bytes()
    agreed = rehearsed.record["config"]["model"].get("encoder_digest")
    assert (agreed is None) == (mode == "full")


def fasta(path: Path, **changes: str) -> Path:
    """The tiny proteins, with some text replaced in the file."""
    write_fasta(path, proteins())
    text = path.read_text()
    for old, new in changes.get("replace", ()):
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    return path


def header(number: int) -> str:
    """The header of a protein of the tiny set."""
    own = proteins()[number]
    attribute = own.attributes["KINGDOM"]
    return f">{own.name} TARGET={own.target} SET={own.part} KINGDOM={attribute}\n"


BAD_FILES = {
    "no target": (
        [(header(4), ">p004 SET=train KINGDOM=Fungi\n")],
        r"bad\.fasta, line 9: p004 has no TARGET, expected TARGET=VALUE",
    ),
    "no set": (
        [(header(4), ">p004 TARGET=Plastid\n")],
        r"bad\.fasta, line 9: p004 has no SET, expected SET=train, val",
    ),
    "unknown class": (
        [(header(4), header(4).replace("Plastid", "Plastids"))],
        r"bad\.fasta, line 9: p004 has TARGET=Plastids, expected one of data\.classes: .*Plastid\?",
    ),
    "small letters": (
        [(header(4), header(4).replace("TARGET", "target"))],
        r"bad\.fasta, line 9: p004 has the key 'target', expected 'TARGET'",
    ),
    "another label": (
        [(header(7), header(7).replace("p007", "p004").replace("Plastid", "Golgi"))],
        r"bad\.fasta, line 15: p004 is also at line 9 with another",
    ),
    "no sequence": (
        [(proteins()[4].sequence + "\n", "")],
        r"bad\.fasta, line 9: p004 has no sequence",
    ),
    "digit": (
        [(proteins()[4].sequence, "MKV4LW")],
        r"bad\.fasta, line 10: '4' at position 4 of the line, expected a sequence",
    ),
    "mask": (
        [(header(4), header(4).rstrip() + " MASK=" + "1" * len(proteins()[4].sequence) + "\n")],
        r"bad\.fasta, line 9: p004 has a MASK, expected none with data\.kind=sequence_to_class",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_cannot_be_used_is_one_line(folder, capsys, case) -> None:
    changes, message = BAD_FILES[case]
    fasta(folder / "bad.fasta", replace=changes)
    line = refused(capsys, "simulate", *TINY, "data.path=bad.fasta", "out=run")
    assert re.search(message, line), line
    assert [file.name for file in folder.iterdir()] == ["bad.fasta"]


OTHER_FORMATS = {
    "csv": (b"name,sequence,label\na,MKV,Nucleus\n", r"line 1: this looks like a table \(CSV\)"),
    "json": (b'{"a": "MKV"}\n', r"line 1: this looks like JSON, expected FASTA"),
    "genbank": (b"LOCUS       SCU49845\n", r"line 1: this looks like GenBank"),
    "binary": (b"\x00\x01\xff\xfe" * 40, r"bad\.fasta: not UTF-8 text at byte \d+, expected FASTA"),
    "gzip": (b"\x1f\x8b\x08" + b"\x00" * 20, r"bad\.fasta: damaged gzip file"),
    "empty": (b"", r"bad\.fasta: the file is empty, expected FASTA"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", r"a pointer of Git LFS"),
}


@pytest.mark.parametrize("case", OTHER_FORMATS)
@pytest.mark.parametrize("command", ["simulate", "centralize", "export"])
def test_a_file_of_another_format_is_one_line(folder, capsys, command, case) -> None:
    content, message = OTHER_FORMATS[case]
    (folder / "bad.fasta").write_bytes(content)
    words = ("run",) if command == "export" else ("out=run",)
    line = refused(capsys, command, *TINY, "data.path=bad.fasta", *words)
    assert re.search(message, line), line
    assert [file.name for file in folder.iterdir()] == ["bad.fasta"]


BAD_PLANS = {
    "no file": (("data.path=gone.fasta",), r"data\.path=gone\.fasta: no such file, expected"),
    "unnamed": (("data=fasta",), r"data\.path"),
    "kingdoms": (
        ("partition=proteins_kingdom", "federation.sites=4"),
        r"partition\.name=attribute",
    ),
    "key": (
        ("partition=proteins_kingdom", "partition.attribute=PHYLUM"),
        r"line \d+: p\d+ has no PHYLUM=, expected one in the header of every protein",
    ),
    "empty": (
        ("partition=proteins_sizes", "partition.fractions=[0.999,0.001]"),
        r"partition\.name=sizes: .* of 51 items give sizes \(51, 0\), expected at least 1 item",
    ),
    "one": (
        ("partition=proteins_sizes", "partition.fractions=[0.98,0.02]"),
        r"site 'site-2' has [01] training and [01] validation proteins and no \w+ protein",
    ),
    "many": (("federation.sites=49",), r"partition\.name=iid: 49 sites but 48 items|site '.*' has"),
    "classes": (("data.classes=[Nucleus]",), r"data\.classes=.*expected at least two different"),
    "letters": (("data.letters=drop",), r"data.*letters='drop'"),
    "kind": (("data.kind=class",), r"data.*kind='class'"),
    "value": (("data.kind=sequence_to_value",), r"data\.classes=.*expected none"),
    "number": (
        ("data.kind=sequence_to_value", "data.classes=[]"),
        r"line 1: p000 has TARGET=Nucleus, expected a finite number",
    ),
    "length": (("data.max_length=0",), r"data\.max_length=0, expected at least 1"),
    "refuse": (
        ("data.max_length=20", "data.long=refuse"),
        r"line \d+: p\d+ has \d+ residues, longer than 20 \(data\.max_length\)",
    ),
    "weights": (("model.network.weights=./gone",), r"network\.weights=\./gone: no model, neither"),
    "mode": (("model.network.mode=head",), r"network.*mode='head'"),
    "rank": (("model.network.lora.rank=0",), r"network\.lora has rank=0"),
    "batch": (("model.training.batch_size=0",), r"training\.batch_size=0, expected at least 1"),
    "extra": (("+model.training.epochs=3",), r"training.*epochs"),
    "device": (("model.training.device=gpu",), r"training\.device=gpu, expected"),
}


@pytest.mark.parametrize("case", BAD_PLANS)
def test_a_plan_that_cannot_be_used_is_one_line(folder, capsys, case) -> None:
    overrides, message = BAD_PLANS[case]
    fasta(folder / "own.fasta")
    data = () if case in ("no file", "unnamed") else ("data.path=own.fasta",)
    line = refused(capsys, "simulate", *TINY, *data, *overrides, "out=run")
    assert re.search(message, line), line
    assert [file.name for file in folder.iterdir()] == ["own.fasta"]


def test_a_class_that_a_site_lacks_is_a_warning(folder) -> None:
    lacking = [
        r for r in proteins(num=108) if (r.target, r.attributes["KINGDOM"]) != ("Golgi", "Fungi")
    ]
    write_fasta(folder / "own.fasta", lacking)
    plan = (*TINY, "partition=proteins_kingdom", "federation.sites=3", "data.path=own.fasta")
    assert main(["simulate", *plan, "out=run"]) == 0
    partition = json.loads((folder / "run" / "partition.json").read_text())
    (told,) = re.findall(r"(site-\d) trains on no Golgi", partition["note"])
    columns, rows = partition["columns"], {row[0]: row for row in partition["rows"]}
    assert rows[told][columns.index("Golgi")] == 0
    assert f"{told} trains on no Golgi" in (folder / "run" / "report.html").read_text()
    found = record(folder / "run")["rounds"][0]["sites"][told]["metrics"]
    assert "accuracy" in found
    assert "recall_Golgi" not in found or found["recall_Golgi"] is not None


def test_what_is_repaired_is_counted(folder) -> None:
    records = proteins()
    text = "".join(
        f">{r.name} TARGET={r.target} SET={r.part}\n{r.sequence}{'J*' if i < 5 else ''}\n"
        for i, r in enumerate(records)
    )
    again = text.splitlines()[:2]
    (folder / "own.fasta").write_text("\n".join([*text.splitlines(), *again, ""]))
    plan = (*TINY, "data.path=own.fasta", "data.max_length=20")
    assert main(["simulate", *plan, "out=run"]) == 0
    note = json.loads((folder / "run" / "partition.json").read_text())["note"]
    long = sum(len(r.sequence) + (i < 5) > 20 for i, r in enumerate(records))
    assert "1 rejected" in note
    assert f"{long} cropped in the middle" in note
    assert "5 letters replaced by X" in note
    rejected = (folder / "run" / "rejected.csv").read_text().splitlines()
    assert rejected == ["line,name,reason", "121,p000,the same record as at line 1"]


def test_a_saved_model_is_one_to_begin_with(folder) -> None:
    fasta(folder / "own.fasta")
    plan = (*TINY, "data.path=own.fasta")
    assert main(["simulate", *plan, "out=run"]) == 0
    assert main(["save", "run", "--out", "saved"]) == 0
    native = torch.load(folder / "saved" / "model.pt", weights_only=True)
    assert {"encoder", "head", "config", "classes"} <= native.keys()
    assert main(["simulate", *plan, "initial=saved/model.pt", "out=next"]) == 0
    assert record(folder / "next")["initial"]["digest"] == record(folder / "run")["digest"]


@pytest.mark.slow
def test_a_warm_cache_gives_the_run_of_a_cold_one(folder) -> None:
    fasta(folder / "own.fasta")
    words = (*TINY, "data.path=own.fasta", "model.network.mode=frozen")
    runs = {"cold": "store.sqlite", "warm": "store.sqlite", "none": "null"}
    for name, cache in runs.items():
        assert main(["simulate", *words, f"model.training.cache={cache}", f"out={name}"]) == 0
    cold, warm, none = (record(folder / name) for name in runs)
    assert cold["digest"] == warm["digest"] == none["digest"]
    assert cold["metrics"] == warm["metrics"] == none["metrics"]


def test_a_damaged_cache_is_one_line(folder, capsys) -> None:
    fasta(folder / "own.fasta")
    (folder / "store.sqlite").write_text("name,embedding\n" * 50)
    words = (*TINY, "data.path=own.fasta", "model.network.mode=frozen")
    line = refused(capsys, "simulate", *words, "model.training.cache=store.sqlite", "out=run")
    assert "store.sqlite: not a store of embeddings that can be used" in line
    (folder / "store.sqlite").unlink()
    assert main(["simulate", "resume=run"]) == 0
    assert EmbeddingStore(folder / "store.sqlite", 64).get(["absent"]) == {}
