"""The command line: what works leaves files, what is wrong is one line and leaves nothing."""

import csv
import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openfl_flows import __version__
from openfl_flows.cli import main
from tests.processes import run
from tests.tiny import OVERRIDES

# Of one to three atoms, so that a network that has seen little draws valid ones.
SMALL = [
    "C", "CC", "CCC", "CO", "CCO", "CN", "CCN", "C=O", "CC=O", "OCO", "NCO", "NCN", "CF", "FCF",
    "FCC", "O=CO", "N=CN", "C#N", "CC#N", "COC", "O", "N", "F", "CNC",
]  # fmt: skip
TOY = ("simulate", "experiment=toy", "runtime.quiet=true")
TRAINED = (
    "experiment=demo", "data=csv", "federation.rounds=1", "federation.epochs=15",
    "model.training.lr=0.01", "model.training.batch_size=16", "runtime.quiet=true",
)  # fmt: skip


def table(path: Path, *rows: str, header: str = "smiles,mu,homo") -> Path:
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def small_molecules(path: Path, *more: str, copies: int = 8) -> Path:
    rows = [f"{s},{1 + i / 50},{-(i % 9 + 25) / 100}" for i, s in enumerate(SMALL * copies)]
    return table(path, *rows, *more)


def status(*arguments: str) -> int:
    """Exit status in this process."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(str(end.code))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "argv", ["openfl-flows"])
    return tmp_path / "here"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on small molecules, three of whose table's rows are unusable; its log lies beside."""
    place = tmp_path_factory.mktemp("finished")
    rows = ("C1CC,1,-0.2", "C[Si],1,-0.2", "CCCCCCCCCCC,1,-0.2")
    data = small_molecules(place / "small.csv", *rows)
    log = place / "log"
    arguments = (*OVERRIDES, *TRAINED, f"data.path={data}", f"out={place / 'run'}")
    assert run("simulate", *arguments, log=log) == 0, log.read_text()
    return place / "run"


BAD_TABLES = {
    "column": (("C,1,2",), "smiles,dipole,homo", r"bad\.csv: no column 'mu'; .* smiles, dipole"),
    "number": (("C,1,2", "CC,one,2"), None, r"bad\.csv, line 3: mu is 'one', expected a finite"),
    "cells": (("C,1,2", "CC,1"), None, r"bad\.csv, line 3: 2 cells, expected 3"),
    "unusable": (("[Fe],1,2", "xyz,1,2"), None, r"bad\.csv: "),
    "empty": ((), None, r"bad\.csv: "),
    "few": (("C,1,2", "CC,1,2"), None, r"site 'site-1' has 1 molecules"),
    "fewer": (("C,1,2",), None, r"2 sites but 1 items"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
@pytest.mark.parametrize("command", ["simulate", "centralize"])
def test_a_table_that_cannot_be_used_is_refused(capsys, folder, command, case) -> None:
    rows, header, message = BAD_TABLES[case]
    table(folder / "bad.csv", *rows, header=header or "smiles,mu,homo")
    refused(capsys, message, command, *OVERRIDES, "data=csv", "data.path=bad.csv", "out=run")
    assert [file.name for file in folder.iterdir()] == ["bad.csv"]


BAD_PLANS = {
    "file": (("data=csv", "data.path=gone.csv"), r"data\.path=gone\.csv: no such file"),
    "no file": (("data=csv",), r"data\.path is missing"),
    "sites": (("federation.sites=0",), r"federation\.sites=0, expected at least 1"),
    "many": (("federation.sites=2000", "data.limit=50"), r"2000 sites but 50 items"),
    "name": (("federation.sites=[a,'../x']",), r"federation\.sites has '\.\./x', expected"),
    "dots": (("federation.sites=[a,'..']",), r"federation\.sites has '\.\.'"),
    "twice": (("federation.sites=[a,a]",), r"federation\.sites=\['a', 'a'\], expected names"),
    "taken": (("federation.sites=[a,aggregator]",), r"federation\.sites has 'aggregator'"),
    "words": (("federation.sites=many",), r"federation\.sites='many'"),
    "fractions": (
        ("partition=sizes", "federation.sites=3"),
        r"partition\.fractions=\(0\.7, 0\.3\), expected one fraction for each of 3 sites",
    ),
    "sum": (("partition=sizes", "partition.fractions=[0.7,0.4]"), r"sum to 1\.1, expected 1"),
    "split": (("partition.split=[0.8,0.1]",), r"partition\.split"),
    "alpha": (("partition=dirichlet", "partition.alpha=0"), r"alpha is 0\.0, expected .* above 0"),
    "no alpha": (("partition=dirichlet", "partition.alpha=null"), r"partition\.alpha is missing"),
    "rounds": (("federation.rounds=0",), r"federation\.rounds=0, expected at least 1"),
    "no rounds": (("federation.rounds=abc",), r"federation\.rounds='abc'"),
    "half": (("federation.rounds=1.5",), r"federation\.rounds=1\.5"),
    "both": (("federation.steps=5",), r"federation: .* got steps=5, epochs=1"),
    "neither": (("federation.epochs=null",), r"federation: .* got steps=None, epochs=None"),
    "backwards": (("federation.epochs=-1",), r"federation: .* epochs=-1"),
    "match": (("federation.match=size",), r"federation\.match='size'"),
    "extra": (("+federation.patience=3",), r"federation has patience=3"),
    "seed": (("seed=-1",), r"seed=-1, expected at least 0"),
    "threads": (("runtime.threads=0",), r"runtime\.threads=0, expected at least 1"),
    "runtime": (("+runtime.gpus=8",), r"runtime\.gpus=8"),
    "backend": (("runtime.backend=mpi",), r"runtime\.backend='mpi'"),
    "top": (("+verbose=1",), r"the plan has verbose=1"),
    "join": (("+join.lr=1",), r"join\.name='fedavg': .*'lr'"),
    "clip": (("join.max_norm=much",), r"join=.*'max_norm': 'much'"),
    "rule": (("join.name=best",), r"join\.name='best' is unknown, expected one of fedavg"),
    "decay": (("ema=at_sync", "ema.decay=2"), r"decay"),
    "network": (("model.network.dx=7",), r"dx is 7; expected a multiple of num_heads"),
    "unknown": (("+model.network.depth=7",), r"model\.network\.depth=7"),
    "batch": (("model.training.batch_size=0",), r"training\.batch_size=0, expected at least 1"),
    "task": (("model.task=os:nothing",), r"'os:nothing' does not name a class"),
    "limit": (("data.limit=0",), r"data\.limit=0, expected at least 1"),
}


@pytest.mark.parametrize("case", BAD_PLANS)
def test_a_plan_that_cannot_be_used_is_refused(capsys, folder, case) -> None:
    overrides, message = BAD_PLANS[case]
    refused(capsys, message, "simulate", *OVERRIDES, *overrides, "out=run")
    assert not list(folder.iterdir())


def refused(capsys: pytest.CaptureFixture[str], message: str, *arguments: str) -> None:
    """The command fails and says why in one line."""
    capsys.readouterr()
    assert status(*arguments) == 1
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("openfl-flows: error: ")
    assert re.search(message, lines[0]), lines[0]
    assert not printed.out


@pytest.mark.parametrize("override", ["federation.patience=3", "join=best", "nonsense", "a=[1"])
def test_an_override_that_does_not_fit_the_plan_is_named(capfd, folder, override) -> None:
    assert status(*TOY, override, "out=run") != 0
    printed = capfd.readouterr().err
    assert override.partition("=")[2 if "join" in override else 0] in printed
    assert "Traceback" not in printed
    assert not list(folder.iterdir())


def test_a_folder_that_exists_is_not_written_to(capsys, folder) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").touch()
    refused(capsys, "out=.*run exists and is not empty", *TOY, "out=run")
    assert [file.name for file in (folder / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("command", ["sample", "report"])
def test_a_folder_that_is_no_run_is_named(capsys, folder, command) -> None:
    refused(capsys, f"{folder}: .* no run.json", command, str(folder))


def test_unfinished_runs_are_not_compared(capsys, finished, folder) -> None:
    copy = shutil.copytree(finished, folder / "copy")
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record, "status": "running"}))
    refused(capsys, "copy: status is 'running'", "compare", str(finished), str(copy))
    refused(capsys, "gone: .* no run.json", "compare", str(finished), "gone")
    refused(capsys, "no metric 'x'", "compare", str(finished), str(finished), "--metrics", "x")


def test_weights_that_a_run_lacks_are_named(capsys, finished) -> None:
    refused(capsys, "ema.safetensors: no such file", "sample", str(finished), "--weights", "ema")
    assert status("sample", str(finished), "--weights", "best") == 2
    assert "invalid choice: 'best'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num", "0"), "num is 0"),
        (("--steps", "0"), "steps is 0"),
        (("--steps", "99"), "steps is 99"),
        (("--mu", "2", "--strength=-1"), "sampling.strength=-1.0, expected at least 0"),
    ],
)
def test_molecules_that_cannot_be_drawn_are_refused(
    capsys, finished, folder, options, message
) -> None:
    refused(capsys, message, "sample", str(finished), "--out", "drawn", *options)
    assert not list(folder.iterdir())


def test_a_run_without_molecules_draws_none(capsys, folder) -> None:
    assert main([*TOY, "federation.rounds=1", "out=run"]) == 0
    assert [file.name for file in folder.iterdir()] == ["run"]
    refused(capsys, "run is a run of ToyTask, which draws no molecules", "sample", "run")


def test_rejected_molecules_are_counted_and_listed(finished) -> None:
    assert re.search(r"WARNING: 3 samples were rejected", (finished.parent / "log").read_text())
    with (finished / "rejected.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = len(SMALL) * 8 + 2
    assert [int(row["line"]) for row in rows] == [first, first + 1, first + 2]
    assert [row["smiles"] for row in rows] == ["C1CC", "C[Si]", "CCCCCCCCCCC"]
    assert len({row["reason"] for row in rows}) == 3
    assert "3 rejected" in json.loads((finished / "partition.json").read_text())["note"]


def test_a_finished_run_says_what_it_found(finished) -> None:
    printed = (finished.parent / "log").read_text()
    record = json.loads((finished / "run.json").read_text())
    assert f"digest {record['digest']}" in printed
    assert f"report {finished / 'report.html'}" in printed
    for name, value in record["metrics"].items():
        assert f"{name}  {value:.4f}" in printed
    assert "Traceback" not in printed
    assert "registered" not in printed


FILES = {
    "samples.csv", "samples.smi", "samples.sdf", "grid.png", "chain.npz", "chain.gif",
    "filmstrip.png",
}  # fmt: skip


def test_molecules_are_drawn_from_a_finished_run(capsys, finished, folder) -> None:
    assert main(["sample", str(finished), "--num", "16", "--out", "drawn"]) == 0
    assert {file.name for file in (folder / "drawn").iterdir()} == FILES
    with (folder / "drawn" / "samples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    valid = [row["smiles"] for row in rows if row["relaxed_valid"] == "1"]
    assert len(rows) == 16
    assert valid
    assert (folder / "drawn" / "samples.smi").read_text().split() == valid
    assert (folder / "drawn" / "samples.sdf").read_text().count("$$$$") == len(valid)
    assert f"validity  {len(valid) / 16:.4f}" in capsys.readouterr().out


def test_the_seed_decides_what_is_drawn(finished, folder) -> None:
    drawn = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["sample", str(finished), "--num", "8", "--seed", seed, "--out", name]) == 0
        drawn.append((folder / name / "samples.csv").read_text())
    assert drawn[0] == drawn[1] != drawn[2]


def test_guidance_changes_what_is_drawn(finished, folder) -> None:
    options = ("--num", "16", "--steps", "10")
    guide = ("--mu", "5", "--homo", "-9", "--guidance", "gradient", "--strength", "100")
    assert main(["sample", str(finished), *options, "--out", "free"]) == 0
    assert main(["sample", str(finished), *options, *guide, "--out", "guided"]) == 0
    free, guided = ((folder / d / "samples.csv").read_text() for d in ("free", "guided"))
    assert free != guided


def test_a_regressor_that_knows_nothing_guides_nothing_and_says_so(finished, folder) -> None:
    with pytest.warns(
        UserWarning, match="the regressor is no better on clean graphs than on noise"
    ):
        main(
            ["sample", str(finished), "--num", "4", "--steps", "5", "--mu", "5", "--out", "guided"]
        )


def test_runs_are_compared_in_a_table(capsys, finished, folder) -> None:
    copy = shutil.copytree(finished, folder / "other")
    assert main(["compare", str(finished), str(copy), "--out", "table"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\| metric +\| run +\| other", printed), printed
    assert "0.00 %" in printed
    names = {file.name for file in (folder / "table").iterdir()}
    assert names == {"table.md", "table.csv", "table.html"}
    assert (folder / "table" / "table.md").read_text() in printed


def test_a_report_is_written_again(capsys, finished) -> None:
    before = (finished / "report.html").read_bytes()
    (finished / "report.html").unlink()
    assert main(["report", str(finished)]) == 0
    assert (finished / "report.html").read_bytes() == before


def test_a_sweep_gives_every_run_its_own_folder(folder) -> None:
    overrides = ("federation.rounds=1", "seed=1,2", "out=sweep", "-m")
    assert status("simulate", "experiment=toy", "+runtime.quiet=true", *overrides) != 0
    assert status("simulate", "experiment=toy", *overrides) == 0
    runs = sorted((folder / "sweep").glob("*/run.json"))
    assert len(runs) == 2
    records = [json.loads(file.read_text()) for file in runs]
    assert [record["config"]["seed"] for record in records] == [1, 2]
    assert records[0]["digest"] != records[1]["digest"]
    assert [Path(record["config"]["out"]) for record in records] == [f.parent for f in runs]


def test_the_plan_is_shown_and_nothing_is_run(capsys, folder) -> None:
    assert status("simulate", "experiment=toy", "federation.rounds=7", "--cfg", "job") == 0
    printed = capsys.readouterr().out
    assert "rounds: 7" in printed
    assert "ToyTask" in printed
    assert not list(folder.iterdir())


@pytest.mark.parametrize("arguments", [(), ("simulate",), ("centralize",), ("sample",)])
def test_help_is_there_for_every_command(capsys, arguments) -> None:
    assert status(*arguments, "--help") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: openfl-flows")
    assert arguments == () or "OpenFL" not in printed.splitlines()[0]


def test_no_command_and_an_unknown_one_are_bad_usage(capsys) -> None:
    assert status() == 2
    assert status("train") == 2
    assert "invalid choice: 'train'" in capsys.readouterr().err


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = (sys.executable, "-m", "openfl_flows", "--help")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "simulate" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_the_version_is_that_of_the_package(capsys) -> None:
    assert status("--version") == 0
    assert capsys.readouterr().out.strip() == __version__
