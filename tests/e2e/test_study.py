"""A study: refused before it starts, resumed after a kill, and what fails stops nothing else."""

import csv
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from openfl_flows.cli import main
from openfl_flows.cli.study import plan_study
from openfl_flows.ops.run import RunDirectory
from tests.processes import Command, run
from tests.tiny import OVERRIDES

TOY = ("study", "experiment=toy", "study.seeds=[1]", "federation.rounds=2")
LONG = (*TOY, "model.samples=2000", "federation.steps=400")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["openfl-flows"])
    return tmp_path


def digest(folder: Path) -> str:
    record = RunDirectory.open(folder).record
    assert record["status"] == "finished"
    return str(record["digest"])


def rounds(folder: Path) -> int:
    file = folder / "run.json"
    return len(json.loads(file.read_text())["rounds"]) if file.is_file() else -1


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("study.compare=[{run: local, reference: centralized}]",), "'local', expected one of"),
        (("+study.runs.x.command=simulate", "+study.runs.x.overrides=['no.key=1']"), "cell x: "),
        (("+study.runs.x.command=train",), "command=train, expected one of"),
        (("federation.rounds=0",), "federation.rounds=0"),
        (("seed=3",), "study.seeds"),
        (("study.speed=3",), "speed"),
        (("site=site-1",), "cell federated: site=site-1 is of the command local"),
        (("+study.runs.x.command=local",), "cell x: site=null, expected the site"),
        (("+study.runs.x={command: simulate, start: y}",), "study.runs.x.start names 'y'"),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(overrides, message, folder, capsys) -> None:
    assert main((*TOY, "out=out", *overrides)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(folder.iterdir())


def test_another_folder_is_left_alone(folder, capsys) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("mine")
    assert main((*TOY, "out=out")) == 1
    assert "out exists and is no study's" in capsys.readouterr().err


def test_every_run_keeps_the_users_overrides_and_a_path_with_a_space() -> None:
    words = ("experiment=toy", "join=diloco", "study.seeds=[3,4]", "out=a b")
    _, jobs = plan_study(words)
    assert [job.name for job in jobs] == [
        "federated-seed-3", "federated-seed-4", "centralized-seed-3", "centralized-seed-4",
    ]  # fmt: skip
    command = jobs[0].command
    assert command[:4] == ("simulate", "experiment=toy", "join=diloco", "seed=3")
    assert command[4] == f"out='{Path('a b').absolute()}/runs/federated-seed-3'"


ALONE = (*TOY, "~study.runs.centralized", "study.compare=[]")
TUNED = (
    *ALONE,
    "+study.runs.tuned={command: local, start: federated, grid: {site: {"
    'site-1: ["site=site-1"], site-2: ["site=site-2"]}}}',
)


def test_every_site_tunes_the_federations_model_of_the_same_seed(folder, capsys) -> None:
    words = (*TUNED, "study.seeds=[3,4]", "federation.tested=best", "out=out")
    assert main((*words, "--dry-run")) == 0
    commands = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2] for line in commands] == [
        "federated-seed-3", "federated-seed-4", "tuned-site-1-seed-3", "tuned-site-1-seed-4",
        "tuned-site-2-seed-3", "tuned-site-2-seed-4",
    ]  # fmt: skip
    for line in commands[2:]:
        best = folder / "out" / "runs" / f"federated-seed-{line[-1]}" / "best.safetensors"
        assert f" initial={best} " in line
        assert line.startswith("openfl-flows local experiment=toy ")
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_tuning_is_made_after_the_federation_and_stays_with_its_model(folder, capsys) -> None:
    tuned = (*TUNED[1:], "study.runs.tuned.grid.site.site-2=null")
    assert main(("study", *tuned, "study.jobs=2", "out=out")) == 0
    runs = folder / "out" / "runs"
    record = RunDirectory.open(runs / "tuned-site-1-seed-1").record
    assert record["kind"] == "local"
    assert record["initial"]["digest"] == digest(runs / "federated-seed-1")
    assert "tuned-site-1" in (folder / "out" / "report.html").read_text()
    # Moved as a whole it is the same study, which is done.
    (folder / "out").rename(folder / "moved")
    capsys.readouterr()
    assert main(("study", *tuned, "out=moved", "--report")) == 0
    # A federation that goes on has another model, with which they did not begin.
    plan_study((*tuned, "out=moved"))
    assert main(("study", *tuned, "federation.rounds=3", "out=moved")) == 1
    error = capsys.readouterr().err
    assert "tuned-site-1-seed-1 was not run: " in error
    assert "began with another model than federated-seed-1 has now" in error
    assert digest(folder / "moved" / "runs" / "federated-seed-1")
    # Nor may they begin with another run's.
    changed = (*tuned, "+study.runs.other.command=simulate", "study.runs.tuned.start=other")
    with pytest.raises(
        ValueError, match=r"tuned-site-1-seed-1 was run with initial=runs/federated"
    ):
        plan_study((*changed, "out=moved", "federation.rounds=3"))


@pytest.mark.slow
def test_a_study_of_before_a_key_was_in_the_plan_goes_on(folder) -> None:
    assert main((*ALONE, "out=out")) == 0
    file = folder / "out" / "runs" / "federated-seed-1" / "run.json"
    record = json.loads(file.read_text())
    del record["config"]["federation"]["tested"], record["config"]["site"], record["tested"]
    file.write_text(json.dumps(record))
    _, (job,) = plan_study((*ALONE[1:], "out=out"))
    assert job.done()
    with pytest.raises(ValueError, match="was run with federation.tested=last, but the plan has"):
        plan_study((*ALONE[1:], "federation.tested=best", "out=out"))


def test_killed_it_goes_on_waits_for_what_still_works_and_ends_the_same(folder) -> None:
    """The study dies, its run lives on; then both die in the middle of the next run."""
    out, log = folder / "out", folder / "log"
    study_process_dies(
        Command(*LONG, f"out={out}", log=log),
        lambda: rounds(out / "runs" / "federated-seed-1") >= 0,
    )
    again = Command(*LONG, f"out={out}", log=log)
    again.kill_when(lambda: rounds(out / "runs" / "centralized-seed-1") >= 0)
    assert run(*LONG, f"out={out}", log=log) == 0
    said = lines(log)
    assert "federated-seed-1: another process is at work on it, waits" in said
    assert "federated-seed-1: done before" in said
    assert "centralized-seed-1: goes on" in said
    for command, name in (("simulate", "federated-seed-1"), ("centralize", "centralized-seed-1")):
        whole = folder / name
        assert run(command, *LONG[1:], "seed=1", f"out={whole}", log=folder / "whole") == 0
        assert digest(out / "runs" / name) == digest(whole)
    assert (out / "report.html").is_file()
    # Once more: all is done, nothing runs, and the report is written again.
    (out / "report.html").unlink()
    assert run(*LONG, f"out={out}", log=folder / "last") == 0
    assert {"federated-seed-1: done before", "centralized-seed-1: done before"} <= set(
        lines(folder / "last")
    )
    assert (out / "report.html").is_file()
    # Another plan in the same folder is refused by the key in which it differs.
    changed = (*LONG, "federation.steps=401", f"out={out}")
    assert run(*changed, log=folder / "refused") == 1
    expected = "was run with federation.steps=400, but the plan has federation.steps=401"
    assert expected in (folder / "refused").read_text()


def study_process_dies(study: Command, reached) -> None:
    """Kill the study alone: the process of its run goes on."""
    end = time.monotonic() + 120
    while not reached():
        assert study.running
        assert time.monotonic() < end
        time.sleep(0.01)
    study.send(signal.SIGKILL)
    assert study.wait() == -signal.SIGKILL


def test_a_run_that_fails_stops_no_other_and_is_shown_with_its_log(folder, capsys) -> None:
    broken = (
        "+study.runs.broken.command=simulate",
        '+study.runs.broken.overrides=["data=csv","data.path=nowhere.csv","model=digress_small",'
        '"partition=iid","federation.steps=1"]',
    )
    assert main((*TOY, *broken, "study.jobs=3", "out=out")) == 1
    captured = capsys.readouterr()
    assert "broken-seed-1 failed with status 1" in captured.err
    assert "nowhere.csv: no such file" in captured.err
    assert "1 of 3 runs failed" in captured.err
    assert "| federated | 1 |" in captured.out
    assert digest(folder / "out" / "runs" / "centralized-seed-1")
    page = (folder / "out" / "report.html").read_text()
    assert "2 of 3 runs finished" in page
    assert "not begun" in page


def test_the_papers_study_in_miniature(folder) -> None:
    words = (
        *OVERRIDES, "experiment=digress_qm9_paper_quick", "data=sample", "data.limit=200",
        "study.seeds=[1]", "federation.rounds=2", "model.training.test_passes=1",
        "model.sampling.steps=null",
    )  # fmt: skip
    assert main(("study", *words, "out=out")) == 0
    table = (folder / "out" / "table.md").read_text()
    assert "| federated, published |  | 70.58 |" in table
    assert "within 3.06 %" in table
    with (folder / "out" / "table.csv").open() as file:
        cells = [line for line in csv.DictReader(file) if line["kind"] == "cell"]
    found = {(line["cell"], line["metric"]): line for line in cells}
    assert float(found["centralized", "test_nll"]["published"]) == 68.45
    assert float(found["federated", "test_nll"]["mean"]) > 0
    page = (folder / "out" / "report.html").read_text()
    assert "Skew of the sites’ data" in page
    assert page.count("<svg") >= 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_papers_study_in_minutes(folder, shared_data) -> None:
    out, log = folder / "out", folder / "log"
    words = (
        "study", "experiment=digress_qm9_paper_quick", f"out={out}",
        f"data.path={shared_data / 'qm9' / 'qm9.csv.gz'}", f"data.folder={folder / 'cache'}",
    )  # fmt: skip
    study = Command(*words, log=log)
    study.kill_when(lambda: rounds(out / "runs" / "federated-seed-1") >= 1)
    assert main(words) == 0
    with (out / "table.csv").open() as file:
        found = list(csv.DictReader(file))
    changes = {line["metric"]: line for line in found if line["kind"] == "difference"}
    assert changes.keys() >= {"test_nll", "test_elbo", "test_mae", "validity", "uniqueness"}
    assert all(line["paired"] == "True" and line["change low"] for line in changes.values())
    means = {line["metric"]: float(line["mean"]) for line in found if line["cell"] == "federated"
             and line["kind"] == "cell"}  # fmt: skip
    # An untrained model is at 130 nats, and draws nothing that is valid.
    assert means["test_nll"] < 90
    assert means["validity"] > 0.3
    shutil.rmtree(folder / "cache")
