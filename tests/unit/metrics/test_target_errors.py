"""Errors by target, with intervals."""

import numpy as np
import pytest

from openfl_flows.metrics.target_errors import gain, mean_error

MISSING = np.nan


def test_mean_is_over_molecules_with_a_value():
    found = mean_error(np.array([[1.0, MISSING], [2.0, 3.0]]))
    assert found.value == pytest.approx(2.0)
    assert found.num == 3
    assert found.low <= found.value <= found.high


def test_without_values_there_is_no_number():
    found = mean_error(np.full((3, 2), MISSING))
    assert np.isnan(found.value)
    assert found.num == 0


def test_interval_is_that_of_targets_and_not_of_molecules():
    targets = np.random.default_rng(0).normal(size=(40, 1)) + 5
    once, often = mean_error(targets), mean_error(np.repeat(targets, 50, 1))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert often.high - often.low == pytest.approx(2 * 1.96 / np.sqrt(40), rel=0.25)


def test_pairing_makes_an_even_gain_exact():
    base = np.random.default_rng(0).uniform(1, 5, size=(20, 4))
    found = gain(0.75 * base, base)
    assert found[:3] == pytest.approx((0.25, 0.25, 0.25))


def test_interval_of_no_gain_holds_zero():
    random = np.random.default_rng(1)
    found = gain(random.uniform(size=(50, 10)), random.uniform(size=(50, 10)))
    assert found.low < 0 < found.high


def test_other_targets_are_refused():
    with pytest.raises(ValueError, match="2 targets against 3"):
        gain(np.ones((2, 1)), np.ones((3, 1)))
