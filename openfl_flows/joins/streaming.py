"""Streaming DiLoCo at the aggregator: the model in fragments, one of them joined in each round.

Round ``r`` synchronises fragment ``(r - 1) mod F`` (Douillard et al. 2025, arXiv:2501.18512): F
rounds send what one round sends otherwise, and no round more than its fragment. The fragment's
pseudo-gradient is ``θ_f`` as of its last synchronisation minus the sites' mean, and it has an outer
optimizer of its own. The rest of the global model waits for its turn.
"""

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np

from openfl_flows.joins.base import Join, Updates, in_site_order, nest, unnest
from openfl_flows.state import Spec, State, TensorSpec
from openfl_flows.update import Update

Names = tuple[str, ...]


def split(spec: Spec, fragments: int) -> tuple[Names, ...]:
    """The names of the tensors that travel, by fragment, each in sorted order.

    Tensors stay whole. The largest first, each goes to the fragment with the fewest bytes so far
    (Graham 1969: the largest fragment has at most 4/3 of the bytes that it could have at best).
    Ties go by name. The published split is by layers; this one needs to know nothing of a model.

    Raises:
        ValueError: There are not that many tensors, or less than one fragment.
    """
    tensors = [tensor for tensor in spec if tensor.reduce != "keep"]
    if not (fragments == 1 or 1 < fragments <= len(tensors)):
        raise ValueError(
            f"federation.streaming.fragments={fragments}, expected 1 to {max(1, len(tensors))}, "
            "the number of tensors that travel"
        )
    parts: list[list[str]] = [[] for _ in range(fragments)]
    sizes = [0] * fragments
    for tensor in sorted(tensors, key=_num_bytes, reverse=True):
        # The number of tensors, so that empty ones cannot leave a fragment without any.
        part = min(range(fragments), key=lambda part: (sizes[part], len(parts[part])))
        parts[part].append(tensor.name)
        sizes[part] += _num_bytes(tensor)
    return tuple(tuple(sorted(part)) for part in parts)


def synchronised(spec: Spec, fragments: int, round_: int) -> Names:
    """The names of the tensors that ``round_`` synchronises; of round 0, before all, none."""
    return split(spec, fragments)[(round_ - 1) % fragments] if round_ > 0 else ()


def fragment(state: State, names: Names) -> State:
    """Some travelling tensors of a model."""
    return State({name: state[name] for name in names})


def due(state: State, fragments: int, round_: int) -> State:
    """What of a model a round synchronises: all of it, or its fragment."""
    if fragments == 1:
        return state
    return fragment(state, synchronised(state.spec, fragments, round_))


def streaming(join: Join, fragments: int) -> Join:
    """``join``, applied to one fragment of the model at a time.

    Updates hold the tensors of one fragment and no others; the rest of the model and of the join's
    state stays as it is. One fragment is ``join`` itself. Where ``join`` clips norms, they are
    those of fragments.

    Raises (on apply):
        ValueError: No updates, or one that is no fragment or another one than the first's; the
            message names the site and a tensor.
    """
    if fragments == 1:
        return join

    def init(model: State) -> State:
        parts = split(model.spec, fragments)
        return nest([join.init(fragment(model, names)) for names in parts])

    def apply(model: State, updates: Updates, join_state: State) -> tuple[State, State]:
        parts = split(model.spec, fragments)
        states = unnest(join_state, fragments)
        number, updates = _first_fragment(parts, in_site_order(updates))
        own = fragment(model, parts[number])
        joined, states[number] = join.apply(own, updates, states[number])
        return model.with_arrays(joined), nest(states)

    return Join(init, apply)


def _first_fragment(parts: tuple[Names, ...], updates: Iterator[Update]) -> tuple[int, Updates]:
    """The number of the first update's fragment, and all updates."""
    waiting = list(islice(updates, 1))
    if not waiting:
        raise ValueError("no updates to join, expected at least one site's")
    held = waiting[0].state.keys()
    # The fragment that it has most of is the one that was meant.
    number = max(range(len(parts)), key=lambda part: len(held & set(parts[part])))
    for name in sorted(held ^ set(parts[number])):
        raise ValueError(
            f"update of site {waiting[0].site!r} is not fragment {number + 1} of {len(parts)}: "
            f"tensor {name!r} is {'unexpected' if name in held else 'missing'}"
        )

    def all_of_them() -> Iterator[Update]:
        yield waiting.pop()  # else it stays in memory while the next one arrives
        yield from updates

    return number, all_of_them()


def _num_bytes(tensor: TensorSpec) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
