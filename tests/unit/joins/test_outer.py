"""Outer optimizers against numbers worked out by hand, and against torch."""

import math
import warnings

import numpy as np
import pytest
import torch

from openfl_flows.joins import outer
from openfl_flows.joins.base import Join, chain
from openfl_flows.joins.mean import weighted_mean
from openfl_flows.state import State
from openfl_flows.update import Update


def scalar(value: float) -> State:
    return State({"w": np.array([value], float)})


def step(join: Join, model: State, join_state: State, *locals_: float) -> tuple[State, State]:
    updates = [
        Update(site=f"s{i}", state=scalar(value), num_samples=10) for i, value in enumerate(locals_)
    ]
    return chain(weighted_mean(), join).apply(model, updates, join_state)


def two_steps(join: Join) -> tuple[float, float]:
    """From 1: sites at 0 and -1 (Δ = 1.5), then sites one below the model on average (Δ = 1)."""
    model = scalar(1.0)
    join_state = chain(weighted_mean(), join).init(model)
    model, join_state = step(join, model, join_state, 0.0, -1.0)
    first = float(model["w"][0])
    model, _ = step(join, model, join_state, first - 0.5, first - 1.5)
    return first, float(model["w"][0])


def test_nesterov_by_hand():
    with pytest.warns(UserWarning, match=r"steady gain lr/\(1-momentum\) of 7.00; above 1.5"):
        join = outer.sgd(lr=0.7, momentum=0.9)
    # m1 = 1.5, step 1.5 + .9 m1 = 2.85; m2 = .9 * 1.5 + 1 = 2.35, step 1 + .9 m2 = 3.115.
    assert two_steps(join) == pytest.approx((1 - 0.7 * 2.85, -0.995 - 0.7 * 3.115), abs=1e-12)
    assert two_steps(join) == pytest.approx((-0.995, -3.1755), abs=1e-12)


def test_heavy_ball_by_hand():
    join = outer.sgd(lr=0.5, momentum=0.5, nesterov=False)
    # m1 = 1.5; m2 = .5 * 1.5 + 1 = 1.75.
    assert two_steps(join) == pytest.approx((1 - 0.75, 0.25 - 0.875), abs=1e-12)


def test_adam_by_hand():
    join = outer.adam(lr=0.1, betas=(0.5, 0.75), tau=0.1)
    # m: .75, then .5 * .75 + .5 = .875. v: .75 * .01 + .25 * 2.25 = .57, .75 * .57 + .25 = .6775.
    first = 1 - 0.1 * 0.75 / (math.sqrt(0.57) + 0.1)
    second = first - 0.1 * 0.875 / (math.sqrt(0.6775) + 0.1)
    assert two_steps(join) == pytest.approx((first, second), abs=1e-12)


def test_yogi_by_hand():
    join = outer.yogi(lr=0.1, betas=(0.5, 0.75), tau=0.1)
    # v: .01 < 2.25, so .01 + .25 * 2.25 = .5725; .5725 < 1, so .5725 + .25 = .8225.
    first = 1 - 0.1 * 0.75 / (math.sqrt(0.5725) + 0.1)
    second = first - 0.1 * 0.875 / (math.sqrt(0.8225) + 0.1)
    assert two_steps(join) == pytest.approx((first, second), abs=1e-12)


def test_yogi_lets_the_second_moment_fall_additively():
    model, join = scalar(0.0), outer.yogi(lr=1, betas=(0, 0.75), tau=2)
    # v0 = tau² = 4 > Δ² = 1: v = 4 - .25 * 1.
    _, join_state = step(join, model, chain(weighted_mean(), join).init(model), -1.0)
    assert join_state["1/v/w"] == 3.75


@pytest.mark.parametrize("value", [0.5, -3.0])
@pytest.mark.parametrize("make", [outer.sgd, outer.adam, outer.yogi])
def test_every_optimizer_moves_toward_the_sites(make, value):
    model, join = scalar(0.0), make(lr=0.1)
    moved, _ = step(join, model, chain(weighted_mean(), join).init(model), value)
    assert np.sign(moved["w"]) == np.sign(value)
    assert abs(moved["w"]) < abs(value)


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.1, True), (0.1, False), (0.9, True), (0.9, False)]
)
def test_sgd_equals_torch_over_many_rounds(momentum, nesterov):
    rng = np.random.default_rng(5)
    lr = 1.2 * (1 - momentum)
    join = outer.sgd(lr=lr, momentum=momentum, nesterov=nesterov)
    model = State({"w": rng.normal(size=(7, 3)).astype(np.float32)})
    join_state = join.init(model)
    weights = torch.nn.Parameter(torch.tensor(model["w"].copy()))
    optimizer = torch.optim.SGD([weights], lr=lr, momentum=momentum, nesterov=nesterov)
    for _ in range(30):
        mean = (0.9 * model["w"] + 0.1 * rng.normal(size=(7, 3))).astype(np.float32)
        update = Update(site="joined", state=State({"w": mean.copy()}), num_samples=1)
        weights.grad = weights.detach() - torch.tensor(mean)
        optimizer.step()
        model, join_state = join.apply(model, [update], join_state)
        np.testing.assert_allclose(model["w"], weights.detach(), rtol=1e-6, atol=1e-6)


def test_a_stable_gain_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outer.sgd(lr=0.8, momentum=0.1)
        outer.sgd(lr=1.5)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (outer.sgd, {"lr": 0}),
        (outer.sgd, {"lr": math.nan}),
        (outer.sgd, {"lr": 1, "momentum": 1.0}),
        (outer.sgd, {"lr": 1, "momentum": -0.1}),
        (outer.adam, {"lr": -1}),
        (outer.adam, {"lr": 1, "tau": 0}),
        (outer.yogi, {"lr": 1, "betas": (0.9, 1.0)}),
        (outer.yogi, {"lr": 1, "betas": (-0.1, 0.9)}),
    ],
)
def test_options_out_of_range_are_refused_with_their_value(make, options):
    with pytest.raises(ValueError, match=f"{list(options)[-1]}="):
        make(**options)


@pytest.mark.parametrize("num_updates", [0, 2])
def test_an_outer_optimizer_takes_one_joined_update(num_updates):
    updates = [Update(site=f"s{i}", state=scalar(0), num_samples=1) for i in range(num_updates)]
    with pytest.raises(ValueError, match=f"one joined update, got {num_updates}"):
        outer.sgd(lr=1).apply(scalar(1), updates, State({}))


@pytest.mark.parametrize("make", [outer.adam, outer.yogi])
def test_lost_moments_are_never_replaced_in_silence(make):
    update = Update(site="joined", state=scalar(0), num_samples=1)
    with pytest.raises(ValueError, match="does not fit: 'm/w' is missing"):
        make(lr=1).apply(scalar(1), [update], State({}))


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_lost_momentum_is_never_replaced_in_silence(nesterov):
    update = Update(site="joined", state=scalar(0), num_samples=1)
    with pytest.raises(ValueError, match="does not fit: 'w' is missing"):
        outer.sgd(lr=0.5, momentum=0.5, nesterov=nesterov).apply(scalar(1), [update], State({}))


def test_a_momentum_that_the_plan_no_longer_uses_is_not_dropped_in_silence():
    update = Update(site="joined", state=scalar(0), num_samples=1)
    with pytest.raises(ValueError, match="does not fit: 'w' is unexpected"):
        outer.sgd(lr=1).apply(scalar(1), [update], scalar(2))


@pytest.mark.parametrize("key", ["2/w", "w"])
def test_a_state_of_another_chain_is_refused(key):
    update = Update(site="s", state=scalar(0), num_samples=1)
    join = chain(weighted_mean(), outer.sgd(lr=1))
    with pytest.raises(ValueError, match=f"does not fit its 2 stages: '{key}'"):
        join.apply(scalar(1), [update], State({key: np.ones(1)}))
