"""Robust joins, and checks that refuse or rescale an update before it is joined."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from openfl_flows.joins.base import NOTHING, Check, Join, Updates, in_site_order, same_spec
from openfl_flows.state import Array, State
from openfl_flows.update import Update


def median() -> Join:
    """The coordinate-wise median, unweighted (Yin et al. 2018, Algorithm 1, option I)."""
    return _mean_of_middle(lambda sites: (sites - 1) // 2)


def trimmed_mean(*, trim: float) -> Join:
    """The mean after the ``trim`` share of sites is cut at each end, per coordinate, unweighted.

    Yin et al. 2018, Algorithm 1, option II: ``floor(trim * sites)`` values are cut at each end.
    """
    if not 0 <= trim < 0.5:
        raise ValueError(f"trimmed mean needs 0 <= trim < 0.5, got {trim=}")
    return _mean_of_middle(lambda sites: int(trim * sites + 1e-9))  # 0.29 * 100 is 28.99…96


def finite() -> Check:
    """Refuse an update that holds NaN or infinity.

    Raises (as updates pass):
        ValueError: Names the site, the tensor, and how many of its values are not finite.
    """

    def pass_finite(update: Update) -> Update:
        for tensor in update.state.spec:
            array = update.state[tensor.name]
            if tensor.reduce == "mean" and not np.isfinite(array).all():
                bad = int(array.size - np.isfinite(array).sum())
                raise ValueError(
                    f"update of site {update.site!r} is not finite: tensor {tensor.name!r} "
                    f"has {bad} NaN or infinite of {array.size} values"
                )
        return update

    return lambda model, updates: map(pass_finite, in_site_order(updates))


def clip_norm(max_norm: float) -> Check:
    """Scale an update's change to the model down to an L2 norm of at most ``max_norm``.

    ``θ_i ← θ + (θ_i - θ) min(1, max_norm / ‖θ_i - θ‖)``, the norm over all averaged tensors and
    summed in float64. It needs the whole model: unlike a join, it cannot see buckets one by one.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_norm needs max_norm > 0, got {max_norm}")

    def clip(model: State, update: Update) -> Update:
        change = model.trained().map(lambda a, b: b - a, same_spec(model, update))
        norm = math.sqrt(sum(np.square(d, dtype=np.float64).sum() for d in change.values()))
        if norm <= max_norm:
            return update
        scale = max_norm / norm
        clipped = model.trained().map(lambda a, d: a + scale * d, change)
        return replace(update, state=update.state.with_arrays(clipped))

    return lambda model, updates: map(partial(clip, model), in_site_order(updates))


def _mean_of_middle(cut: Callable[[int], int]) -> Join:
    """The mean of a coordinate's values without the ``cut(sites)`` smallest and largest.

    A coordinate needs every site's value at once, so all updates are in memory. Sites that agree
    give their own bits: the mean is taken of the distances to the smallest kept value.
    """

    def apply(model: State, updates: Updates, join_state: State) -> tuple[State, State]:
        states = [same_spec(model, update) for update in in_site_order(updates)]
        if not states:
            raise ValueError("no updates to join, expected at least one site's")
        num_cut = cut(len(states))
        joined: dict[str, Array] = {}
        for tensor in model.spec:
            if tensor.reduce == "keep":
                continue
            stack = np.sort([state[tensor.name] for state in states], axis=0)
            kept = stack[num_cut : len(stack) - num_cut]
            if tensor.reduce == "max":
                joined[tensor.name] = stack[-1].copy()
            else:
                joined[tensor.name] = kept[0] - (kept[0] - kept).mean(axis=0)
        return model.with_arrays(joined), join_state

    return Join(lambda model: NOTHING, apply)
