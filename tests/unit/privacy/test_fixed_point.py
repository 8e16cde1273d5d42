"""The mean of updates that are summed as integers is the mean, in whatever order they come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_flows.privacy.fixed_point import FRACTION_BITS, fixed_spec, summed, to_fixed
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.state import State
from openfl_flows.update import Update


def model(seed: int, size: float = 1.0) -> State:
    rng = np.random.default_rng(seed)
    arrays = {
        "a": (size * rng.standard_normal((20, 3))).astype("float32"),
        "b": size * rng.standard_normal(4),
        "frozen": np.ones(5, "float32"),
    }
    return State(arrays, frozen=["frozen"])


def updates(trained: list[State], weights: list[int], before: State) -> list[Update]:
    return [
        Update(
            site=f"site-{number}",
            state=to_fixed(state, before, num_samples=weight, sites=len(trained)),
            num_samples=weight,
        )
        for number, (state, weight) in enumerate(zip(trained, weights, strict=True))
    ]


@settings(deadline=None)
@given(
    weights=st.lists(st.integers(1, 10**6), min_size=1, max_size=6),
    size=st.floats(1e-6, 100),
    order=st.randoms(use_true_random=False),
)
def test_it_is_the_weighted_mean(weights, size, order):
    before = model(0)
    trained = [model(seed + 1, size) for seed in range(len(weights))]
    sent = updates(trained, weights, before)
    joined = summed(before, sent)
    assert joined.num_samples == sum(weights)
    for name in ("a", "b"):
        mean = np.average([s[name].astype("f8") for s in trained], axis=0, weights=weights)
        bound = len(weights) * 2.0 ** -(FRACTION_BITS + 1) / sum(weights)
        bound = bound + 1e-12 * (1 + size) + np.spacing(np.abs(mean).astype(before[name].dtype))
        assert (np.abs(joined.state[name] - mean) <= bound).all()
    assert joined.state.spec == before.spec
    order.shuffle(sent)
    assert summed(before, sent).state == joined.state


def test_an_update_that_changes_nothing_is_zero():
    fixed = to_fixed(model(0), model(0), num_samples=7, sites=3)
    assert all(not array.any() for array in fixed.values())
    assert fixed.spec == fixed_spec(model(0).spec)
    assert set(fixed) == {"a", "b"}


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_does_not_fit_is_refused(value):
    broken = model(0).with_arrays({"b": np.array([0, value, 0, 0])})
    with pytest.raises(WithheldError, match="tensor 'b' has a change of .*, expected at most"):
        to_fixed(broken, model(0), num_samples=10, sites=3)


@pytest.mark.parametrize("sites", [1, 3, 50])
def test_the_largest_values_that_are_taken_do_not_overflow_together(sites):
    limit = 2.0 ** (63 - FRACTION_BITS) / (2 * sites)
    before = State({"a": np.zeros(2)})
    trained = State({"a": np.array([limit, -limit])})
    joined = summed(before, updates([trained] * sites, [1] * sites, before))
    assert joined.state["a"] == pytest.approx(trained["a"])


def test_integers_have_no_sum():
    counted = State({"a": np.zeros(2, "float32"), "steps": np.zeros(1, "int64")})
    with pytest.raises(WithheldError, match="'steps' is int64, expected floating point"):
        fixed_spec(counted.spec)


def test_another_models_update_is_refused_by_name():
    strange = Update(site="site-9", state=State({"a": np.zeros(3, "uint64")}), num_samples=1)
    with pytest.raises(ValueError, match="update of site 'site-9' does not fit the model: tensor"):
        summed(model(0), [strange])
    with pytest.raises(ValueError, match="no updates to join"):
        summed(model(0), [])
