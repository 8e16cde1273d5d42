"""The ledger: a chain that agrees with the record, whatever is done to the run or to the file."""

import itertools
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.cli import main
from openfl_flows.ops.ledger import FIRST, LEDGER, Ledger, plan_digest, read_ledger
from openfl_flows.ops.ledger_lines import disagreements
from openfl_flows.ops.rounds import Checkpoint, RoundRecord, SiteRound
from openfl_flows.ops.run import RunDirectory
from openfl_flows.state import State

PLAN = {"seed": 1, "join": {"name": "fedavg"}, "federation": {"rounds": 3, "sites": ["a", "b"]}}


def checkpoint(value: float) -> Checkpoint:
    model = State({"w": np.full(3, value, np.float32)})
    return Checkpoint(model, State({"m": -model["w"]}), State({"w": model["w"] / 2}))


def commit(run: RunDirectory, round_: int, **more: object) -> None:
    made = checkpoint(round_)
    sites = {
        name: SiteRound(
            num_samples=samples, num_steps=round_, metrics={}, received={}, seconds={},
            peak_rss_bytes=1, update=f"{round_:064x}",
        )
        for name, samples in (("a", 3), ("b", 1))
    }  # fmt: skip
    record = RoundRecord(
        round=round_, digest=made.model.digest(), seconds=1.0, bytes_up=1, bytes_down=1,
        sites=sites, **more,  # type: ignore[arg-type]
    )  # fmt: skip
    run.commit(record, made)


def create(path: Path, rounds: int = 3, **plan: object) -> RunDirectory:
    run = RunDirectory.create(path, config={**PLAN, **plan}, initial=checkpoint(0))
    for round_ in range(1, rounds + 1):
        commit(run, round_)
    return run


def without_time(path: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (path / LEDGER).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def test_every_round_has_a_line_that_says_who_gave_what(tmp_path) -> None:
    run = create(tmp_path / "run", rounds=2)
    reason = {"c": "not in plan/cols.yaml"}
    commit(run, 3, left_out=reason, refused={"b": "too large"})
    ledger = read_ledger(run.path / LEDGER)
    assert [line.kind for line in ledger.lines] == ["start", "round", "round", "round"]
    assert [body["round"] for body in ledger.rounds] == [1, 2, 3]
    last = ledger.rounds[-1]
    assert last["before"] == checkpoint(2).model.digest()
    assert last["after"] == run.record["digest"]
    assert last["join_state"] == checkpoint(3).join_state.digest()
    assert last["join"] == {"name": "fedavg"}
    assert {name: site["weight"] for name, site in last["sites"].items()} == {"a": 0.75, "b": 0.25}
    assert (last["left_out"], last["refused"]) == (reason, {"b": "too large"})
    assert not list(disagreements(ledger, run.record))
    assert run.record["ledger"] == {"lines": 4, "head": ledger.head}


def test_joins_that_take_all_sites_for_equal_give_equal_weights(tmp_path) -> None:
    run = create(tmp_path / "run", rounds=1, join={"name": "median"})
    sites = read_ledger(run.path / LEDGER).rounds[0]["sites"]
    assert {site["weight"] for site in sites.values()} == {0.5}


def test_a_checkpoint_names_the_line_that_made_it(tmp_path) -> None:
    run = create(tmp_path / "run")
    lines = read_ledger(run.path / LEDGER).lines
    for round_ in (2, 3):
        for name in ("model", "join", "ema"):
            file = run.path / "checkpoints" / f"{round_:05d}" / f"{name}.safetensors"
            with safetensors.safe_open(file, "numpy") as opened:
                described = json.loads(opened.metadata()["state"])
            assert described["ledger"] == lines[round_].hash


def test_the_chain_is_the_same_whenever_it_is_made(tmp_path) -> None:
    runs = [create(tmp_path / name) for name in ("a", "b")]
    assert runs[0].record["ledger"] == runs[1].record["ledger"]
    assert without_time(runs[0].path) == without_time(runs[1].path)
    assert create(tmp_path / "c", seed=2).record["ledger"] != runs[0].record["ledger"]
    assert create(tmp_path / "d", out="elsewhere").record["ledger"] == runs[0].record["ledger"]


def test_the_plan_is_what_decides_bits() -> None:
    plan = {**PLAN, "runtime": {"threads": 1, "quiet": False}, "out": "a", "name": "n"}
    same = {
        **plan, "out": "b", "name": "m", "network": {"agg_addr": "x"}, "resume": "r",
        "runtime": {"threads": 1, "quiet": True},
        "federation": {**PLAN["federation"], "rounds": 9}, "evaluation": {"candidate": "c"},
    }  # fmt: skip
    for group, key in (("data", "path"), ("split", "key_file")):
        plan[group], same[group] = {"name": "x", key: "/a"}, {"name": "x", key: "/b"}
    assert plan_digest(plan) == plan_digest(same)
    for change in ({"seed": 2}, {"runtime": {"threads": 2}}, {"join": {"name": "diloco"}}):
        assert plan_digest({**plan, **change}) != plan_digest(plan)


def test_a_kill_between_any_two_files_leaves_a_ledger_that_agrees(tmp_path) -> None:
    whole = create(tmp_path / "whole")
    for count in itertools.count(1):
        path = tmp_path / str(count)
        if not killed_at(count, lambda path=path: create(path)):
            break
        if not (path / "run.json").exists():
            continue
        record = RunDirectory.open(path).record
        ledger = read_ledger(path / LEDGER)
        assert not list(disagreements(ledger, record))
        # At most the line of the round that was being committed.
        assert len(ledger.lines) - record["ledger"]["lines"] in (0, 1)
        resumed = RunDirectory.resume(path, rounds=3, average=True, config={})
        resumed.go_on()
        assert len(read_ledger(path / LEDGER).lines) == resumed.round + 1
        for round_ in range(resumed.round + 1, 4):
            commit(resumed, round_)
        assert resumed.record["ledger"] == whole.record["ledger"]
        assert without_time(path) == without_time(whole.path)
    assert count > 15


def killed_at(count: int, work: Callable[[], object]) -> bool:
    """Whether a child that does ``work`` was killed when about to put its n-th file in place."""
    child = os.fork()
    if not child:
        replace, left = Path.replace, itertools.count(1)

        def counted(self: Path, target: Path) -> Path:
            if next(left) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(self, target)

        Path.replace = counted  # type: ignore[method-assign,assignment]
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def test_a_run_of_before_there_were_ledgers_begins_one(tmp_path) -> None:
    run = create(tmp_path / "run", rounds=2)
    del run.record["ledger"]
    run.write()
    (run.path / LEDGER).unlink()
    again = RunDirectory.resume(run.path, rounds=3, average=True, config={})
    again.go_on()
    commit(again, 3)
    ledger = read_ledger(run.path / LEDGER)
    assert [line.body["round"] for line in ledger.lines] == [2, 3]
    assert not list(disagreements(ledger, RunDirectory.open(run.path).record))


DAMAGE = {
    "a digit": (lambda lines: [lines[0], lines[1].replace(b'":3,', b'":4,'), *lines[2:]], 3),
    "an end": (lambda lines: [*lines[:3], lines[3][:-2]], 4),
    "the first gone": (lambda lines: lines[1:], 1),
    "one gone": (lambda lines: [lines[0], *lines[2:]], 2),
    "two exchanged": (lambda lines: [lines[0], lines[2], lines[1], lines[3]], 2),
    "one twice": (lambda lines: [*lines[:2], *lines[1:]], 3),
    "a space": (lambda lines: [lines[0].replace(b":", b": ", 1), *lines[1:]], 1),
    "a key twice": (lambda lines: [lines[0].replace(b"{", b'{"after":"",', 1), *lines[1:]], 1),
    "no object": (lambda lines: [*lines[:2], b"[]\n", *lines[2:]], 3),
    "no text": (lambda lines: [*lines[:1], b"\xff\n"], 2),
    "a time": (lambda lines: [re.sub(rb'Z"', b'z"', lines[0]), *lines[1:]], 1),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_the_first_broken_line_is_named(tmp_path, what, capsys) -> None:
    run = create(tmp_path / "run")
    change, number = DAMAGE[what]
    file = run.path / LEDGER
    file.write_bytes(b"".join(change(file.read_bytes().splitlines(keepends=True))))
    with pytest.raises(ValueError, match=rf"ledger.jsonl: line {number}: "):
        read_ledger(file)
    with pytest.raises(ValueError, match=rf"ledger.jsonl: line {number}: "):
        RunDirectory.resume(run.path, rounds=3, average=True, config={})
    assert main(["ledger", "verify", str(run.path)]) == 1
    assert f"line {number}: " in capsys.readouterr().err


def test_lines_that_are_missing_at_the_end_are_missed(tmp_path, capsys) -> None:
    run = create(tmp_path / "run")
    file = run.path / LEDGER
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="3 lines with the head .*, expected 4 with"):
        RunDirectory.resume(run.path, rounds=3, average=True, config={})
    assert main(["ledger", "verify", str(run.path)]) == 1
    assert "3 lines, expected 4 as in run.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["rounds"][1].update(digest="0" * 64), "line 3: after is"),
        (lambda r: r["rounds"][0]["sites"]["a"].update(num_samples=4), "line 2: sites"),
        (lambda r: r["rounds"][0]["sites"].pop("a"), "line 2: sites"),
        (lambda r: r["rounds"].pop(), "line 4: after is"),
        (lambda r: r["initial"].update(digest="0" * 64), "line 1: after is"),
        (lambda r: r["config"].update(seed=5), "line 4: another plan"),
        (lambda r: r["ledger"].update(head="0" * 64), "its head is"),
        (lambda r: r.pop("ledger"), "before there were ledgers"),
    ],
)
def test_a_record_that_says_another_thing_is_found(tmp_path, capsys, change, message) -> None:
    run = create(tmp_path / "run")
    change(run.record)
    (run.path / "run.json").write_text(json.dumps(run.record))
    assert main(["ledger", "verify", str(run.path)]) == 1
    assert message in capsys.readouterr().err


def test_a_chain_made_anew_is_told_by_a_head_that_was_kept(tmp_path, capsys) -> None:
    """Whoever owns the folder can write another history; who kept a head notices."""
    kept = create(tmp_path / "true", rounds=2).record["ledger"]["head"]
    grown = create(tmp_path / "grown", rounds=3)
    forged = create(tmp_path / "forged", rounds=3, seed=2)
    for run, status in ((grown, 0), (forged, 1)):
        assert main(["ledger", "verify", str(run.path)]) == 0
        assert main(["ledger", "verify", str(run.path), "--head", kept]) == status
    assert f"no line has the hash {kept}" in capsys.readouterr().err


def test_a_ledger_is_shown(tmp_path, capsys) -> None:
    run = create(tmp_path / "run", rounds=0)
    commit(run, 1, left_out={"c": "not in plan/cols.yaml"})
    assert main(["ledger", "show", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^20\d\d-.*Z  round +1  model [0-9a-f]{12}  line [0-9a-f]{64}$", out, re.M)
    assert re.search(r"a +3 samples, weight 0.7500, sent 0000", out)
    assert re.search(r"c +left out: not in plan/cols.yaml", out)


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3), max_size=4))
def test_kinds_that_are_not_known_are_chained_and_let_pass(tmp_path_factory, notes) -> None:
    own = {"format", "kind", "previous", "time"}
    ledger = Ledger().append("start", {"round": 0, "after": "x"})
    heads = {FIRST, ledger.head}
    for note in notes:
        body = {key: value for key, value in note.items() if key not in own}
        ledger = ledger.append("note", body)
        assert ledger.head not in heads
        heads.add(ledger.head)
    ledger = ledger.append("round", {"round": 1, "before": "x", "after": "y"})
    file = tmp_path_factory.mktemp("notes") / LEDGER
    ledger.write(file)
    assert read_ledger(file) == ledger
