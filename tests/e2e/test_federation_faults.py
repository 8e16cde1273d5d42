"""A federation whose parties are killed ends as one that nobody disturbed, to the last bit."""

import contextlib
import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from openfl_flows.ops.files import load_state, save_state
from openfl_flows.ops.ledger import LEDGER, read_ledger
from openfl_flows.state import State
from openfl_flows.taskrunner.status import CHOICES
from tests.e2e.test_resume import empty, flip, truncate
from tests.federation_ends import SITES, assert_same, local
from tests.fx_processes import AT_ONCE, TOY, Party, aggregator, site
from tests.processes import DEADLINE

PARTIES = ("aggregator", *SITES)
FINAL, VALIDATED = "final_model_validation", "locally_tuned_model_validation"
KILLED = -signal.SIGKILL
LONG = (*TOY, "model.samples=2000", "federation.steps=300", "network.patience_seconds=2")
PLANS = {
    "fedavg": (*LONG, "join=fedavg", AT_ONCE),
    # What int2 leaves out is kept at both ends.
    "diloco-ema-int2": (*LONG, "ema=at_sync", "codec=int2"),
    "fragments": (
        *LONG, "model.padding=50", "codec=int4",
        "federation.streaming={fragments: 2, delay: 100, mixing: 0.5}",
    ),
}  # fmt: skip
PLAN = PLANS["diloco-ema-int2"]
# 80 MB in two buckets: an upload takes a moment.
LARGE = (*TOY, "model.padding=20000000", "federation.rounds=2", AT_ONCE)

Moment = Callable[[Path], bool]
"""Whether a federation, given its folder, has come to some moment or is beyond it."""


def start(out: Path, name: str, *, die_at: int | None = None) -> Party:
    if name == "aggregator":
        return aggregator(out, die_at=die_at)
    return site(out, name, die_at=die_at)


@contextlib.contextmanager
def running(
    out: Path, *, names: tuple[str, ...] = PARTIES, **die_at: int
) -> Iterator[dict[str, Party]]:
    """Parties by name; a test may put a restarted one in the place of one that died."""
    parties: dict[str, Party] = {}
    try:
        for name in names:
            parties[name] = start(out, name, die_at=die_at.get(name))
        yield parties
    finally:
        for party in parties.values():
            party.kill()


def restart(out: Path, parties: dict[str, Party], *names: str) -> None:
    for name in names:
        parties[name] = start(out, name)


def log(out: Path, name: str) -> str:
    """What a party said, without the line breaks and the right column of its terminal."""
    said = (out / name / "logs" / "fx.log").read_text()
    return " ".join(re.sub(r"\S+\.py:\d+\n", "\n", said).split())


def wait(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not reached():
        assert time.monotonic() < end, "what the test waits for did not come"
        time.sleep(0.001)


def assert_ends(out: Path, parties: dict[str, Party], whole: Path) -> None:
    """The sites end, and nothing that counts tells the run from the undisturbed one."""
    for name in SITES:
        assert parties[name].wait() == 0, log(out, name)
    assert_same(out, whole)


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


BOTH = ("aggregator", "site-1")
KILLS: tuple[tuple[Moment, tuple[str, ...]], ...] = (
    (lambda out: (out / "aggregator" / "local_state" / "status.json").is_file(), ("aggregator",)),
    (training("site-1", 1), ("site-1",)),
    (trained("site-1", 1), BOTH),
    (received("site-1", 1), ("aggregator",)),
    (joined(1), ("site-1",)),
    (training("site-2", 2), BOTH),
    (joining(3), ("aggregator",)),
    (received("site-1", 4, FINAL), BOTH),
)
"""In the order in which the moments come."""


def kill_at(out: Path, parties: dict[str, Party], moment: Moment, *names: str) -> None:
    first, *others = names
    assert parties[first].kill_when(lambda: moment(out)) == KILLED
    for name in others:
        assert parties[name].kill() == KILLED


@pytest.mark.parametrize(
    "plan",
    [
        PLANS["fragments"],
        *(pytest.param(PLANS[n], marks=pytest.mark.slow) for n in list(PLANS)[:2]),
    ],
    ids=["fragments", *list(PLANS)[:2]],
)
def test_parties_killed_again_and_again_end_as_if_never_killed(federation, whole, plan) -> None:
    reference, out = whole(*plan), federation(*plan)
    with running(out) as parties:
        for moment, victims in KILLS:
            kill_at(out, parties, moment, *victims)
            restart(out, parties, *victims)
        assert_ends(out, parties, reference)


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
@pytest.mark.parametrize("victims", [("aggregator",), ("site-1",), BOTH], ids="-".join)
def test_a_kill_at_any_time_is_harmless(federation, whole, victims) -> None:
    reference, kills = whole(*PLAN), 0
    for number in range(20):
        out = federation(*PLAN)
        with running(out) as parties:
            time.sleep(0.2 * (number + 1))
            dead = [name for name in victims if parties[name].kill() == KILLED]
            restart(out, parties, *dead)
            kills += len(dead)
            assert_ends(out, parties, reference)
        shutil.rmtree(out)
    assert kills > 10


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("victim", ["aggregator", "site-1"])
def test_a_kill_in_the_middle_of_an_upload_is_harmless(federation, whole, victim, delay) -> None:
    reference, out = whole(*LARGE), federation(*LARGE)
    with running(out) as parties:
        wait(lambda: trained("site-1", 1)(out))
        time.sleep(delay)
        assert parties[victim].kill() == KILLED
        restart(out, parties, victim)
        assert_ends(out, parties, reference)


@pytest.mark.slow
def test_who_missed_the_end_is_told_by_a_restarted_aggregator(federation, whole) -> None:
    reference, out = whole(*PLAN), federation(*PLAN)
    with running(out) as parties:
        kill_at(out, parties, received("site-1", 4, "final_average_validation"), "site-1")
        assert parties["site-2"].wait() == 0
        assert parties["aggregator"].kill() == KILLED
        assert_same(out, reference)
        restart(out, parties, "site-1", "aggregator")
        assert parties["site-1"].wait() == 0
        assert_same(out, reference)
        # It does not wait for ever for a site that has gone.
        assert parties["aggregator"].wait() == 0


def test_the_operator_is_told_whom_a_round_waits_for(federation, whole) -> None:
    reference, out = whole(*PLAN), federation(*PLAN)

    def told(words: str) -> Callable[[], bool]:
        return lambda: f"for site 'site-2', which {words}" in log(out, "aggregator")

    def status() -> dict:
        return read(out / "aggregator" / "local_state" / "status.json")["sites"]["site-2"]

    with running(out, names=("aggregator", "site-1")) as parties:
        wait(told("has not connected since the aggregator started"))
        assert status()["last_heard"] is None
        restart(out, parties, "site-2")
        wait(lambda: training("site-2", 2)(out))
        parties["site-2"].send(signal.SIGSTOP)
        wait(told("was last heard "))
        assert "left to do: train, locally_tuned_model_validation" in log(out, "aggregator")
        assert CHOICES in log(out, "aggregator")
        assert time.time() - status()["last_heard"] > 2
        assert status()["tasks"] == ["aggregated_model_validation"]
        parties["site-2"].send(signal.SIGCONT)
        assert_ends(out, parties, reference)


def test_a_round_goes_on_without_a_site_and_a_later_one_with_it_again(federation) -> None:
    out = federation(*PLAN)
    cols = out / "aggregator" / "plan" / "cols.yaml"
    everyone = cols.read_text()
    with running(out) as parties:
        kill_at(out, parties, training("site-2", 2), "site-2", "aggregator", "site-1")
        cols.write_text(everyone.replace("- site-2\n", ""))
        restart(out, parties, "aggregator", "site-2")
        assert parties["site-2"].wait() == 1
        assert "Invalid collaborator. CN: |site-2|" in log(out, "site-2")
        assert "Round 2 goes on without site-2: not named in plan/cols.yaml" in log(
            out, "aggregator"
        )
        restart(out, parties, "site-1")
        kill_at(out, parties, joined(2), "aggregator")
        cols.write_text(everyone)
        restart(out, parties, "aggregator", "site-2")
        assert parties["site-1"].wait() == parties["site-2"].wait() == 0
    record = read(out / "run" / "run.json")
    assert [list(r["sites"]) for r in record["rounds"]] == [[*SITES], ["site-1"], [*SITES]]
    left_out = [line["left_out"] for line in read_ledger(out / "run" / LEDGER).rounds]
    assert left_out == [{}, {"site-2": "not in plan/cols.yaml"}, {}]
    assert "site-2 took no part in the federation after round 1: round 3 goes on" in log(
        out, "site-2"
    )


@pytest.mark.slow
def test_nothing_on_disk_grows_with_the_rounds(whole) -> None:
    out = whole(*TOY, "model.padding=100000", "federation.rounds=9")
    model = (out / "run" / "model.safetensors").stat().st_size
    # The aggregator has the last two rounds and the copy on top, each with its momentum, and the
    # best model; a site has its update and the global model that it holds, and no momentum of
    # parameters that do nothing.
    for name, models in {"aggregator": 7, "site-1": 2, "site-2": 2}.items():
        files = [file for file in (out / name / "local_state").rglob("*") if file.is_file()]
        assert sum(file.stat().st_size for file in files) < (models + 0.2) * model
        assert not [file for file in files if file.suffix == ".tmp" or "inbox" in file.parts]


def test_a_damaged_file_in_the_inbox_is_sent_again(federation, whole) -> None:
    reference, out = whole(*PLANS["fedavg"]), federation(*PLANS["fedavg"])
    inbox = out / "aggregator" / "local_state" / "inbox" / "00000" / "site-1"
    with running(out, names=("aggregator", "site-1")) as parties:
        kill_at(out, parties, received("site-1", 1, VALIDATED), "aggregator")
        for file, damage in zip(sorted(inbox.iterdir()), (truncate, flip, empty), strict=True):
            damage(file)
        restart(out, parties, "aggregator", "site-2")
        assert_ends(out, parties, reference)
    assert log(out, "aggregator").count("Removed: its site is asked for it again") == 3


def test_a_damaged_file_that_nobody_has_again_is_named(federation, whole) -> None:
    reference, out = whole(*PLAN), federation(*PLAN)
    with running(out) as parties:
        kill_at(out, parties, training("site-1", 2), "site-1", "aggregator", "site-2")
        files = {
            local(out, "site-1") / "local-00001.pt": truncate,
            local(out, "site-1") / "completed.json": truncate,
            out / "run" / "checkpoints" / "00001" / "model.safetensors": flip,
            out / "run" / "checkpoints" / "00001" / "ema.safetensors": empty,
            out / "run" / LEDGER: flip,
            out / "run" / "run.json": truncate,
        }
        for file, damage in files.items():
            whole_file = file.read_bytes()
            damage(file)
            at_site = file.is_relative_to(out / "site-1")
            restart(out, parties, *(("aggregator", "site-1") if at_site else ("aggregator",)))
            name = "site-1" if at_site else "aggregator"
            assert parties[name].wait() == 1
            said = (out / name / "logs" / "fx.log").read_text().splitlines()[-1]
            assert said.startswith("ValueError: local_state/"), said
            assert file.name in said
            parties["aggregator"].kill()
            file.write_bytes(whole_file)
        restart(out, parties, *PARTIES)
        assert_ends(out, parties, reference)


def test_an_update_that_is_refused_is_made_again_once_its_site_is_mended(federation, whole) -> None:
    reference, out = whole(*PLANS["fedavg"]), federation(*PLANS["fedavg"])
    with running(out, names=("aggregator", "site-1")) as parties:
        kill_at(out, parties, trained("site-1", 1), "site-1", "aggregator")
        file = local(out, "site-1") / "update-00001.safetensors"
        wrong = State({name: array * np.float32("nan") for name, array in load_state(file).items()})
        save_state(file, wrong)
        record = file.with_name("completed.json")
        record.write_text(json.dumps({**read(record), "update": wrong.digest()}))
        shutil.rmtree(out / "aggregator" / "local_state")
        restart(out, parties, "aggregator", "site-1")
        assert parties["site-1"].wait() == 1
        assert "update of 'site-1' refused: frame 1 of 1 brings 8 NaN" in log(out, "site-1")
        restart(out, parties, "site-1", "site-2")
        assert_ends(out, parties, reference)
    first = read_ledger(out / "run" / LEDGER).rounds[0]
    assert "brings 8 NaN" in first["refused"]["site-1"]


def test_a_run_of_another_plan_is_not_gone_on_with(tmp_path, whole) -> None:
    out = shutil.copytree(whole(*PLAN), tmp_path / "parties", symlinks=True)
    plan = out / "aggregator" / "plan" / "plan.yaml"
    plan.write_text(plan.read_text().replace("seed: 0", "seed: 1"))
    with start(out, "aggregator") as party:
        assert party.wait() == 1
    assert "a run of another plan, seed is not as in plan/plan.yaml" in log(out, "aggregator")


def sends(out: Path) -> bool:
    """Whether somebody has more to send to the aggregator than it takes."""
    plan = (out / "aggregator" / "plan" / "plan.yaml").read_text()
    port = int(re.search(r"agg_port: (\d+)", plan).group(1))
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    rows += [row.split() for row in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    waiting = (row[4].partition(":")[0] for row in rows if row[2].endswith(f":{port:04X}"))
    return any(int(count, 16) > 100_000 for count in waiting)


@pytest.mark.slow
def test_a_site_that_hangs_in_an_upload_does_not_keep_others_from_sending(federation, whole):
    reference, out = whole(*LARGE), federation(*LARGE)
    with running(out, names=("aggregator", "site-1")) as parties:
        wait(lambda: trained("site-1", 1)(out))
        # An upload to an aggregator that does not read cannot come to its end.
        parties["aggregator"].send(signal.SIGSTOP)
        wait(lambda: sends(out))
        parties["site-1"].send(signal.SIGSTOP)
        parties["aggregator"].send(signal.SIGCONT)
        restart(out, parties, "site-2")
        wait(lambda: received("site-2", 1)(out))
        assert not received("site-1", 1)(out)
        parties["site-1"].send(signal.SIGCONT)
        assert_ends(out, parties, reference)


@pytest.mark.slow
def test_an_aggregator_that_hangs_is_noticed(federation, whole) -> None:
    reference, out = whole(*PLAN), federation(*PLAN)
    with running(out) as parties:
        wait(lambda: training("site-1", 2)(out))
        parties["aggregator"].send(signal.SIGSTOP)
        wait(lambda: all("does not answer" in log(out, name) for name in SITES))
        parties["aggregator"].send(signal.SIGCONT)
        assert_ends(out, parties, reference)
