"""What status and dashboard show of a federation: in every state that it may be in."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from openfl_flows.cli import main
from openfl_flows.report.dashboard import write_dashboard
from openfl_flows.report.monitoring import read_federation, seconds_left

STATUS = {
    "round": 3, "rounds": 9, "state": "waiting", "since": 1000.0, "seconds": [26.5, 26.5],
    "sites": {
        "site-a": {"last_heard": 1e9, "refused": None, "sending": {"bytes": 2**20, "of": 2**21}},
        "site-b": {"last_heard": None, "refused": None, "sending": None},
    },
    "readiness": {"sites": {"site-b": {"ready": False, "lacks": [
        {"probe": "disk", "found": "1 GiB free", "remedy": "free 5 GiB"},
    ]}}},
}  # fmt: skip


@pytest.fixture
def workspace(make_run: Callable[..., Path], tmp_path: Path) -> Path:
    """An aggregator's workspace of a run that is under way; site-a is slow."""
    local = tmp_path / "federation" / "aggregator" / "local_state"
    run = make_run("federation/aggregator/local_state/run", finish=False)
    record = json.loads((run / "run.json").read_text())
    for entry in record["rounds"]:
        entry |= {"rss_bytes": 10**8, "model_bytes": 10**6}
        for site, part in entry["sites"].items():
            part["seconds"] |= {"upload": 60.0 if site == "site-a" else 2.0, "absent": 0.0}
            part |= {"bytes_up": 6_000_000, "rss_bytes": 10**8}
    (run / "run.json").write_text(json.dumps(record))
    (local / "status.json").write_text(json.dumps(STATUS))
    return local.parent


@pytest.mark.parametrize("place", ["..", ".", "local_state/run"])
def test_a_rehearsal_a_workspace_and_a_run_show_the_same(workspace: Path, place: str) -> None:
    watched = read_federation(workspace / place)
    assert watched.document == read_federation(workspace).document
    assert (len(watched.rounds), watched.document["rounds"]) == (2, 9)
    assert watched.document["costs"][0]["site"] == "site-a"


def test_what_the_aggregator_found_is_shown_as_long_as_it_is_of_these_rounds(
    workspace: Path,
) -> None:
    found = read_federation(workspace).document
    file = workspace / "local_state" / "status.json"
    known = {**found, "seconds": [26.5, 26.5], "costs": []}
    file.write_text(json.dumps(known))
    assert read_federation(workspace).document["costs"] == []
    file.write_text(json.dumps({**known, "seconds": [26.5]}))
    assert read_federation(workspace).document["costs"] == found["costs"]


def test_what_is_printed(
    workspace: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["status", str(workspace)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "demo: waiting, 2 of 9 rounds, last round 26.5 s",
        "! No attestation. Nobody proved what ran at the aggregator",
        "sends, 1.0 MiB of 2.0 MiB",
        "not heard yet",
        "site-a cost the federation 58 s × 2 rounds = 2 min, cause: upload 0.1 MB/s against a "
        "median of 3",
        "! site-a, round 1: upload 60 s, the others' median is 2 s",
        "! site-b is not ready: disk; 1 GiB free; free 5 GiB",
    ):
        assert words in shown


def test_json_is_one_document(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(workspace), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["warning"].startswith("No attestation.")
    assert found["name"] == "demo"
    assert found["readiness"] == STATUS["readiness"]
    assert {"expected", "spans", "costs", "alerts", "memory", "throughput"} <= found.keys()


def test_the_page_has_every_part_and_loads_itself_again_until_the_end(
    workspace: Path, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    write_dashboard(read_federation(workspace), page, seconds=2)
    text = page.read_text()
    assert '<meta http-equiv="refresh" content="2">' in text
    assert "Nobody proved what ran at the aggregator" in text
    headings = (
        "Where the time goes",
        "Sites",
        "What slow sites cost",
        "Alerts",
        "Losses",
        "Memory",
    )
    assert all(f"<h2>{heading}</h2>" in text for heading in headings)
    assert "script" not in text.replace("scripts_of", "")
    write_dashboard(read_federation(make_run("done")), page, seconds=2)
    assert 'http-equiv="refresh"' not in page.read_text()


def test_before_the_first_round_there_is_a_status_only(workspace: Path, tmp_path: Path) -> None:
    local = workspace / "local_state"
    (local / "run").rename(tmp_path / "away")
    watched = read_federation(workspace)
    assert (watched.rounds, watched.document["state"]) == ((), "waiting")
    write_dashboard(watched, tmp_path / "page.html")
    assert "site-b is not ready" in (tmp_path / "page.html").read_text()


def test_a_simulation_has_no_costs(make_run: Callable[..., Path]) -> None:
    watched = read_federation(make_run())
    assert watched.finished
    assert watched.document["costs"] == []


def test_other_folders_are_refused_in_one_line(tmp_path: Path, capsys) -> None:
    assert main(["status", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no run.json and no status.json, expected the aggregator's workspace" in error
    (tmp_path / "local_state").mkdir()
    (tmp_path / "local_state" / "status.json").write_text("{")
    with pytest.raises(ValueError, match="status.json: not readable as JSON"):
        read_federation(tmp_path)


def test_the_round_at_hand_is_part_of_what_is_left() -> None:
    document = {"since": 100.0, "expected": {"left_seconds": 50.0, "round_seconds": 10.0}}
    assert seconds_left(document, 104.0) == 46.0
    assert seconds_left(document, 500.0) == 40.0
    assert seconds_left({}) is None
