"""The Join: a pair of pure functions, and how two of them are chained.

A join owns no state. ``init`` makes the state it needs for a model, ``apply`` consumes the sites'
updates and returns the next global model and the next join state. Join states are States, so that
saving a momentum is saving a model.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from openfl_flows.state import Array, State
from openfl_flows.update import Update

Updates = Iterable[Update]
Check = Callable[[State, Updates], Iterator[Update]]

NOTHING = State({})


class Join(NamedTuple):
    """How updates become the next global model.

    Attributes:
        init: ``init(model) -> join_state``.
        apply: ``apply(model, updates, join_state) -> (next model, next join_state)``. The updates
            may be a one-pass iterator; they are consumed in the order given, one at a time.
    """

    init: Callable[[State], State]
    apply: Callable[[State, Updates, State], tuple[State, State]]


def chain(first: Join, *rest: Join) -> Join:
    """Join with ``first``, then hand its result to each of ``rest`` as the only update.

    Every stage sees the same global model, so ``chain(weighted_mean(), sgd(...))`` gives the outer
    optimizer the mean as its target.
    """
    stages = (first, *rest)

    def init(model: State) -> State:
        return nest([stage.init(model) for stage in stages])

    def apply(model: State, updates: Updates, join_state: State) -> tuple[State, State]:
        next_states = []
        result = model
        for stage, state in zip(stages, unnest(join_state, len(stages)), strict=True):
            result, state = stage.apply(model, updates, state)
            next_states.append(state)
            updates = [Update(site="joined", state=result, num_samples=1)]
        return result, nest(next_states)

    return Join(init, apply)


def screened(join: Join, *checks: Check) -> Join:
    """``join`` behind checks that refuse or rescale each update as it passes."""

    def apply(model: State, updates: Updates, join_state: State) -> tuple[State, State]:
        for check in checks:
            updates = check(model, updates)
        return join.apply(model, updates, join_state)

    return Join(join.init, apply)


def in_site_order(updates: Iterable[Update]) -> Iterator[Update]:
    """The updates sorted by site name, so that the order of arrival changes no bit.

    A list or tuple is sorted. A one-pass iterator cannot be, so it must be in order already.

    Raises:
        ValueError: A one-pass iterator is out of order, or two updates are of one site.
    """
    if isinstance(updates, list | tuple):
        updates = sorted(updates, key=lambda update: update.site)
    last: str | None = None
    for update in updates:
        if last is not None and update.site <= last:
            raise ValueError(f"update of site {update.site!r} came after that of {last!r}")
        last = update.site
        yield update
        del update  # else it stays in memory while the next one arrives


def same_spec(model: State, update: Update) -> State:
    """The update's state, once its spec is known to be the model's.

    Raises:
        ValueError: The spec differs; the message names the site and the tensor.
    """
    if update.state.spec != model.spec:
        difference = model.spec.difference(update.state.spec)
        raise ValueError(f"update of site {update.site!r} does not fit the model: {difference}")
    return update.state


def nest(states: list[State]) -> State:
    """Several states as one, their numbers before the names."""
    return State({f"{i}/{name}": a for i, state in enumerate(states) for name, a in state.items()})


def unnest(state: State, num: int) -> list[State]:
    """What :func:`nest` made one of.

    Raises:
        ValueError: It was made of another number.
    """
    nested: list[dict[str, Array]] = [{} for _ in range(num)]
    for key, array in state.items():
        index, _, name = key.partition("/")
        if not (index.isdecimal() and int(index) < num):
            raise ValueError(f"the join's state does not fit its {num} stages: {key!r}")
        nested[int(index)][name] = array
    return [State(arrays) for arrays in nested]
