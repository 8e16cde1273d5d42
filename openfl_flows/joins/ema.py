"""Exponential moving average of the global model, updated only when sites synchronise.

Every site sees the same broadcast, so every site computes the same average: nothing is sent.
"""

from collections.abc import Callable

from openfl_flows.state import State

Ema = Callable[[State, State, State, int], State]
"""``ema(average, before, after, num_steps) -> next average``, over the averaged tensors."""


def at_sync(*, decay: float) -> Ema:
    """``e ← d^H e + (1 - d^H) θ'``: H local steps count as H equal steps at the new model."""
    _check(decay)

    def update(average: State, before: State, after: State, num_steps: int) -> State:
        keep = _kept(decay, num_steps)
        return average.with_arrays(
            average.trained().map(lambda e, b: keep * e + (1 - keep) * b, after)
        )

    return update


def interpolated(*, decay: float) -> Ema:
    """The average that per-step updates would give if the model moved in a straight line.

    ``e ← d^H e + a θ + b θ'`` with ``b = Σ_{k=1..H} (1-d) d^(H-k) k/H`` and ``a = 1 - d^H - b``.
    """
    _check(decay)

    def update(average: State, before: State, after: State, num_steps: int) -> State:
        steps = range(1, num_steps + 1)
        keep = _kept(decay, num_steps)
        new = sum((1 - decay) * decay ** (num_steps - k) * k / num_steps for k in steps)
        old = 1 - keep - new
        return average.with_arrays(
            average.trained().map(lambda e, a, b: keep * e + old * a + new * b, before, after)
        )

    return update


def _check(decay: float) -> None:
    if not 0 <= decay < 1:
        raise ValueError(f"EMA needs 0 <= decay < 1, got {decay=}")


def _kept(decay: float, num_steps: int) -> float:
    if num_steps < 0:
        raise ValueError(f"EMA needs num_steps >= 0, got {num_steps=}")
    return float(decay**num_steps)
