"""Outer optimizers: the sites' mean is a target, global minus mean the gradient toward it.

The pseudo-gradient is ``Δ = θ - mean``, a descent direction: every optimizer subtracts it. (Flower
writes the opposite sign and adds.) All are elementwise and run in the model's own element type.
"""

import warnings
from collections.abc import Callable, Iterable

import numpy as np

from openfl_flows.joins.base import NOTHING, Join, Updates, same_spec
from openfl_flows.state import Array, State

SecondMoment = Callable[[Array, Array, float], Array]


def target(model: State, updates: Updates) -> State:
    """The mean that an outer optimizer moves the model toward.

    Raises:
        ValueError: There is not exactly one update: chain an averaging join before this one.
    """
    joined = list(updates)
    if len(joined) != 1:
        raise ValueError(f"an outer optimizer takes one joined update, got {len(joined)}")
    return same_spec(model, joined[0])


def sgd(*, lr: float, momentum: float = 0.0, nesterov: bool = True) -> Join:
    """Stochastic gradient descent on the pseudo-gradient: with Nesterov momentum, DiLoCo.

    ``m' = μ m + Δ``, then ``θ' = θ - η (Δ + μ m')`` (Nesterov) or ``θ' = θ - η m'``, as
    ``torch.optim.SGD`` writes it (Douillard et al. 2023, DiLoCo, Algorithm 1). η = 1, μ = 0 is
    FedAvg. The steady gain is ``η / (1 - μ)``.
    """
    if not lr > 0 or not 0 <= momentum < 1:
        raise ValueError(f"outer SGD needs lr > 0 and 0 <= momentum < 1, got {lr=}, {momentum=}")
    if lr / (1 - momentum) > 1.5:
        warnings.warn(
            f"outer lr {lr} with momentum {momentum} has a steady gain lr/(1-momentum) of "
            f"{lr / (1 - momentum):.2f}; above 1.5 it tends to overshoot",
            stacklevel=2,
        )

    def init(model: State) -> State:
        return model.trained().map(np.zeros_like) if momentum else NOTHING

    def apply(model: State, updates: Updates, join_state: State) -> tuple[State, State]:
        mean = target(model, updates)
        _check_names(join_state, model.trained() if momentum else ())
        if lr == 1 and not momentum:
            return mean, join_state
        momenta, trained = {}, {}
        # One tensor after the other: whole pseudo-gradients and steps would be models in memory.
        for name, theta in model.trained().items():
            step = theta - mean[name]
            if momentum:
                momenta[name] = momentum * join_state[name] + step
                step = step + momentum * momenta[name] if nesterov else momenta[name]
            trained[name] = theta - lr * step
        return mean.with_arrays(trained), State(momenta)

    return Join(init, apply)


def adam(*, lr: float, betas: tuple[float, float] = (0.9, 0.99), tau: float = 1e-3) -> Join:
    """FedAdam (Reddi et al. 2021, Algorithm 2): no bias correction, τ added to the root.

    ``m' = β₁ m + (1-β₁) Δ``, ``v' = β₂ v + (1-β₂) Δ²``, ``θ' = θ - η m' / (√v' + τ)``, with
    ``v₀ = τ²``.

    OpenFL 1.9's ``AdamAdaptiveAggregation`` differs in two places: it starts at ``v₀ = 0``, and it
    divides ``m'`` and ``v'`` by ``1 - βᵗ`` before the root, to which it adds ε where we add τ.
    """
    return _adaptive(lr, betas, tau, lambda v, square, b2: b2 * v + (1 - b2) * square)


def yogi(*, lr: float, betas: tuple[float, float] = (0.9, 0.99), tau: float = 1e-3) -> Join:
    """FedYogi (Reddi et al. 2021, Algorithm 2): FedAdam whose second moment moves additively.

    ``v' = v - (1-β₂) Δ² sign(v - Δ²)``, everything else as in :func:`adam`.

    OpenFL 1.9's ``NumPyYogi`` differs as its Adam does, and it also decays the second moment:
    ``v' = β₂ v - (1-β₂) Δ² sign(v - Δ²)``.
    """
    return _adaptive(lr, betas, tau, lambda v, sq, b2: v - (1 - b2) * sq * np.sign(v - sq))


def _adaptive(lr: float, betas: tuple[float, float], tau: float, second: SecondMoment) -> Join:
    b1, b2 = betas
    if not (lr > 0 and tau > 0 and 0 <= b1 < 1 and 0 <= b2 < 1):
        raise ValueError(
            f"adaptive joins need lr > 0, tau > 0 and betas in [0, 1), got {lr=}, {tau=}, {betas=}"
        )

    def init(model: State) -> State:
        moments = {}
        for name, array in model.trained().items():
            moments[f"m/{name}"] = np.zeros_like(array)
            moments[f"v/{name}"] = np.full_like(array, tau**2)
        return State(moments)

    def apply(model: State, updates: Updates, join_state: State) -> tuple[State, State]:
        mean = target(model, updates)
        own = model.trained()
        _check_names(join_state, [f"{moment}/{name}" for moment in "mv" for name in own])
        moments, trained = {}, {}
        for name, theta in own.items():
            d = theta - mean[name]
            m = b1 * join_state[f"m/{name}"] + (1 - b1) * d
            v = second(join_state[f"v/{name}"], d * d, b2)
            trained[name] = theta - lr * m / (np.sqrt(v) + tau)
            moments[f"m/{name}"], moments[f"v/{name}"] = m, v
        return mean.with_arrays(trained), State(moments)

    return Join(init, apply)


def _check_names(join_state: State, expected: Iterable[str]) -> None:
    """Refuse a restored state of another optimizer: a lost momentum must not pass unseen."""
    wrong = sorted(join_state.keys() ^ set(expected))
    if wrong:
        fault = "unexpected" if wrong[0] in join_state else "missing"
        raise ValueError(f"the outer optimizer's state does not fit: {wrong[0]!r} is {fault}")
