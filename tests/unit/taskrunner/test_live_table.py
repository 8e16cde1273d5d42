"""What the table of a running federation says."""

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from openfl_flows.taskrunner.live_table import LiveTable, rows
from openfl_flows.taskrunner.parties import Party

RUNNING = {"aggregator": None, "site-1": None, "site-2": None}


def parties(folder: Path) -> tuple[Party, ...]:
    return tuple(Party(name=name, folder=folder / name, arguments=()) for name in RUNNING)


def write_status(folder: Path, **status: Any) -> dict[str, Any]:
    sites = {name: {"last_heard": None, "refused": None} for name in ("site-1", "site-2")}
    document = {"round": 2, "rounds": 3, "state": "waiting", "seconds": [1.25], "sites": sites}
    document |= status
    file = folder / "aggregator" / "local_state" / "status.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    return document


def write_progress(folder: Path, site: str, round_: int, step: int) -> None:
    file = folder / site / "local_state" / site / "progress.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"round": round_, "step": step, "num_steps": 10, "loss": 0.5}))


def test_rows_say_what_every_party_does(tmp_path: Path):
    aggregator, *sites = parties(tmp_path)
    table = rows(aggregator, tuple(sites), {}, RUNNING)
    assert [row[1] for row in table] == ["starts", "starts", "starts"]

    write_progress(tmp_path, "site-1", 2, 7)
    write_progress(tmp_path, "site-2", 2, 10)
    heard = {"last_heard": 1.0, "refused": None, "bytes_up": 2_000_000, "bytes_down": 500_000}
    status = write_status(tmp_path, sites={"site-1": heard, "site-2": heard})
    table = rows(aggregator, tuple(sites), status, RUNNING)
    assert table == [
        ("aggregator", "waiting, last round 1.2 s", "2/3", "", "", ""),
        ("site-1", "trains 7/10", "2", "0.5", "2.0 MB", "0.5 MB"),
        ("site-2", "waits", "2", "0.5", "2.0 MB", "0.5 MB"),
    ]

    sending = {"bytes": 34_000_000, "of": 276_000_000}
    status["sites"]["site-2"] = {**heard, "sending": sending}
    table = rows(aggregator, tuple(sites), status, RUNNING)
    assert table[2][1] == "sends, 34.0 MB of 276.0 MB"

    status["sites"]["site-2"]["refused"] = "not finite"
    ended = {"aggregator": 0, "site-1": -9, "site-2": None}
    table = rows(aggregator, tuple(sites), status, ended)
    assert [row[1] for row in table] == ["done", "dead (SIGKILL)", "refused: not finite"]


def test_without_a_terminal_a_line_per_round_and_the_last_words_of_the_dead(tmp_path: Path):
    write_status(tmp_path)
    text = io.StringIO()
    aggregator, *sites = parties(tmp_path)
    sites[1].log.parent.mkdir(parents=True)
    sites[1].log.write_text("[red]first[/]\nlast words\n")
    try:
        console = Console(file=text, width=200)
        with LiveTable((aggregator, *sites), console=console) as table:
            table.show(RUNNING)
            assert text.getvalue() == ""
            write_status(tmp_path, seconds=[1.25, 3.0])
            table.show(RUNNING)
            table.show({**RUNNING, "site-2": 1})
            raise ValueError("site-2 is dead")
    except ValueError:
        pass
    said = text.getvalue().splitlines()
    assert said[0] == "round 2 of 3: 3.0 s"
    assert str(sites[1].log) in said[1]
    assert said[2:] == ["[red]first[/]", "last words"]
