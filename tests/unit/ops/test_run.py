"""The run directory: a round exists once its record does, and none is believed blindly."""

import itertools
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from openfl_flows.ops.files import load_state
from openfl_flows.ops.record import encoded
from openfl_flows.ops.rounds import Checkpoint, RoundRecord, SiteRound
from openfl_flows.ops.run import RunDirectory
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
    weights = {"model.safetensors", "join.safetensors", "ema.safetensors"}
    assert names == {"run.json", "ledger.jsonl", *weights}


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


def play(run: RunDirectory, values: Sequence[float]) -> None:
    """The rounds that are left of a run whose model of round i is measured as ``values[i]``."""
    for round_ in range(run.round + 1, len(values)):
        run.measured({"nll": values[round_ - 1], "mae": 0.0})
        commit(run, round_)
    run.measured({"nll": values[-1], "mae": 0.0})
    run.finish({})


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("min", [5.0, 3.0, 3.0, 4.0], 1),
        ("max", [5.0, 3.0, 6.0, 4.0], 2),
        ("min", [1.0, 3.0, 2.0], 0),
        ("min", [3.0, 2.0, 1.0], 2),
        ("min", [math.nan, 7.0, -math.inf, 8.0], 1),
    ],
)
def test_the_best_model_is_kept_whichever_round_made_it(tmp_path, mode, values, expected) -> None:
    run = RunDirectory.create(
        tmp_path / "run", config={}, initial=checkpoint(0), best=("nll", mode)
    )
    assert run.best_model() is None
    play(run, values)
    again = RunDirectory.open(run.path)
    model = checkpoint(expected).model
    assert again.record["best"] == {
        "metric": "nll",
        "mode": mode,
        "weights": "model",
        "round": expected,
        "value": values[expected],
        "digest": model.digest(),
    }
    assert again.best_model() == load_state(run.path / "best.safetensors") == model


def test_a_metric_that_was_not_measured_makes_no_model_the_best(tmp_path) -> None:
    run = RunDirectory.create(tmp_path, config={}, initial=checkpoint(0), best=("mse", "min"))
    play(run, [1.0, 2.0])
    assert run.record["best"]["round"] is None
    assert not (tmp_path / "best.safetensors").exists()


def test_without_a_metric_no_model_is_the_best(run) -> None:
    play(run, [1.0, 2.0])
    assert "best" not in run.record
    assert resume(run.path).best_model() is None
    assert not (run.path / "best.safetensors").exists()


def test_a_best_model_that_is_not_what_the_record_says_is_refused(tmp_path) -> None:
    run = RunDirectory.create(tmp_path, config={}, initial=checkpoint(0), best=("nll", "min"))
    play(run, [1.0, 2.0, 3.0])
    shutil.copyfile(tmp_path / "model.safetensors", tmp_path / "best.safetensors")
    with pytest.raises(ValueError, match="best.safetensors: digest .* round 0, the best in run"):
        resume(tmp_path)
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(ValueError, match="best.safetensors: no such file"):
        resume(tmp_path)


@pytest.mark.parametrize("values", [[5.0, 3.0, 2.0, 6.0], [5.0, 6.0, 4.0, 3.0]])
def test_the_best_model_survives_a_kill_between_any_two_files(tmp_path, values) -> None:
    expected = checkpoint(values.index(min(values))).model

    def begin(path: Path) -> RunDirectory:
        return RunDirectory.create(path, config={}, initial=checkpoint(0), best=("nll", "min"))

    play(begin(tmp_path / "whole"), values)
    whole = RunDirectory.open(tmp_path / "whole").record
    for count in itertools.count(1):
        path = tmp_path / str(count)
        if not killed_at(count, lambda path=path: play(begin(path), values)):
            break
        if not (path / "run.json").exists():
            continue
        if RunDirectory.open(path).finished:
            assert load_state(path / "best.safetensors") == expected
        resumed = resume(path)
        best = resumed.record["best"]["round"]
        assert resumed.best_model() == (None if best is None else checkpoint(best).model)
        measured = values[: resumed.round + (0 if best is None or best < resumed.round else 1)]
        assert best is None or values[best] == min(measured)
        resumed.go_on()
        play(resumed, values)
        ended = RunDirectory.open(path)
        assert ended.record["best"] == whole["best"]
        assert load_state(path / "best.safetensors") == expected
    assert count > 20


def killed_at(count: int, work: Callable[[], None]) -> bool:
    """Whether a child that does ``work`` was killed when about to put its n-th file in place."""
    child = os.fork()
    if not child:
        replace, left = Path.replace, itertools.count(1)

        def counted(self: Path, target: Path) -> Path:
            if next(left) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = counted  # type: ignore[method-assign,assignment]
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize(("tested", "round_"), [("last", 3), ("best", 1)])
def test_the_record_says_which_model_was_tested(tmp_path, tested, round_) -> None:
    run = RunDirectory.create(tmp_path, config={}, initial=checkpoint(0), best=("nll", "min"))
    play(run, [5.0, 2.0, 3.0, 4.0])
    model = run.model_to_test(tested)
    assert model == checkpoint(round_).model
    run.finish({"test_nll": 1.0}, tested=tested)
    again = RunDirectory.open(tmp_path)
    assert again.record["tested"] == {"round": round_, "digest": model.digest()}
    assert again.tested_digest == model.digest()
    assert load_state(tmp_path / "model.safetensors") == checkpoint(3).model
    # What goes on has tested nothing yet.
    assert "tested" not in resume(tmp_path).record


def test_there_is_no_best_model_to_test_without_its_metric(tmp_path) -> None:
    run = RunDirectory.create(tmp_path, config={}, initial=checkpoint(0), best=("mse", "min"))
    play(run, [1.0, 2.0])
    with pytest.raises(ValueError, match="tested=best, but no model has a finite mse"):
        run.model_to_test("best")
    assert run.model_to_test("last") == checkpoint(1).model


def test_a_run_of_before_it_was_recorded_tested_its_last_model(run) -> None:
    commit(run, 1)
    run.finish({})
    del run.record["tested"]
    assert run.tested_digest == checkpoint(1).model.digest()


def test_a_record_is_the_same_bytes_whether_rounds_were_written_before_or_not(run) -> None:
    for round_ in range(1, 5):
        commit(run, round_)
        run.measured({"nll": math.nan if round_ == 3 else round_ / 3})
    run.write()
    written = (run.path / "run.json").read_bytes()
    assert written == encoded(run.record, [])
    assert repr(json.loads(written)) == repr(json.loads(json.dumps(run.record)))
    assert sum(line.startswith(b'  {"round"') for line in written.splitlines()) == 4
