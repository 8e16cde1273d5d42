"""How far a round moved the weights, and how far apart the sites ended: in Euclidean norms."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from openfl_flows.ops.files import let_go
from openfl_flows.state import Array, State
from openfl_flows.update import Update

_PIECE = 2**20
"""Numbers that are looked at together: steps and means are never whole models, or tensors."""

_MAPPED = 64 * 2**20
"""Bytes of each mapped file that are looked at before its pages are let go."""


def movement(model: State, updates: Sequence[Update]) -> dict[str, float]:
    """Measure one round's updates, piece by piece, so that mapped files stay files.

    Args:
        model: The global model that the sites were given.
        updates: What they made of it.

    Returns:
        ``weight_norm`` of the model, ``update_norm`` of the step to the sites' weighted mean, and
        ``drift``, the root of the weighted mean square distance of the sites' models from it. Over
        the tensors that are averaged. Nothing where an update is of another model, which a join
        refuses.
    """
    if any(update.state.spec != model.spec for update in updates):
        return {}
    total = sum(update.num_samples for update in updates)
    weights = [update.num_samples / total for update in updates]
    squares, seen = np.zeros(3), 0
    for before, *afters in _pieces(model, [update.state for update in updates]):
        mean, spread = np.zeros_like(before), 0.0
        for weight, after in zip(weights, afters, strict=True):
            step = after - before
            spread += weight * _square(step)
            mean += weight * step
        moved = _square(mean)
        squares += (_square(before), moved, spread - moved)
        seen += before.nbytes
        if seen > _MAPPED:
            seen = 0
            _let_go(updates)
    _let_go(updates)
    # Equal sites: rounding may leave less than nothing.
    names = ("weight_norm", "update_norm", "drift")
    return {name: math.sqrt(max(0.0, s)) for name, s in zip(names, squares, strict=True)}


def _pieces(model: State, states: Sequence[State]) -> Iterator[list[Array]]:
    """The averaged tensors of a model and of the sites' states, a piece of each at a time."""
    for tensor in model.spec:
        if tensor.reduce == "mean":
            flat = [state[tensor.name].reshape(-1) for state in (model, *states)]
            for start in range(0, flat[0].size, _PIECE):
                yield [array[start : start + _PIECE] for array in flat]


def _let_go(updates: Sequence[Update]) -> None:
    for update in updates:
        let_go(update.state)


def _square(flat: Array) -> float:
    return float(np.dot(flat, flat))
