"""Means merge to the mean of the pooled samples."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.metrics.mean import Mean, merge, values

samples = st.lists(st.integers(-1000, 1000), max_size=20)


def measured(*sites: list[int]) -> list[dict[str, Mean]]:
    return [{"loss": Mean(float(sum(site)), len(site))} for site in sites]


@given(sites=st.lists(samples, min_size=1, max_size=5))
def test_merging_sites_equals_measuring_their_samples_in_one_place(sites) -> None:
    pooled = [sample for site in sites for sample in site]
    merged = merge(measured(*sites))
    assert merged == measured(pooled)[0]
    if pooled:
        assert values(merged)["loss"] == pytest.approx(float(Fraction(sum(pooled), len(pooled))))


@given(sites=st.lists(samples, min_size=2, max_size=5), cut=st.integers(0, 5))
def test_merging_in_stages_changes_nothing(sites, cut) -> None:
    parts = measured(*sites)
    assert merge([merge(parts[:cut]), merge(parts[cut:])]) == merge(parts)


@given(site=samples)
def test_a_site_alone_is_itself(site) -> None:
    assert merge(measured(site)) == measured(site)[0]


def test_a_site_without_samples_weighs_nothing() -> None:
    merged = merge([{"loss": Mean(6.0, 3)}, {"loss": Mean(0.0, 0)}])
    assert merged["loss"].value == 2.0


def test_a_metric_that_some_sites_lack_is_pooled_over_the_others() -> None:
    merged = merge([{"loss": Mean(6.0, 3), "mae": Mean(1.0, 2)}, {"loss": Mean(4.0, 2)}])
    assert values(merged) == {"loss": 2.0, "mae": 0.5}


def test_a_mean_of_nothing_is_nan_and_is_left_out() -> None:
    assert math.isnan(Mean(0.0, 0).value)
    assert values({"mae": Mean(0.0, 0), "loss": Mean(1.0, 1)}) == {"loss": 1.0}


def test_nothing_merges_to_nothing() -> None:
    assert merge([]) == {}
