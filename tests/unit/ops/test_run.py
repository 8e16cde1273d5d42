"""The run directory: a round exists once its record does, and none is believed blindly."""

import json
from pathlib import Path

import numpy as np
import pytest

from openfl_flows.ops.run import Checkpoint, RoundRecord, RunDirectory, SiteRound
from openfl_flows.state import State


def checkpoint(value: float, *, average: bool = True) -> Checkpoint:
    model = State({"w": np.full(3, value, np.float32)})
    momentum = State({"m": np.full(3, -value, np.float32)})
    return Checkpoint(model, momentum, State({"w": model["w"] / 2}) if average else None)


def record(round_: int, made: Checkpoint, peak: int = 10) -> RoundRecord:
    part = SiteRound(
        num_samples=4, num_steps=2, metrics={}, received={}, seconds={}, peak_rss_bytes=peak
    )
    return RoundRecord(
        round=round_,
        digest=made.model.digest(),
        seconds=1.0,
        bytes_up=12,
        bytes_down=12,
        sites={"a": part},
    )


def commit(run: RunDirectory, round_: int) -> None:
    made = checkpoint(round_)
    run.commit(record(round_, made), made)


def resume(path: Path, *, rounds: int = 9, average: bool = True, **config: int) -> RunDirectory:
    return RunDirectory.resume(path, rounds=rounds, average=average, config=config)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", config={"seed": 1}, initial=checkpoint(0))


def test_a_new_run_holds_what_it_was_given(run) -> None:
    again = RunDirectory.open(run.path)
    assert (again.round, again.finished) == (0, False)
    assert again.record["config"] == {"seed": 1}
    assert "openfl" in again.record["versions"]
    made = Checkpoint(again.model(), again.join_state(), again.average())
    assert made == checkpoint(0)


def test_a_committed_round_is_read_back(run) -> None:
    for round_ in (1, 2, 3):
        commit(run, round_)
        again = RunDirectory.open(run.path)
        assert again.round == round_
        made = Checkpoint(again.model(), again.join_state(), again.average())
        assert made == checkpoint(round_)
        assert again.record["digest"] == made.model.digest()


def test_only_two_checkpoints_are_kept(run) -> None:
    for round_ in range(1, 6):
        commit(run, round_)
    kept = sorted(folder.name for folder in (run.path / "checkpoints").iterdir())
    assert kept == ["00004", "00005"]


def test_a_round_without_its_record_does_not_exist(run, monkeypatch) -> None:
    commit(run, 1)
    monkeypatch.setattr(run, "write", lambda: None)
    commit(run, 2)
    again = RunDirectory.open(run.path)
    assert again.round == 1
    assert again.model() == checkpoint(1).model


def test_metrics_belong_to_the_round_whose_model_was_measured(run) -> None:
    run.measured({"nll": 3.0})
    commit(run, 1)
    run.measured({"nll": 2.0})
    run.write()
    again = RunDirectory.open(run.path).record
    assert again["initial"]["metrics"] == {"nll": 3.0}
    assert again["rounds"][0]["metrics"] == {"nll": 2.0}


def test_a_finished_run_has_its_weights_on_top(run) -> None:
    commit(run, 1)
    (run.path / "checkpoints" / "00001" / ".model.safetensors.1.tmp").touch()
    run.finish({"test_nll": 1.5})
    again = RunDirectory.open(run.path)
    assert again.finished
    assert again.record["metrics"] == {"test_nll": 1.5}
    names = {file.name for file in run.path.iterdir() if file.is_file()}
    assert names == {"run.json", "model.safetensors", "join.safetensors", "ema.safetensors"}


def test_the_peak_of_memory_is_the_largest_of_all_processes(run) -> None:
    made = checkpoint(1)
    run.commit(record(1, made, peak=2**50), made)
    assert RunDirectory.open(run.path).record["peak_rss_bytes"] == 2**50


@pytest.mark.parametrize("content", ["a file", "a folder with a file"])
def test_a_folder_that_is_taken_is_refused(tmp_path, content) -> None:
    path = tmp_path / "run"
    if content == "a file":
        path.touch()
    else:
        path.mkdir()
        (path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="exists and is not empty: choose another folder$"):
        RunDirectory.create(path, config={}, initial=checkpoint(0))


def test_a_folder_with_a_run_is_refused_and_resume_is_named(run) -> None:
    with pytest.raises(ValueError, match=f"go on with it by resume={run.path}"):
        RunDirectory.create(run.path, config={}, initial=checkpoint(0))


def test_a_model_of_another_round_is_refused(run) -> None:
    commit(run, 1)
    folder = run.path / "checkpoints"
    (folder / "00000" / "model.safetensors").replace(folder / "00001" / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors: digest .* is not .* round 1"):
        run.model()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(format=2), "expected format 1"),
        (lambda record: record.pop("rounds"), "'rounds' is missing"),
        (lambda record: record.pop("config"), "'config' is missing"),
    ],
)
def test_a_record_of_another_shape_is_refused(run, change, message) -> None:
    file = run.path / "run.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=f"run.json: {message}"):
        RunDirectory.open(run.path)


def test_a_folder_without_a_record_is_no_run(tmp_path) -> None:
    with pytest.raises(ValueError, match="it has no run.json"):
        RunDirectory.open(tmp_path)


def test_resuming_writes_nothing_until_it_goes_on(run) -> None:
    commit(run, 1)
    run.finish({"test_nll": 1.5})
    before = (run.path / "run.json").read_bytes()
    stray = run.path / "checkpoints" / "00001" / ".model.safetensors.1.tmp"
    stray.touch()
    resumed = resume(run.path, seed=1, rounds=9)
    assert (run.path / "run.json").read_bytes() == before
    resumed.go_on()
    again = RunDirectory.open(run.path)
    assert (again.record["status"], again.record["metrics"]) == ("running", {})
    assert again.record["config"] == {"seed": 1}
    assert not stray.exists()


def test_resuming_without_a_plan_keeps_the_recorded_one(run) -> None:
    assert resume(run.path).record["config"] == {"seed": 1}


def test_resuming_below_the_rounds_that_exist_is_refused(run) -> None:
    commit(run, 1)
    commit(run, 2)
    assert resume(run.path, rounds=2).round == 2
    with pytest.raises(ValueError, match="federation.rounds=1, expected at least the 2"):
        resume(run.path, rounds=1)


def test_a_moving_average_must_be_there_if_and_only_if_the_run_keeps_one(run) -> None:
    with pytest.raises(ValueError, match="ema.safetensors: .* keeps no moving average"):
        resume(run.path, average=False)
    (run.path / "checkpoints" / "00000" / "ema.safetensors").unlink()
    with pytest.raises(ValueError, match="ema.safetensors: no such file"):
        resume(run.path)


def test_a_run_of_another_kind_is_refused(run) -> None:
    with pytest.raises(ValueError, match="a federated run, expected a centralized one"):
        RunDirectory.resume(run.path, rounds=9, average=True, config={}, kind="centralized")
