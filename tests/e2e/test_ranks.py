"""Several processes at one site, as torchrun starts them: the same model, the same end."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from openfl_flows.data.structures.select import SAMPLE
from openfl_flows.ops.files import load_state
from tests.led_learner import drive
from tests.led_openfold3 import train_in_one_go

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3
DEADLINE = 120.0


def command(*words: object, processes: int = 2, restarts: int = 0) -> list[str]:
    """A command over several processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval", "0.05"]
    sizes = ["--nproc-per-node", processes, "--max-restarts", restarts]
    return [*torchrun, *map(str, [*sizes, "-m", "openfl_flows", "ranks", "--", *words])]


def site(*words: object) -> tuple[object, ...]:
    return sys.executable, "-c", "from tests.led_learner import main; main()", *words


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=DEADLINE
    )


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def processes_below(pid: int) -> dict[int, str]:
    """Descendants of a process with their command lines."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, below = {}, [pid]
    while below:
        parent = below.pop()
        for child in (c for c, p in parents.items() if p == parent):
            below.append(child)
            with contextlib.suppress(OSError):
                found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
    return found


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not reached():
        assert time.monotonic() < end, "what the test waits for did not come"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list[dict[str, object]]:
    return drive(tmp_path_factory.mktemp("alone"), ROUNDS)


def test_two_processes_do_what_one_does(alone, tmp_path):
    """Every round builds the learner anew and restores it, at both."""
    done = run(command(*site(tmp_path / "site", ROUNDS)))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == alone


def test_an_error_of_a_follower_is_told_by_the_leader(tmp_path):
    done = run(command(*site(tmp_path / "site", ROUNDS, "--fail", "1:4:value")))
    assert done.returncode == 1
    assert "openfl-flows: error: process 1: no such crystal\n" in done.stderr
    assert "Descent" not in done.stderr
    # The first round had three steps.
    assert json.loads((tmp_path / "site" / "completed.json").read_text())["round"] == 1


def test_followers_end_with_a_command_that_never_trains():
    done = run(command("echo", "done"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


@pytest.mark.slow
def test_a_second_process_that_trains_is_refused(tmp_path):
    one, two = (" ".join(map(shlex.quote, map(str, site(tmp_path / n, 1)))) for n in "ab")
    done = run(command("sh", "-c", f"{one}; {two}"))
    assert done.returncode == 1
    assert "a second process trains under `openfl-flows ranks`" in done.stderr
    assert "round" in (tmp_path / "a" / "completed.json").read_text()
    assert not (tmp_path / "b" / "completed.json").exists()


@contextlib.contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            below = processes_below(process.pid)
            process.kill()
            for pid in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def roles(torchrun: int) -> dict[str, int]:
    """Process ids of a command over two processes by what they do."""
    found = {"torchrun": torchrun}
    for pid, words in processes_below(torchrun).items():
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
            if "openfl_flows ranks" not in words:
                found |= {"command": pid} if "led_learner" in words else {}
            elif "RANK=0" in variables:
                found["leader"] = pid
            elif "RANK=1" in variables:
                found["follower"] = pid
    return found


@pytest.mark.parametrize(
    "killed",
    [
        "command",
        "follower",
        *(pytest.param(p, marks=pytest.mark.slow) for p in ("leader", "torchrun")),
    ],
)
def test_whichever_process_is_killed_none_is_left_and_the_run_goes_on(killed, alone, tmp_path):
    """With a follower, torchrun itself starts all anew."""
    out, restarts = tmp_path / "site", int(killed == "follower")
    words = command(*site(out, ROUNDS, "--pause", 0.05), restarts=restarts)
    with started(words) as process:
        wait_for((out / "local-00002.pt").exists)
        before = roles(process.pid)
        assert before.keys() == {"torchrun", "leader", "command", "follower"}
        os.kill(before[killed], signal.SIGKILL)
        wait_for(lambda: not any(map(is_running, set(before.values()) - {process.pid})))
        said, errors = process.communicate(timeout=DEADLINE)
    if restarts:
        assert process.returncode == 0, errors
    else:
        assert process.returncode != 0
        assert not said
        done = run(command(*site(out, ROUNDS)))
        assert done.returncode == 0, done.stderr
        said = done.stdout
    # Rounds that were finished before are not trained again: they say the same.
    assert json.loads(said) == alone


def trained_by_two(folder: Path, accumulate: int, out: Path, *more: str) -> dict[str, Any]:
    words = ["-c", "from tests.led_openfold3 import main; main()", folder, accumulate, out, *more]
    out.mkdir()
    done = run(command(sys.executable, *words))
    assert done.returncode == 0, done.stderr[-2000:]
    said: dict[str, Any] = json.loads((out / "said.json").read_text())
    return said


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, 4])
def test_openfold3_is_the_same_over_two_processes(accumulate, tmp_path):
    torch.set_num_threads(1)
    one = train_in_one_go(SAMPLE, accumulate, tmp_path)
    two = trained_by_two(SAMPLE, accumulate, tmp_path / "two")
    a, b = (load_state(out / "model.safetensors") for out in (tmp_path, tmp_path / "two"))
    largest = max(float(abs(a[name] - b[name]).max()) for name in a)
    # A sum of two does not depend on the order; one of four does, in its last bits.
    assert largest <= (1e-5 if accumulate > 2 else 0)
    assert two.keys() == one.keys()
    assert two["models"] == [1, 1], "the two processes have different models"
    for name, (total, count) in one.items():
        assert two[name][1] == count
        assert two[name][0] == pytest.approx(total, rel=1e-4)
    assert one["train_loss"][1] == 3 * accumulate


@pytest.mark.slow
def test_openfold3_over_two_processes_goes_on_after_a_restart(tmp_path):
    said = trained_by_two(SAMPLE, 2, tmp_path / "again", "--restart")
    assert said["models"] == [1, 1]
    trained_by_two(SAMPLE, 2, tmp_path / "once")
    again, once = (load_state(tmp_path / n / "model.safetensors") for n in ("again", "once"))
    assert again == once
