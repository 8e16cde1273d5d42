"""A run that is killed and resumed ends as one that never was, or says why it cannot go on."""

import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from openfl_flows.cli import main
from openfl_flows.ops.files import load_state
from openfl_flows.ops.run import RunDirectory
from tests.processes import Command, run
from tests.tiny import OVERRIDES

TOY = (
    "experiment=toy", "join=diloco", "ema=at_sync", "model.samples=2000", "federation.steps=300",
    "federation.rounds=2", "runtime.quiet=true", "codec=int2",
)  # fmt: skip
DIGRESS = (
    *OVERRIDES, "experiment=demo", "join=diloco", "ema=at_sync", "federation.rounds=2",
    "federation.epochs=5", "runtime.quiet=true",
)  # fmt: skip
FLEETING = (
    "seconds", "join_seconds", "bytes_up", "bytes_down", "peak_rss_bytes", "rss_bytes", "out",
    "resume",
)  # fmt: skip
KILLED = -signal.SIGKILL

Moment = Callable[[Path], bool]
"""Whether a run, given its folder, has come to some moment."""


def essence(value: Any) -> Any:
    """A run's record without what no two runs share."""
    if isinstance(value, dict):
        return {k: essence(v) for k, v in value.items() if k not in FLEETING}
    return [essence(v) for v in value] if isinstance(value, list) else value


def assert_same(run: Path, whole: Path) -> None:
    """The run is finished and nothing that counts tells it from the undisturbed one."""
    record, expected = (json.loads((path / "run.json").read_text()) for path in (run, whole))
    assert record["status"] == "finished"
    assert [r["digest"] for r in record["rounds"]] == [r["digest"] for r in expected["rounds"]]
    assert essence(record) == essence(expected)
    for file in whole.glob("*.safetensors"):
        assert load_state(run / file.name) == load_state(file)
    for file in (whole / "partition.json", *whole.glob("samples/*")):
        assert (run / file.relative_to(whole)).read_bytes() == file.read_bytes()
    assert (run / "report.html").is_file()
    assert not list(run.rglob("*.tmp"))


def rounds(folder: Path) -> int:
    """Whole rounds so far."""
    file = folder / "run.json"
    return len(json.loads(file.read_text())["rounds"]) if file.is_file() else -1


def training(site: str, round_: int) -> Moment:
    def reached(folder: Path) -> bool:
        file = folder / "sites" / site / "progress.json"
        seen = json.loads(file.read_text()) if file.is_file() else {"round": 0}
        return seen["round"] == round_ and seen["step"] < seen["num_steps"]

    return reached


def trained(site: str, round_: int) -> Moment:
    return lambda folder: (folder / "sites" / site / f"local-{round_:05d}.pt").is_file()


def joined(round_: int) -> Moment:
    file = Path("checkpoints") / f"{round_:05d}" / "model.safetensors"
    return lambda folder: (folder / file).is_file()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Undisturbed runs, each made once."""
    made: dict[tuple[str, ...], Path] = {}

    def finished(*arguments: str) -> Path:
        if arguments not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            log = out.parent / "log"
            assert run(*arguments, f"out={out}", log=log) == 0, log.read_text()
            made[arguments] = out
        return made[arguments]

    return finished


def killed_and_resumed(
    command: str, plan: tuple[str, ...], moments: Sequence[Moment], folder: Path
) -> Path:
    """A run that is killed at each of the moments in turn, then left to end."""
    out, log = folder / "run", folder / "log"
    arguments = (*plan, f"out={out}")
    for moment in moments:
        with Command(command, *arguments, log=log) as process:
            assert process.kill_when(lambda moment=moment: moment(out)) == KILLED
        arguments = (f"resume={out}",)
    assert run(command, *arguments, log=log) == 0, log.read_text()
    return out


MOMENTS = {
    "the record is there": lambda out: rounds(out) == 0,
    "the first site trains": training("site-1", 1),
    "between two sites": trained("site-1", 1),
    "a round is being committed": joined(1),
    "the second site trains": training("site-2", 2),
    "all sites have trained": trained("site-2", 2),
    "the last round is done": lambda out: rounds(out) == 2,
}
FEW = ("the first site trains", "a round is being committed", "the last round is done")


@pytest.mark.parametrize(
    ("plan", "names"),
    [
        pytest.param(TOY, FEW, id="toy"),
        pytest.param(TOY, MOMENTS, id="toy-often", marks=pytest.mark.slow),
        pytest.param(DIGRESS, MOMENTS, id="digress", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_again_and_again_ends_as_if_never_killed(tmp_path, whole, plan, names) -> None:
    out = killed_and_resumed("simulate", plan, [MOMENTS[name] for name in names], tmp_path)
    assert_same(out, whole("simulate", *plan))


@pytest.mark.parametrize(
    "plan", [TOY, pytest.param(DIGRESS, marks=pytest.mark.slow)], ids=["toy", "digress"]
)
def test_the_centralized_baseline_resumes_too(tmp_path, whole, plan) -> None:
    plan = tuple(override for override in plan if not override.startswith("ema="))
    moments = (trained("centralized", 1), training("centralized", 2))
    out = killed_and_resumed("centralize", plan, moments, tmp_path)
    assert_same(out, whole("centralize", *plan))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", ["simulate", "centralize"])
def test_a_kill_before_any_file_is_in_place_is_harmless(tmp_path, whole, command) -> None:
    plan = tuple(o for o in TOY if command == "simulate" or not o.startswith("ema="))
    reference, log = whole(command, *plan), tmp_path / "log"
    count, status = 0, KILLED
    while status == KILLED:
        count += 1
        out = tmp_path / str(count)
        status = run(command, *plan, f"out={out}", log=log, die_at=count)
        if rounds(out) >= 0:
            assert run(command, f"resume={out}", log=log) == 0, log.read_text()
            assert_same(out, reference)
        else:
            assert run(command, f"resume={out}", log=log) == 1
        shutil.rmtree(out)
    assert count > 15


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_kill_at_any_time_is_harmless(tmp_path, whole) -> None:
    reference, log = whole("simulate", *TOY), tmp_path / "log"
    kills = 0
    for number in range(20):
        out = tmp_path / str(number)
        with Command("simulate", *TOY, f"out={out}", log=log) as command:
            time.sleep(0.25 * (number + 1))
            kills += command.kill() == KILLED
        if rounds(out) >= 0:
            assert run("simulate", f"resume={out}", log=log) == 0, log.read_text()
            assert_same(out, reference)
    assert kills > 3


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that fails."""
    capsys.readouterr()
    assert main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("openfl-flows: error: ")
    return lines[0]


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def finished(tmp_path: Path, whole: Callable[..., Path]) -> Path:
    """A copy of a finished run that may be damaged."""
    return shutil.copytree(whole("simulate", *TOY), tmp_path / "run")


def test_a_finished_run_goes_on_for_more_rounds(finished, tmp_path, whole) -> None:
    log = tmp_path / "log"
    with Command("simulate", f"resume={finished}", "federation.rounds=4", log=log) as command:
        assert command.kill_when(lambda: rounds(finished) == 3) == KILLED
    # Its old metrics are not those of its new model.
    record = RunDirectory.open(finished).record
    assert record["status"] == "running"
    assert not record["metrics"]
    # The number of rounds is remembered.
    assert run("simulate", f"resume={finished}", log=log) == 0, log.read_text()
    assert_same(finished, whole("simulate", *TOY, "federation.rounds=4"))


def test_resuming_a_finished_run_changes_nothing_that_counts(finished, whole, capsys) -> None:
    assert main(["simulate", *TOY, f"out={finished}", f"resume={finished}"]) == 0
    assert_same(finished, whole("simulate", *TOY))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", "seed=1 contradicts the run in .*, which has seed=0"),
        ("join=fedavg", "join.name=fedavg contradicts the run in .*, which has join.name=diloco"),
        ("federation.sites=3", "federation.sites=3 contradicts .* federation.sites=2"),
        ("federation.steps=301", "federation.steps=301 contradicts .* federation.steps=300"),
        ("ema.decay=0.5", "ema.decay"),
        ("runtime.threads=2", "runtime.threads=2 contradicts .* runtime.threads=1"),
        ("federation.rounds=1", "federation.rounds=1, expected at least the 2 that .* has"),
        ("federation.rounds=x", "federation.rounds='x'"),
        ("no.such=1", "no.such"),
    ],
)
def test_an_override_that_contradicts_the_run_is_refused(
    finished, capsys, override, message
) -> None:
    before = snapshot(finished)
    line = refused(capsys, "simulate", f"resume={finished}", override)
    assert re.search(message, line), line
    assert snapshot(finished) == before


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    position = len(content) // 2
    if file.suffix == ".pt":
        momentum = torch.load(file)["optimizer"]["state"][0]["momentum_buffer"]
        position = content.index(momentum.numpy().tobytes())
    content[position] ^= 0x80
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def delete(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, empty, delete])
@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "checkpoints/00002/model.safetensors",
        "checkpoints/00002/join.safetensors",
        "checkpoints/00002/ema.safetensors",
        "ledger.jsonl",
        "sites/site-2/local-00002.pt",
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_touched(finished, capsys, name, damage) -> None:
    damage(finished / name)
    before = snapshot(finished)
    line = refused(capsys, "simulate", f"resume={finished}", "federation.rounds=3")
    assert Path(name).name in line
    assert str(finished) in line
    assert snapshot(finished) == before


@pytest.mark.parametrize("record", ["[]", "{}", '{"format": 1}', '{"format": 99}', "\xff"])
def test_a_file_that_is_no_run_record_is_refused(tmp_path, capsys, record) -> None:
    (tmp_path / "run.json").write_text(record, encoding="latin-1")
    assert "run.json: " in refused(capsys, "simulate", f"resume={tmp_path}")


def test_a_run_killed_before_its_record_was_there_must_start_again(tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assert run("simulate", *TOY, f"out={out}", log=tmp_path / "log", die_at=3) == KILLED
    assert (out / "checkpoints").is_dir()
    assert "it has no run.json" in refused(capsys, "simulate", f"resume={out}")
    shutil.rmtree(out)


def test_a_run_of_one_command_is_not_resumed_by_the_other(finished, capsys) -> None:
    before = snapshot(finished)
    assert str(finished) in refused(capsys, "centralize", f"resume={finished}")
    assert snapshot(finished) == before
