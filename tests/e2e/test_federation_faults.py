"""A federation whose parties are killed ends as one that nobody disturbed, to the last bit."""

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openfl_flows.ops.files import load_state
from tests.e2e.test_resume import essence
from tests.fx_processes import TOY, Party, aggregator, site

SITES = ("site-1", "site-2")
PARTIES = ("aggregator", *SITES)
KILLED = -signal.SIGKILL
LONG = (*TOY, "model.samples=2000", "federation.steps=300")
PLANS = {"fedavg": (*LONG, "join=fedavg"), "diloco-ema": (*LONG, "ema=at_sync")}
# 80 MB in two buckets: an upload takes a moment.
LARGE = (*TOY, "model.padding=20000000", "federation.rounds=2")

Moment = Callable[[Path], bool]
"""Whether a federation, given its folder, has come to some moment or is beyond it."""


def start(out: Path, name: str, *, die_at: int | None = None) -> Party:
    if name == "aggregator":
        return aggregator(out, die_at=die_at)
    return site(out, name, die_at=die_at)


@contextlib.contextmanager
def running(out: Path, **die_at: int) -> Iterator[dict[str, Party]]:
    """All parties by name; a test may put a restarted one in the place of one that died."""
    parties: dict[str, Party] = {}
    try:
        for name in PARTIES:
            parties[name] = start(out, name, die_at=die_at.get(name))
        yield parties
    finally:
        for party in parties.values():
            party.kill()


def restart(out: Path, parties: dict[str, Party], *names: str) -> None:
    for name in names:
        parties[name] = start(out, name)


def log(out: Path, name: str) -> str:
    """What a party said, without the line breaks of its terminal."""
    return " ".join((out / name / "logs" / "fx.log").read_text().split())


def assert_ends(out: Path, parties: dict[str, Party], whole: Path) -> None:
    """The sites end, and nothing that counts tells the run from the undisturbed one."""
    for name in SITES:
        assert parties[name].wait() == 0, log(out, name)
    assert_same(out, whole)


def assert_same(out: Path, whole: Path) -> None:
    record, expected = (
        json.loads((path / "run" / "run.json").read_text()) for path in (out, whole)
    )
    assert record["status"] == "finished"
    assert [r["digest"] for r in record["rounds"]] == [r["digest"] for r in expected["rounds"]]
    assert essence(record) == essence(expected)
    states = [file.relative_to(whole) for file in (whole / "run").rglob("*.safetensors")]
    assert sorted(states) == sorted(
        file.relative_to(out) for file in (out / "run").rglob("*.safetensors")
    )
    for file in states:
        assert load_state(out / file) == load_state(whole / file)
    for file in ("best.pbuf", "last.pbuf"):
        path = Path("aggregator", "save", file)
        assert (out / path).read_bytes() == (whole / path).read_bytes()


@pytest.fixture(scope="module")
def whole(
    prepared: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Undisturbed federations, each run once, and by itself: all runs of a plan share a port."""
    made: dict[tuple[str, ...], Path] = {}

    def finished(*plan: str) -> Path:
        if plan not in made:
            out = tmp_path_factory.mktemp("whole") / "parties"
            shutil.copytree(prepared(*plan), out, symlinks=True)
            with running(out) as parties:
                assert [party.wait() for party in parties.values()] == [0, 0, 0]
            made[plan] = out
        return made[plan]

    return finished


def read(file: Path) -> dict:
    return json.loads(file.read_text()) if file.is_file() else {}


def rounds(out: Path) -> int:
    """Whole rounds so far."""
    return len(read(out / "run" / "run.json").get("rounds", ()))


def waiting(out: Path) -> bool:
    return (out / "aggregator" / "local_state" / "status.json").is_file()


def local(out: Path, name: str) -> Path:
    return out / name / "local_state" / name


def training(name: str, round_: int) -> Moment:
    return lambda out: read(local(out, name) / "progress.json").get("round", 0) >= round_


def trained(name: str, round_: int) -> Moment:
    return lambda out: read(local(out, name) / "completed.json").get("round", 0) >= round_


def received(name: str, round_: int, task: str = "train") -> Moment:
    inbox = Path("aggregator", "local_state", "inbox", f"{round_ - 1:05d}")
    file = inbox / name / f"{task}.safetensors"
    return lambda out: (out / file).is_file() or rounds(out) >= round_


def joining(round_: int) -> Moment:
    file = Path("run", "checkpoints", f"{round_:05d}", "model.safetensors")
    return lambda out: (out / file).is_file() or rounds(out) >= round_


def joined(round_: int) -> Moment:
    return lambda out: rounds(out) >= round_


def finished(out: Path) -> bool:
    return read(out / "run" / "run.json").get("status") == "finished"


# In the order in which they come.
MOMENTS: dict[str, Moment] = {
    "all wait": waiting,
    "a site trains": training("site-1", 1),
    "a site has trained": trained("site-1", 1),
    "an update is in the inbox": received("site-1", 1),
    "a round is being committed": joining(1),
    "a round is committed": joined(1),
    "the other site trains": training("site-2", 2),
    "the other update is in the inbox": received("site-2", 2),
    "the last round is being committed": joining(3),
    "the last round is committed": joined(3),
    "the final model is measured": received("site-1", 4, "final_model_validation"),
}
FEW = {
    "aggregator": ("all wait", "an update is in the inbox", "the last round is being committed"),
    "site-1": ("a site trains", "a round is committed"),
    "both": ("a site has trained", "the other site trains", "the final model is measured"),
}
VICTIMS = {"aggregator": ("aggregator",), "site-1": ("site-1",), "both": ("aggregator", "site-1")}


def kill_at(out: Path, parties: dict[str, Party], moment: Moment, *names: str) -> None:
    first, *others = names
    assert parties[first].kill_when(lambda: moment(out)) == KILLED
    for name in others:
        assert parties[name].kill() == KILLED


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_parties_killed_again_and_again_end_as_if_never_killed(federation, whole, plan) -> None:
    reference, out = whole(*plan), federation(*plan)
    when = [(name, victim) for name in MOMENTS for victim in FEW if name in FEW[victim]]
    assert len(when) == 8
    with running(out) as parties:
        for name, victim in when:
            kill_at(out, parties, MOMENTS[name], *VICTIMS[victim])
            restart(out, parties, *VICTIMS[victim])
        assert_ends(out, parties, reference)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_at_any_moment_is_harmless(federation, whole, plan, victim) -> None:
    reference = whole(*plan)
    for moment in MOMENTS.values():
        out = federation(*plan)
        with running(out) as parties:
            kill_at(out, parties, moment, *VICTIMS[victim])
            restart(out, parties, *VICTIMS[victim])
            assert_ends(out, parties, reference)
        shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("victim", ["aggregator", "site-1"])
def test_a_kill_before_any_file_is_in_place_is_harmless(federation, whole, plan, victim) -> None:
    reference, count, status = whole(*plan), 0, KILLED
    while status == KILLED:
        count += 1
        out = federation(*plan)
        with running(out, **{victim: count}) as parties:
            status = parties[victim].wait()
            if status == KILLED:
                restart(out, parties, victim)
            assert_ends(out, parties, reference)
        shutil.rmtree(out)
    assert count > 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_at_any_time_is_harmless(federation, whole, victim) -> None:
    plan = PLANS["diloco-ema"]
    reference, kills = whole(*plan), 0
    for number in range(20):
        out = federation(*plan)
        with running(out) as parties:
            time.sleep(0.2 * (number + 1))
            dead = [name for name in VICTIMS[victim] if parties[name].kill() == KILLED]
            restart(out, parties, *dead)
            kills += len(dead)
            assert_ends(out, parties, reference)
        shutil.rmtree(out)
    assert kills > 10


@pytest.mark.parametrize(
    ("victim", "delay"),
    [
        pytest.param(victim, delay, marks=() if delay == 0.2 else pytest.mark.slow)
        for victim in ("aggregator", "site-1")
        for delay in (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)
    ],
)
def test_a_kill_in_the_middle_of_an_upload_is_harmless(federation, whole, victim, delay) -> None:
    reference, out = whole(*LARGE), federation(*LARGE)
    with running(out) as parties:
        reached = trained("site-1", 1)
        while not reached(out):
            time.sleep(0.001)
        time.sleep(delay)
        assert parties[victim].kill() == KILLED
        restart(out, parties, victim)
        assert_ends(out, parties, reference)


def test_a_site_killed_after_its_last_result_and_an_aggregator_killed_after_the_end(
    federation, whole
) -> None:
    reference, out = whole(*PLANS["fedavg"]), federation(*PLANS["fedavg"])
    with running(out) as parties:
        kill_at(out, parties, received("site-1", 4, "final_model_validation"), "site-1")
        kill_at(out, parties, finished, "aggregator")
        restart(out, parties, "site-1", "aggregator")
        assert_ends(out, parties, reference)
        assert parties["aggregator"].wait() == 0
