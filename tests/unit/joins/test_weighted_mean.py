"""The weighted mean against arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.joins.mean import weighted_mean
from openfl_flows.state import State
from openfl_flows.update import Update


def joined(arrays: list[np.ndarray], weights: list[int]) -> np.ndarray:
    updates = [
        Update(site=f"s{i:02}", state=State({"w": array}), num_samples=weight)
        for i, (array, weight) in enumerate(zip(arrays, weights, strict=True))
    ]
    model = State({"w": np.zeros_like(arrays[0])})
    return weighted_mean().apply(model, updates, State({}))[0]["w"]


def test_by_hand():
    arrays = [np.array([0.0, 4.0]), np.array([1.0, 4.0]), np.array([5.0, -4.0])]
    assert joined(arrays, [1, 2, 1]).tolist() == [1.75, 2.0]


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=12), st.integers(0, 10**6))
def test_it_is_the_weighted_average(weights, seed):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=20).astype(np.float32) for _ in weights]
    expected = np.average(np.stack(arrays).astype(np.float64), weights=weights, axis=0)
    np.testing.assert_allclose(joined(arrays, weights), expected, atol=1e-6)


def test_half_precision_is_summed_in_single():
    arrays = [np.full(1, value, np.float16) for value in (2048, 2049, 2050, 2051)] * 5
    exact = np.mean([float(array[0]) for array in arrays])
    assert joined(arrays, [1] * 20) == np.float16(exact)
    assert joined(arrays, [1] * 20).dtype == np.float16


def test_an_update_without_samples_never_reaches_the_join():
    with pytest.raises(ValueError, match="0 samples"):
        joined([np.ones(1)], [0])
