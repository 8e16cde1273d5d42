"""A leak is told from noise, and from what a process takes at its start."""

import numpy as np
import pytest

from openfl_flows.ops.memory import resident_bytes
from openfl_flows.ops.trend import LEAST_BYTES, ROUNDS, memory_trend

MODEL = 10**9
"""0.1 % of it is 1 MB."""


def held(slope: float, rounds: int, *, noise: float = 1e5, seed: int = 0) -> list[int]:
    random = np.random.default_rng(seed)
    values = 5e8 + slope * np.arange(rounds) + noise * random.standard_normal(rounds)
    return [100_000_000, *values.astype(int).tolist()]


@pytest.mark.parametrize(
    ("slope", "rounds", "verdict"),
    [
        (0, 40, "steady"),
        (0.5e6, 40, "steady"),
        (1.5e6, 40, "leak"),
        (-2e6, 40, "steady"),
        (1.5e6, ROUNDS, "leak"),
        (1.5e6, ROUNDS - 1, "too few rounds"),
    ],
)
def test_a_leak_is_more_than_a_thousandth_of_the_model_a_round(
    slope: float, rounds: int, verdict: str
) -> None:
    trend = memory_trend(held(slope, rounds), MODEL)
    assert trend.verdict == verdict
    assert trend.low <= slope <= trend.high or rounds < ROUNDS
    assert trend.slope == pytest.approx(slope, abs=5e4)


def test_a_few_rounds_that_held_much_are_no_leak() -> None:
    values = held(0, 40)
    values[20], values[39] = 10 * MODEL, 10 * MODEL
    assert memory_trend(values, MODEL).verdict == "steady"


def test_noise_leaves_open_what_it_hides() -> None:
    assert memory_trend(held(0.8e6, ROUNDS, noise=2e7), MODEL).verdict == "unclear"
    above = memory_trend(held(1.3e6, ROUNDS, noise=5e6), MODEL)
    assert 0 < above.low < above.limit < above.slope
    assert above.verdict == "unclear"


def test_small_models_have_a_limit_that_somebody_could_notice() -> None:
    assert memory_trend(held(3e4, 40, noise=0), 32).limit == LEAST_BYTES
    assert memory_trend(held(3e4, 40, noise=0), 32).verdict == "steady"


def test_one_round_tells_nothing() -> None:
    assert memory_trend([5], MODEL).verdict == "too few rounds"
    assert memory_trend([5, 6], MODEL).slope == 0


def test_what_a_process_holds_follows_what_it_takes_and_gives_back() -> None:
    before = resident_bytes()
    if not before:
        pytest.skip("the system does not say")
    taken = np.ones(50 * 2**20, np.uint8)
    assert resident_bytes() - before > 45 * 2**20
    del taken
    assert resident_bytes() - before < 5 * 2**20
