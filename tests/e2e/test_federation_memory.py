"""Federations at size: what an aggregator computes, holds and sends. Minutes, hence slow."""

import pytest

from tests.bench.federation import measure_growth, measure_peak
from tests.bench.federation_scale import full_size_calls, measure_scale

pytestmark = pytest.mark.slow


def test_openfold3_takes_few_calls():
    assert full_size_calls() <= 48


def test_an_aggregator_computes_far_less_than_with_a_tensor_per_parameter():
    ours, stock = (measure_scale(kind, 1000, 20.0) for kind in ("ours", "stock"))
    assert stock.results_seconds > 10 * ours.results_seconds
    assert stock.calls["GetAggregatedTensor"] == 1000
    assert ours.calls == {"GetTasks": 1, "GetAggregatedTensor": 1, "SendLocalTaskResults": 3}


@pytest.mark.timeout(600)
def test_rounds_leave_nothing_behind():
    trace = measure_growth("ours", megabytes=20.0, rounds=35)
    limits = {"aggregator": 0.4e6, "site-1": 1e6, "site-2": 1e6}
    for party, limit in limits.items():
        growth, error = trace.growth(party)
        assert growth < limit + 2 * error
    growth, error = trace.disk_growth()
    assert growth < 0.4e6 + 2 * error


@pytest.mark.timeout(600)
def test_more_sites_take_little_more_memory():
    two, five = (measure_peak("ours", sites) for sites in (2, 5))
    assert five.anonymous < 2 * two.anonymous
    assert five.resident < 20
