"""Laws of the moving averages: what they approximate is the average taken at every step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.joins import ema
from openfl_flows.joins.recipes import EMAS, build_ema
from openfl_flows.state import State

DECAYS = st.floats(0, 0.9999)
STEPS = st.integers(1, 300)
BOTH = pytest.mark.parametrize("make", EMAS.values(), ids=EMAS.keys())


def model(*values: float) -> State:
    return State({"w": np.array(values, float), "n": np.array(3), "f": np.ones(1)}, frozen=["f"])


def per_step(average: np.ndarray, path: list[np.ndarray], decay: float) -> np.ndarray:
    for weights in path:
        average = decay * average + (1 - decay) * weights
    return average


@given(DECAYS, STEPS)
def test_at_sync_is_that_many_steps_at_the_new_model(decay, num_steps):
    before, after = np.array([1.0, -2.0]), np.array([5.0, 0.25])
    got = ema.at_sync(decay=decay)(model(*before), model(9, 9), model(*after), num_steps)
    np.testing.assert_allclose(got["w"], per_step(before, [after] * num_steps, decay), atol=1e-9)


@given(DECAYS, STEPS)
def test_interpolated_is_the_per_step_average_along_a_straight_line(decay, num_steps):
    average, before, after = np.array([3.0, 3.0]), np.array([1.0, -2.0]), np.array([5.0, 0.25])
    line = [before + (after - before) * k / num_steps for k in range(1, num_steps + 1)]
    got = ema.interpolated(decay=decay)(model(*average), model(*before), model(*after), num_steps)
    np.testing.assert_allclose(got["w"], per_step(average, line, decay), rtol=1e-6, atol=1e-6)


@given(DECAYS)
def test_one_local_step_makes_both_forms_the_plain_average(decay):
    average, before, after = model(3, 3), model(1, -2), model(5, 0.25)
    expected = per_step(average["w"], [after["w"]], decay)
    for make in EMAS.values():
        got = make(decay=decay)(average, before, after, 1)
        np.testing.assert_allclose(got["w"], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("num_steps", [10, 50])
@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
def test_interpolated_is_closer_than_at_sync_on_a_smooth_path(decay, num_steps):
    path = [np.array([np.exp(-t / 200), np.sin(t / 150)]) for t in range(20 * num_steps + 1)]
    exact = per_step(path[0], path[1:], decay)
    error = {}
    for name, make in EMAS.items():
        average = model(*path[0])
        for start in range(0, len(path) - 1, num_steps):
            end = start + num_steps
            average = make(decay=decay)(average, model(*path[start]), model(*path[end]), num_steps)
        error[name] = np.linalg.norm(average["w"] - exact)
    assert error["interpolated"] < error["at_sync"] / 2


@BOTH
def test_without_steps_nothing_moves(make):
    average = model(3, 3)
    assert make(decay=0.9)(average, model(1, 1), model(5, 5), 0) == average


@BOTH
def test_only_averaged_tensors_move_and_element_types_stay(make):
    before = State({"w": np.ones(2, np.float32), "n": np.array(3), "f": np.ones(1)}, frozen=["f"])
    after = before.map(lambda a: (a + 4).astype(a.dtype))
    moved = make(decay=0.5)(before, before, after, 4)
    assert moved.spec == before.spec
    assert (moved["w"] > 1).all()
    assert moved["n"] == 3
    assert moved["f"] == 1


@BOTH
@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_outside_zero_to_one_is_refused(make, decay):
    with pytest.raises(ValueError, match="0 <= decay < 1"):
        make(decay=decay)


@BOTH
def test_negative_steps_are_refused(make):
    with pytest.raises(ValueError, match="num_steps=-1"):
        make(decay=0.9)(model(1), model(1), model(1), -1)


def test_a_moving_average_is_built_by_name():
    assert build_ema("none") is None
    average = build_ema("at_sync", decay=0.5)
    assert average is not None
    assert average(model(0), model(9), model(4), 1)["w"] == 2
    with pytest.raises(ValueError, match=r"ema.name='magic' is unknown, expected one of at_sync"):
        build_ema("magic")
    with pytest.raises(ValueError, match="ema.name='at_sync': .*'speed'"):
        build_ema("at_sync", speed=1)
