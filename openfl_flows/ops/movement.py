"""How far a round moved the weights, and how far apart the sites ended: in Euclidean norms."""

import math
from collections.abc import Sequence

import numpy as np

from openfl_flows.ops.files import let_go
from openfl_flows.state import State
from openfl_flows.update import Update

_PIECE = 128 * 2**20
"""Bytes of a mapped file that are looked at before its pages are let go."""


def movement(model: State, updates: Sequence[Update]) -> dict[str, float]:
    """Measure one round's updates, tensor by tensor, so that mapped files stay files.

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
    for tensor in model.spec:
        if tensor.reduce != "mean":
            continue
        before = model[tensor.name]
        mean, spread = np.zeros_like(before), 0.0
        for weight, update in zip(weights, updates, strict=True):
            step = update.state[tensor.name] - before
            spread += weight * _square(step)
            mean += weight * step
        moved = _square(mean)
        squares += (_square(before), moved, spread - moved)
        seen += before.nbytes
        if seen > _PIECE:
            seen = 0
            for update in updates:
                let_go(update.state)
    # Equal sites: rounding may leave less than nothing.
    names = ("weight_norm", "update_norm", "drift")
    return {name: math.sqrt(max(0.0, s)) for name, s in zip(names, squares, strict=True)}


def _square(array: np.ndarray) -> float:
    flat = array.ravel()
    return float(np.dot(flat, flat))
