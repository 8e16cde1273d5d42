"""The account is never below what Gaussian releases really cost, and not far above."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from openfl_flows.privacy.accounting import affordable, epsilon_after, spent_epsilon
from openfl_flows.privacy.gaussian import Gaussian

DELTA = 1e-5


def exact_epsilon(multipliers: list[float], delta: float) -> float:
    """Of any two data sets: all releases are one with μ (Balle and Wang 2018, theorem 8)."""
    mu = math.sqrt(sum((2 / z) ** 2 for z in multipliers))

    def beyond(epsilon: float) -> float:
        far = epsilon + norm.logcdf(-mu / 2 - epsilon / mu)
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(far) - delta)

    return float(brentq(beyond, 0, 1e5))


@settings(deadline=None, max_examples=30)
@given(noise=st.lists(st.floats(2.0, 200.0), min_size=1, max_size=12))
def test_it_bounds_what_the_releases_cost(noise):
    exact, accounted = exact_epsilon(noise, DELTA), spent_epsilon(noise, DELTA)
    assert exact <= accounted <= 1.25 * exact + 1e-3


def test_nothing_costs_nothing_and_more_costs_more():
    how = Gaussian(clip_norm=1.0, noise_multiplier=20.0)
    costs = [epsilon_after(how, releases) for releases in range(6)]
    assert costs[0] == 0
    assert costs == sorted(set(costs))


@pytest.mark.parametrize("bound", [0.01, 1.0, 5.0])
def test_what_is_affordable_is_and_one_more_is_not(bound):
    how = Gaussian(clip_norm=1.0, noise_multiplier=10.0, max_epsilon=bound)
    most = int(affordable(how))
    assert epsilon_after(how, most) <= bound < epsilon_after(how, most + 1)


def test_without_a_bound_everything_is_affordable():
    assert affordable(Gaussian(clip_norm=1.0, noise_multiplier=10.0)) == math.inf
