"""An operator sees what a round waits for, in the status file and in the log."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from openfl_flows.taskrunner.status import CHOICES, Status, Upload

TASKS = ("validate", "train")


def begun(folder: Path, patience: float = 3600.0) -> Status:
    status = Status(folder / "status.json", sites=["b", "a"], rounds=3, patience_seconds=patience)
    status.begin(2, TASKS, [1.5])
    return status


def written(folder: Path) -> dict:
    return json.loads((folder / "status.json").read_text())


def wait(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < end, "what the test waits for did not come"
        time.sleep(0.01)


def test_the_file_says_who_has_done_what(tmp_path: Path) -> None:
    before = time.time()
    status = begun(tmp_path)
    status.heard("a", down=10)
    status.heard("a", up=3)
    status.done("a", "validate")
    status.refused("b", "update of 'b' refused: too large")
    status.write()
    found = written(tmp_path)
    assert (found["round"], found["rounds"], found["state"]) == (2, 3, "waiting")
    assert found["seconds"] == [1.5]
    assert before <= found["since"] <= found["sites"]["a"].pop("last_heard") <= time.time()
    assert list(found["sites"]) == ["a", "b"]
    assert found["sites"]["a"] == {
        "round": 2, "tasks": ["validate"], "bytes_up": 3, "bytes_down": 10, "refused": None,
        "sending": None,
    }  # fmt: skip
    assert found["sites"]["b"]["last_heard"] is None
    assert found["sites"]["b"]["refused"] == "update of 'b' refused: too large"
    status.done("b", "validate")
    status.begin(3, TASKS, [1.5, 2.5])
    status.write()
    sites = written(tmp_path)["sites"]
    assert [site["tasks"] for site in sites.values()] == [[], []]
    assert [site["round"] for site in sites.values()] == [2, 2]
    assert sites["b"]["refused"] is None


def test_the_file_follows_by_itself_and_is_final_at_the_end(tmp_path: Path) -> None:
    status = begun(tmp_path)
    status.done("a", "train")
    wait(lambda: written(tmp_path)["sites"]["a"]["tasks"] == ["train"])
    # The round after the last one measures; it is not shown as a fourth of three.
    status.begin(4, TASKS, [])
    status.write("finished")
    assert (written(tmp_path)["round"], written(tmp_path)["state"]) == (3, "finished")


def test_silence_of_a_site_with_work_left_is_told_again_and_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        status = begun(tmp_path, patience=0.2)
        for task in TASKS:
            status.done("a", task)
        status.heard("b")
        status.done("b", "validate")
        wait(lambda: caplog.text.count("site 'b', which was last heard 20") >= 2)
        status.write("finished")
    assert "left to do: train. Choices: " in caplog.text
    assert CHOICES in caplog.text
    assert "Round 2 of 3 has waited since 20" in caplog.text
    assert "site 'a'" not in caplog.text


def test_a_site_that_never_came_is_told_as_such_and_one_that_calls_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        status = begun(tmp_path, patience=0.4)

        def told() -> bool:
            status.heard("a")
            return "'b', which has not connected since the aggregator started" in caplog.text

        wait(told)
        status.write("finished")
    assert "left to do: validate, train" in caplog.text
    assert "site 'a'" not in caplog.text


def test_the_file_says_what_is_on_its_way(tmp_path: Path) -> None:
    status, upload = begun(tmp_path), Upload(of=100)
    status.sending("a", upload, 30)
    status.sending("a", upload, 4)
    status.write()
    sending = written(tmp_path)["sites"]["a"]["sending"]
    assert (sending["bytes"], sending["of"]) == (34, 100)
    assert sending["since"] <= sending["moved"] <= written(tmp_path)["sites"]["a"]["last_heard"]
    # The site lost its connection, and the aggregator learns of it after the site has come again.
    again = Upload(of=100, since=upload.since + 1)
    status.sending("a", again, 5)
    status.sending("a", upload, 1)
    status.sent("a", upload)
    status.write()
    assert written(tmp_path)["sites"]["a"]["sending"]["bytes"] == 5
    status.sent("a", again)
    status.write("finished")
    assert written(tmp_path)["sites"]["a"]["sending"] is None


def test_an_upload_that_has_stopped_is_told_with_its_site_and_bytes_until_it_moves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    status = Status(
        tmp_path / "status.json",
        sites=["a", "b"],
        rounds=3,
        patience_seconds=3600,
        stall_seconds=0.2,
    )
    moving, stopped = Upload(of=10_000_000), Upload(of=276_000_000)
    status.sending("a", stopped, 34_000_000)

    def told() -> bool:
        status.sending("b", moving, 1000)
        return len(caplog.messages) == 2

    wait(told)
    for message in caplog.messages:
        assert "The upload of 'a' has stopped: 34.0 of 276.0 MB have come since" in message
    status.sent("a", stopped)
    for _ in range(20):
        told()
        time.sleep(0.02)
    assert len(caplog.messages) == 2
    status.write("finished")
