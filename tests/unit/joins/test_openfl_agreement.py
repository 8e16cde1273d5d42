"""Our joins against OpenFL's own aggregation functions, on the same updates.

The weighted average agrees. OpenFL's Adam and Yogi differ from FedAdam and FedYogi as the
docstrings of :mod:`openfl_flows.joins.outer` say; the tests add exactly that difference.
"""

import numpy as np
import pytest
from openfl.interface.aggregation_functions import (
    AdamAdaptiveAggregation,
    WeightedAverage,
    YogiAdaptiveAggregation,
)
from openfl.interface.aggregation_functions.core import AdaptiveAggregation
from openfl.utilities.optimizers.numpy import NumPyYogi
from openfl.utilities.types import LocalTensor, SingletonABCMeta

from openfl_flows.joins import outer
from openfl_flows.joins.base import chain
from openfl_flows.joins.mean import weighted_mean
from openfl_flows.state import State
from openfl_flows.update import Update

ROUNDS = 25
LR, BETAS, EPSILON = 0.05, (0.8, 0.95), 0.01


@pytest.fixture(autouse=True)
def _fresh_singletons(monkeypatch):
    monkeypatch.setattr(SingletonABCMeta, "_instances", {})


def start() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


def round_of(number: int, model: np.ndarray) -> tuple[list[Update], list[LocalTensor]]:
    """The same round for both sides: three sites of unequal weight, drawn near the model."""
    rng = np.random.default_rng(100 + number)
    samples = [10, 25, 65]
    tensors = [(model + rng.normal(size=model.shape)).astype(np.float32) for _ in samples]
    named = list(zip("abc", tensors, samples, strict=True))
    ours = [Update(site=site, state=State({"w": t.copy()}), num_samples=n) for site, t, n in named]
    return ours, [LocalTensor(site, t, n / 100) for site, t, n in named]


def history(number: int, model: np.ndarray) -> list[dict[str, object]]:
    tags = ("aggregated",) if number else ("model",)
    return [{"round": number, "tensor_name": "w", "tags": tags, "nparray": model.copy()}]


def test_fedavg_is_their_weighted_average():
    ours = theirs = start()
    for number in range(ROUNDS):
        updates, local_tensors = round_of(number, ours)
        theirs = WeightedAverage()(local_tensors, history(number, theirs), "w", number, ())
        ours = weighted_mean().apply(State({"w": ours}), updates, State({}))[0]["w"]
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_adam_with_their_bias_correction_and_zero_start_is_their_adam():
    b1, b2 = BETAS
    aggregation = AdamAdaptiveAggregation(
        params={"w": start()}, learning_rate=LR, betas=BETAS, epsilon=EPSILON
    )
    model = State({"w": start()})
    join_state = State({"1/m/w": 0 * start(), "1/v/w": 0 * start()})
    for number in range(ROUNDS):
        updates, local_tensors = round_of(number, model["w"])
        before = aggregation.optimizer.params["w"].copy()
        theirs = aggregation(local_tensors, history(number, before), "w", number, ())
        unbias1, unbias2 = 1 - b1 ** (number + 1), np.sqrt(1 - b2 ** (number + 1))
        corrected = outer.adam(
            lr=float(LR * unbias2 / unbias1), betas=BETAS, tau=float(EPSILON * unbias2)
        )
        model, join_state = chain(weighted_mean(), corrected).apply(model, updates, join_state)
        np.testing.assert_allclose(model["w"], theirs, rtol=1e-6, atol=1e-6)


def test_without_that_correction_the_first_step_differs():
    aggregation = AdamAdaptiveAggregation(
        params={"w": start()}, learning_rate=LR, betas=BETAS, epsilon=EPSILON
    )
    updates, local_tensors = round_of(0, start())
    theirs = aggregation(local_tensors, history(0, start()), "w", 0, ())
    join, model = chain(weighted_mean(), outer.adam(lr=LR, betas=BETAS, tau=EPSILON)), start()
    ours, _ = join.apply(State({"w": model.copy()}), updates, join.init(State({"w": model})))
    assert np.abs(ours["w"] - theirs).max() > 0.1 * LR


def test_yogi_with_their_decay_and_bias_correction_is_their_yogi():
    b1, b2 = BETAS
    aggregation = AdaptiveAggregation(
        NumPyYogi(params={"w": start()}, learning_rate=LR, betas=BETAS, epsilon=EPSILON),
        WeightedAverage(),
    )
    join = chain(weighted_mean(), outer.yogi(lr=LR, betas=BETAS, tau=EPSILON))
    model, m, v = start(), 0 * start(), 0 * start()
    for number in range(ROUNDS):
        updates, local_tensors = round_of(number, model)
        before = aggregation.optimizer.params["w"].copy()
        theirs = aggregation(local_tensors, history(number, before), "w", number, ())
        moments = State({"1/m/w": m, "1/v/w": v})
        _, moments = join.apply(State({"w": model}), updates, moments)
        m = moments["1/m/w"]
        v = moments["1/v/w"] - np.float32(1 - b2) * v
        unbiased_m, unbiased_v = m / (1 - b1 ** (number + 1)), v / (1 - b2 ** (number + 1))
        model = model - LR * unbiased_m / (np.sqrt(unbiased_v) + EPSILON)
        np.testing.assert_allclose(v, aggregation.optimizer.grads_second_moment["w"], atol=1e-6)
        np.testing.assert_allclose(model, theirs, rtol=1e-6, atol=1e-6)


def test_their_yogi_cannot_be_made_through_its_own_class():
    with pytest.raises(TypeError, match="epsilo"):
        YogiAdaptiveAggregation(params={"w": start()})
