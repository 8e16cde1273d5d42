"""Weighted FedAvg."""

import numpy as np

from openfl_flows.joins.base import NOTHING, Join, Updates, in_site_order, same_spec
from openfl_flows.state import Array, State

_BLOCK = 2**20


def weighted_mean() -> Join:
    """The mean of the sites' models, weighted by their samples.

    ``mean_k = mean_{k-1} - (mean_{k-1} - θ_k) n_k / N_k`` with ``N_k = n_1 + … + n_k``. It equals
    ``Σ n_i θ_i / Σ n_i`` (McMahan et al. 2017, Algorithm 1) and has what the sum has not: one
    update in memory at a time, and exact bits in three cases: one site gives its own model, equal
    models give themselves, and scaled weights change nothing. Half precision is summed in float32.
    Integers take the maximum; frozen tensors stay the global model's.

    Raises (on apply):
        ValueError: No updates, or an update whose spec is not the model's.
    """

    def apply(model: State, updates: Updates, join_state: State) -> tuple[State, State]:
        mean: dict[str, Array] = {}
        total = 0
        for update in in_site_order(updates):
            theirs = same_spec(model, update)
            total += update.num_samples
            for tensor in model.spec:
                name = tensor.name
                if tensor.reduce == "keep":
                    continue
                if name not in mean:
                    wide = np.float32 if tensor.dtype == "float16" else theirs[name].dtype
                    mean[name] = theirs[name].astype(wide)
                elif tensor.reduce == "max":
                    np.maximum(mean[name], theirs[name], out=mean[name])
                else:
                    _move_toward(mean[name], theirs[name], update.num_samples / total)
            del update, theirs  # else they stay in memory while the next one arrives
        if not total:
            raise ValueError("no updates to join, expected at least one site's")
        joined = {name: a.astype(model[name].dtype, copy=False) for name, a in mean.items()}
        return model.with_arrays(joined), join_state

    return Join(lambda model: NOTHING, apply)


def _move_toward(mean: Array, theirs: Array, share: float) -> None:
    """``mean -= (mean - theirs) * share`` in place, by blocks: no copy of a large tensor.

    Subtracted, because -0.0 + 0.0 would lose a sign bit and -0.0 - 0.0 does not.
    """
    mean, theirs = mean.reshape(-1), theirs.reshape(-1)
    for start in range(0, mean.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        mean[block] -= (mean[block] - theirs[block]) * mean.dtype.type(share)
