"""Who was absent and who waited, by a clock that a test can set."""

import numpy as np
import pytest

from openfl_flows.metrics.mean import Mean
from openfl_flows.ops.aggregation import Contribution
from openfl_flows.state import State
from openfl_flows.taskrunner import turns as module
from openfl_flows.taskrunner.turns import Turn, Turns, with_turns
from openfl_flows.update import Update


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def at(clock: Clock, now: float, note, *arguments) -> None:
    clock.now = now
    note(*arguments)


def test_a_site_that_was_there_is_expected_after_its_poll_and_not_before(clock: Clock) -> None:
    turns = Turns(5.0)
    at(clock, 98, turns.heard, "there")
    at(clock, 99, turns.heard, "crashes")
    at(clock, 100, turns.begin)
    at(clock, 102, turns.heard, "there")
    at(clock, 112, turns.arrived, "there")
    at(clock, 150, turns.heard, "crashes")
    at(clock, 151, turns.heard, "late")
    at(clock, 160, turns.arrived, "crashes")
    at(clock, 161, turns.arrived, "late")
    assert turns.taken() == {
        "there": Turn(arrived=12, polled=2, least=5.0),
        # It was to come back at 104.
        "crashes": Turn(arrived=60, polled=4, least=5.0),
        "late": Turn(arrived=61, polled=0, least=5.0),
    }
    at(clock, 170, turns.begin)
    assert turns.taken() == {}


def contribution(site: str, seconds: float) -> Contribution:
    means = {"loss": Mean(1.0, 1)}
    update = Update(site=site, state=State({"w": np.zeros(1)}), num_samples=1, num_steps=1)
    return Contribution(
        update=update, received=means, trained=means, validated=means,
        seconds={"train": seconds, "upload": 0.0}, peak_rss_bytes=1, frames_bytes=1,
    )  # fmt: skip


def test_what_the_aggregator_saw_is_added_to_what_sites_measured() -> None:
    turns = {
        "a": Turn(arrived=12.0, polled=2.0, least=5.0),
        "b": Turn(arrived=60.0, polled=4.0, least=5.0),
    }
    a, b, c = with_turns([contribution(s, 9.0) for s in "abc"], turns)
    assert a.seconds == {"train": 9.0, "upload": 0.0, "absent": 0.0, "wait": 50.0}
    assert b.seconds == {"train": 9.0, "upload": 0.0, "absent": 47.0, "wait": 4.0}
    assert c.seconds == {"train": 9.0, "upload": 0.0}
