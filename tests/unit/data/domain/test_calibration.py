"""Errors against distances."""

import numpy as np
import pytest

from openfl_flows.data.domain.calibration import calibrate


def test_errors_that_grow_with_distance_are_seen_and_others_are_not():
    rng = np.random.default_rng(0)
    distance = rng.random(400)
    grown = calibrate(distance, distance + 0.3 * rng.random(400), 0.5)
    assert grown.spearman > 0.8
    assert 0.8 < grown.spearman_interval[0] < grown.spearman < grown.spearman_interval[1]
    assert grown.error_outside > grown.error_inside
    assert grown.ratio_interval[0] > 1
    assert grown.inside == pytest.approx(0.5, abs=0.1)
    noise = calibrate(distance, rng.random(400), 0.5)
    assert noise.spearman_interval[0] < 0 < noise.spearman_interval[1]
    assert noise.ratio_interval[0] < 1 < noise.ratio_interval[1]


def test_items_without_both_are_left_out():
    distance = np.array([0.1, 0.2, np.nan, 0.4, 0.5])
    error = np.array([1.0, 2.0, 3.0, np.nan, 5.0])
    assert calibrate(distance, error, 0.3).num == 3
    with pytest.raises(ValueError, match="2 items"):
        calibrate(distance[:4], error[:4], 0.3)


def test_where_nothing_differs_there_is_no_correlation():
    found = calibrate(np.zeros(5), np.arange(5.0), 0.0)
    assert np.isnan(found.spearman)
    assert found.inside == 1
    assert np.isnan(found.error_outside)
