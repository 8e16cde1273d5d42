"""A study's runs: which is made when, and what becomes of those that begin with another's model."""

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openfl_flows.ops.rounds import Checkpoint, RoundRecord
from openfl_flows.ops.run import RunDirectory
from openfl_flows.state import State
from openfl_flows.study import jobs as study_jobs
from openfl_flows.study.jobs import Failure, Job, make_runs
from openfl_flows.study.plan import Cell

NOTHING = State({})


def cell(run: str, command: str = "simulate") -> Cell:
    return Cell(run=run, at={}, command=command, overrides=())


def job(out: Path, run: str, *, start: Job | None = None, **options: Any) -> Job:
    return Job(
        cell=cell(run), seed=1, out=out, overrides=("experiment=toy",), rounds=1, start=start,
        **options,
    )  # fmt: skip


def model(value: float) -> State:
    return State({"w": np.full(3, value, np.float32)})


def make(folder: Path, *, initial: float = 0.0, made: float = 1.0) -> None:
    """A finished run of one round, whose initial model is the best."""
    first = Checkpoint(model(initial), NOTHING, None)
    run = RunDirectory.create(folder, config={}, initial=first, best=("mse", "min"))
    run.measured({"mse": 1.0})
    entry = RoundRecord(
        round=1, digest=model(made).digest(), seconds=0, bytes_up=0, bytes_down=0, sites={}
    )
    run.commit(entry, Checkpoint(model(made), NOTHING, None))
    run.measured({"mse": 2.0})
    run.finish({})
    (folder / "report.html").touch()


class Processes:
    """Stands for the processes of runs: the order in which they start, and which of them fail."""

    def __init__(self, fails: Sequence[str] = (), seconds: Mapping[str, float] | None = None):
        self.fails, self.seconds = fails, seconds or {}
        self.events: list[str] = []
        self.commands: dict[str, Sequence[str]] = {}
        self._lock = threading.Lock()

    def __call__(self, command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        values = dict(word.split("=", 1) for word in command if "=" in word)
        folder = Path(values["out"])
        with self._lock:
            self.events.append(f"{folder.name} starts")
            self.commands[folder.name] = command
        time.sleep(self.seconds.get(folder.name, 0))
        failed = folder.name in self.fails
        if not failed:
            make(folder, initial=1.0 if "initial" in values else 0.0, made=1.0)
        with self._lock:
            self.events.append(f"{folder.name} ends")
        return subprocess.CompletedProcess(command, int(failed))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Processes]:
    def started(**options: Any) -> Processes:
        made = Processes(**options)
        monkeypatch.setattr(study_jobs.subprocess, "run", made)
        return made

    return started


def make_all(jobs: Sequence[Job], at_once: int = 1) -> tuple[tuple[Failure, ...], list[str]]:
    said: list[str] = []
    return make_runs(jobs, at_once=at_once, say=said.append), said


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_a_run_starts_when_the_one_that_it_begins_with_has_ended(
    tmp_path: Path, processes: Callable[..., Processes], at_once: int
) -> None:
    fed = job(tmp_path, "federated")
    tuned, other = job(tmp_path, "tuned", start=fed), job(tmp_path, "other")
    work = processes(seconds={"federated-seed-1": 0.1})
    failures, said = make_all([tuned, fed, other], at_once)
    assert not failures
    assert work.events.index("federated-seed-1 ends") < work.events.index("tuned-seed-1 starts")
    assert f"initial={fed.folder}/model.safetensors" in work.commands["tuned-seed-1"]
    assert {f"{one.name}: finished" for one in (fed, tuned, other)} <= set(said)


def test_it_waits_for_nothing_else(tmp_path: Path, processes: Callable[..., Processes]) -> None:
    fed, slow = job(tmp_path, "federated"), job(tmp_path, "slow")
    tuned = job(tmp_path, "tuned", start=fed)
    work = processes(seconds={"slow-seed-1": 2.0})
    make_all([fed, slow, tuned], at_once=2)
    assert work.events.index("tuned-seed-1 ends") < work.events.index("slow-seed-1 ends")


def test_where_the_start_fails_it_is_not_run_and_the_others_are(
    tmp_path: Path, processes: Callable[..., Processes]
) -> None:
    fed, other = job(tmp_path, "federated"), job(tmp_path, "other")
    tuned = job(tmp_path, "tuned", start=fed)
    work = processes(fails=["federated-seed-1"])
    failures, _ = make_all([fed, tuned, other])
    assert [(f.job.name, f.status) for f in failures] == [
        ("federated-seed-1", 1), ("tuned-seed-1", None)
    ]  # fmt: skip
    assert failures[1].lines == (
        "federated-seed-1, whose model it begins with, is not finished",
    )  # fmt: skip
    assert "tuned-seed-1 starts" not in work.events
    assert other.done()
    # Once the start is there, only what is missing is made.
    work = processes()
    assert make_all([fed, tuned, other])[0] == ()
    assert [e for e in work.events if "starts" in e] == [
        "federated-seed-1 starts", "tuned-seed-1 starts"
    ]  # fmt: skip


def test_a_model_that_is_gone_is_named(tmp_path: Path, processes: Callable[..., Processes]) -> None:
    fed = job(tmp_path, "federated")
    processes()
    make_all([fed])
    fed.model.unlink()
    (failure,), said = make_all([fed, job(tmp_path, "tuned", start=fed)])
    assert failure.lines == (f"{fed.model}, which it begins with, is missing",)
    assert f"tuned-seed-1: not run, {failure.lines[0]}" in said


def test_a_run_that_began_with_another_model_is_not_gone_on_with(
    tmp_path: Path, processes: Callable[..., Processes]
) -> None:
    fed = job(tmp_path, "federated")
    tuned = job(tmp_path, "tuned", start=fed)
    processes()
    assert make_all([fed, tuned])[0] == ()
    shutil.rmtree(fed.folder)
    make(fed.folder, made=7.0)
    (failure,), _ = make_all([fed, tuned])
    assert failure.job is tuned
    assert "began with another model than federated-seed-1 has now" in failure.lines[0]


def test_the_best_model_is_given_on_where_it_is_the_best_that_is_tested(tmp_path: Path) -> None:
    last, best = (job(tmp_path, "a", tested=tested) for tested in ("last", "best"))
    assert (last.model.name, best.model.name) == ("model.safetensors", "best.safetensors")
    command = job(tmp_path / "a b", "tuned", start=job(tmp_path / "a b", "a")).command
    assert command[-2] == f"initial='{tmp_path}/a b/runs/a-seed-1/model.safetensors'"
    assert command[-1].startswith("out=")
