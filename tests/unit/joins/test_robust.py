"""Robust joins by hand, and the bound that clipping gives."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openfl_flows.joins.base import Join
from openfl_flows.joins.recipes import build_join
from openfl_flows.joins.robust import clip_norm, finite, median, trimmed_mean
from openfl_flows.state import State
from openfl_flows.update import Update


def updates(*values: object, dtype: type = float) -> list[Update]:
    return [
        Update(site=f"s{i:03}", state=State({"w": np.array(value, dtype)}), num_samples=10**i)
        for i, value in enumerate(values)
    ]


def joined(join: Join, *values: object, dtype: type = float) -> list[float]:
    model = State({"w": np.zeros_like(np.array(values[0], dtype))})
    return join.apply(model, updates(*values, dtype=dtype), State({}))[0]["w"].tolist()


def test_median_by_hand():
    assert joined(median(), [1, 5], [2, -9], [99, 0]) == [2, 0]
    assert joined(median(), [1, 5], [2, -9], [99, 0], [4, 1]) == [3, 0.5]
    assert joined(median(), [1, 5], [2, -9]) == [1.5, -2]


def test_trimmed_mean_by_hand():
    values = ([1, 8], [1e9, 2], [3, -1e9], [2, 4], [-7, 6])
    assert joined(trimmed_mean(trim=0.2), *values) == pytest.approx([2, 4], rel=1e-6)
    assert joined(trimmed_mean(trim=0.4), *values) == joined(median(), *values) == [2, 4]
    assert joined(trimmed_mean(trim=0.1), [1, 2], [3, 4]) == [2, 3]


@given(st.integers(1, 120), st.integers(0, 49))
@example(100, 29)
def test_the_number_of_values_cut_is_the_floor(num_sites, percent):
    cut = percent * num_sites // 100
    values = [[2.0**i] for i in range(num_sites)]
    expected = np.mean(values[cut : num_sites - cut])
    assert joined(trimmed_mean(trim=percent / 100), *values) == pytest.approx([expected])


@given(st.integers(1, 9), st.integers(0, 10**6))
def test_both_agree_with_numpy(num_sites, seed):
    values = np.random.default_rng(seed).normal(size=(num_sites, 6))
    np.testing.assert_allclose(joined(median(), *values), np.median(values, axis=0))
    np.testing.assert_allclose(joined(trimmed_mean(trim=0), *values), values.mean(axis=0))


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_one_poisoned_site_of_five_stays_within_the_honest_ones(name):
    options = {"trim": 0.2} if name == "trimmed_mean" else {}
    [value] = joined(build_join(name, **options), [1.0], [1.1], [0.9], [1.05], [-1e30])
    assert 0.9 <= value <= 1.1


@pytest.mark.parametrize("trim", [-0.1, 0.5, float("nan")])
def test_a_trim_out_of_range_is_refused(trim):
    with pytest.raises(ValueError, match="0 <= trim < 0.5"):
        trimmed_mean(trim=trim)


# --- checks ------------------------------------------------------------------------------------


def state(seed: int, scale: float) -> State:
    rng = np.random.default_rng(seed)
    return State(
        {
            "a": (scale * rng.normal(size=(3, 5))).astype(np.float32),
            "b": (scale * rng.normal(size=4)).astype(np.float32),
            "n": np.array(seed),
            "f": rng.normal(size=2).astype(np.float32),
        },
        frozen=["f"],
    )


def change(model: State, update: Update) -> np.ndarray:
    return np.concatenate([(update.state[n] - model[n]).ravel().astype(float) for n in ("a", "b")])


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 10**6))
def test_a_clipped_change_keeps_its_direction_and_its_bound(max_norm, scale, seed):
    model = state(0, 0)
    sent = Update(site="s", state=state(seed, scale), num_samples=3, num_steps=2, metrics={"l": 1})
    [passed] = clip_norm(max_norm)(model, [sent])
    before, after = change(model, sent), change(model, passed)
    norm = np.linalg.norm(before)
    np.testing.assert_allclose(after, before * min(1, max_norm / norm), rtol=1e-5)
    assert np.linalg.norm(after) <= max_norm * (1 + 1e-6)
    assert passed.state.spec == sent.state.spec
    assert passed.state["n"] == sent.state["n"]
    assert (passed.state["f"] == sent.state["f"]).all()
    assert replace(passed, state=sent.state) == sent


def test_a_small_change_passes_untouched():
    model = state(0, 1)
    sent = Update(site="s", state=state(1, 1), num_samples=1)
    norm = float(np.linalg.norm(change(model, sent)))
    [passed] = clip_norm(norm * 1.000001)(model, [sent])
    assert passed is sent


@pytest.mark.parametrize(("dtype", "value"), [(np.float16, 3e4), (np.float32, 1e30)])
def test_a_square_that_overflows_is_clipped_and_not_dropped(dtype, value):
    model = State({"w": np.zeros(4, dtype)})
    [passed] = clip_norm(1.0)(model, updates([value] * 4, dtype=dtype))
    np.testing.assert_allclose(passed.state["w"], 0.5, rtol=1e-3)


@pytest.mark.parametrize("max_norm", [0, -1, float("nan")])
def test_a_norm_that_is_not_positive_is_refused(max_norm):
    with pytest.raises(ValueError, match="max_norm > 0"):
        clip_norm(max_norm)


def test_the_guard_passes_finite_updates_and_ignores_frozen_tensors():
    array = np.array([np.nan])
    sent = Update(site="s", state=State({"f": array, "w": np.ones(1)}, frozen=["f"]), num_samples=1)
    assert list(finite()(sent.state, [sent])) == [sent]
    with pytest.raises(ValueError, match="site 's' is not finite: tensor 'f' has 1 NaN"):
        list(finite()(sent.state, [Update(site="s", state=State(sent.state), num_samples=1)]))
