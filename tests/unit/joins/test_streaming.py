"""Fragments of a model, and the refusal of updates that are none."""

import math
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_flows.joins.base import in_site_order
from openfl_flows.joins.mean import weighted_mean
from openfl_flows.joins.recipes import diloco
from openfl_flows.joins.streaming import (
    fragment,
    split,
    streaming,
    synchronised,
)
from openfl_flows.state import Spec, State
from openfl_flows.update import Update


def sized(*sizes: int, frozen: bool = False) -> State:
    """Tensors t00, t01, … of so many float32 values, and a large frozen one."""
    arrays = {f"t{i:02d}": np.zeros(size, np.float32) for i, size in enumerate(sizes)}
    if frozen:
        arrays["constant"] = np.zeros(1000, np.float32)
    return State(arrays, frozen=["constant"] if frozen else [])


def fragment_bytes(spec: Spec, fragments: int) -> tuple[int, ...]:
    size = {t.name: math.prod(t.shape) * np.dtype(t.dtype).itemsize for t in spec}
    return tuple(sum(size[name] for name in names) for names in split(spec, fragments))


def imbalance(spec: Spec, fragments: int) -> float:
    sizes = fragment_bytes(spec, fragments)
    return max(sizes) * fragments / max(1, sum(sizes))


def test_split_by_hand():
    # 7 -> first, 5 -> second, 4 -> second (5 < 7), 3 -> first (7 < 9), 1 -> second (9 < 10).
    state = sized(4, 7, 1, 5, 3, frozen=True)
    assert split(state.spec, 2) == (("t01", "t04"), ("t00", "t02", "t03"))
    assert fragment_bytes(state.spec, 2) == (40, 40)
    assert imbalance(state.spec, 2) == 1
    assert imbalance(sized(30, 10, 20).spec, 3) == 1.5


def test_equal_tensors_go_by_name():
    assert split(sized(2, 2, 2, 2, 2).spec, 2) == (("t00", "t02", "t04"), ("t01", "t03"))


def test_empty_tensors_leave_no_fragment_empty():
    assert split(sized(4, 0, 0).spec, 3) == (("t00",), ("t01",), ("t02",))


def test_bytes_count_not_elements():
    arrays = {"a": np.zeros(4), "b": np.zeros(6, np.float32), "c": np.zeros(3, np.float16)}
    assert split(State(arrays).spec, 2) == (("a",), ("b", "c"))


@settings(max_examples=50)
@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=20),
    fragments=st.integers(1, 20),
    frozen=st.booleans(),
)
def test_every_tensor_that_travels_is_in_one_fragment(sizes, fragments, frozen):
    fragments = min(fragments, len(sizes))
    state = sized(*sizes, frozen=frozen)
    parts = split(state.spec, fragments)
    assert len(parts) == fragments
    assert all(part == tuple(sorted(part)) and part for part in parts)
    assert sorted(name for part in parts for name in part) == sorted(state.travelling())
    assert sum(fragment_bytes(state.spec, fragments)) == state.travelling().nbytes
    # What every greedy split keeps: no fragment is above the mean by more than one tensor.
    spread = max(fragment_bytes(state.spec, fragments)) - 4 * sum(sizes) / fragments
    assert spread <= 4 * max(sizes)


def test_one_fragment_is_everything_even_of_a_model_that_is_frozen_whole():
    assert split(sized(3, 1).spec, 1) == (("t00", "t01"),)
    frozen = State({"a": np.zeros(2)}, frozen=["a"])
    assert split(frozen.spec, 1) == ((),)


@pytest.mark.parametrize("fragments", [0, -1, 4])
def test_a_split_that_cannot_be_is_refused(fragments):
    message = rf"federation.streaming.fragments={fragments}, expected 1 to 3, the number of tensors"
    with pytest.raises(ValueError, match=message):
        split(sized(3, 2, 1, frozen=True).spec, fragments)


def test_fragments_take_turns():
    spec = sized(3, 2, 1).spec
    turns = [synchronised(spec, 3, round_) for round_ in range(8)]
    first, second, third = split(spec, 3)
    assert turns == [(), first, second, third, first, second, third, first]


def updates(model: State, names: dict[str, tuple[str, ...]]) -> list[Update]:
    return [
        Update(site=site, state=fragment(model, own), num_samples=1) for site, own in names.items()
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": ("t00", "t01")}, "'a' is not fragment 1 of 3: tensor 't01' is unexpected"),
        ({"a": ("t00", "t01", "t02", "t03")}, "'a' is not fragment 3 of 3: .* 't00' is unexpected"),
        ({"a": ("t02",)}, "'a' is not fragment 3 of 3: tensor 't03' is missing"),
        ({"a": ()}, "'a' is not fragment 1 of 3: tensor 't00' is missing"),
        ({"a": ("t00",), "b": ("t01",)}, "'b' does not fit the model: tensor 't00' is missing"),
        ({"b": ("t01",), "a": ("t00",)}, "'b' does not fit the model: tensor 't00' is missing"),
    ],
)
def test_updates_of_no_one_fragment_are_refused_by_site_and_tensor(names, message):
    model = sized(8, 7, 3, 2)
    assert split(model.spec, 3) == (("t00",), ("t01",), ("t02", "t03"))
    join = streaming(diloco(), 3)
    with pytest.raises(ValueError, match=f"update of site {message}"):
        join.apply(model, updates(model, names), join.init(model))


def test_a_whole_model_is_no_fragment_and_frozen_tensors_do_not_travel():
    model, join = sized(8, 7, frozen=True), streaming(weighted_mean(), 2)
    with pytest.raises(ValueError, match="'a' is not fragment 1 of 2: .* 'constant' is unexpected"):
        join.apply(model, [Update(site="a", state=model, num_samples=1)], join.init(model))


def test_a_tensor_of_another_shape_is_refused():
    model, join = sized(8, 7), streaming(weighted_mean(), 2)
    update = Update(site="a", state=State({"t00": np.zeros(7, np.float32)}), num_samples=1)
    with pytest.raises(ValueError, match=r"'a' does not fit .* 't00' is float32\(7,\)"):
        join.apply(model, [update], join.init(model))


def test_no_updates_two_of_a_site_and_a_wrong_order_are_refused():
    model, join = sized(8, 7), streaming(weighted_mean(), 2)
    own = updates(model, {"b": ("t00",), "a": ("t00",)})
    with pytest.raises(ValueError, match="no updates to join"):
        join.apply(model, [], join.init(model))
    with pytest.raises(ValueError, match="site 'b' came after that of 'b'"):
        join.apply(model, [own[0], own[0]], join.init(model))
    with pytest.raises(ValueError, match="site 'a' came after that of 'b'"):
        join.apply(model, iter(own), join.init(model))


@pytest.mark.parametrize("saved_of", [1, 2, 4])
def test_a_join_state_of_other_fragments_is_refused(saved_of):
    model = sized(5, 4, 3, 2)
    join = streaming(diloco(), 3)
    join_state = streaming(diloco(), saved_of).init(model)
    last = split(model.spec, 3)[2]
    with pytest.raises(ValueError, match="state does not fit"):
        join.apply(model, updates(model, {"a": last}), join_state)


def test_one_update_is_in_memory_at_a_time():
    model, join = sized(8, 7), streaming(diloco(), 2)
    alive: list[weakref.ref] = []

    def stream() -> Iterator[Update]:
        for number in range(4):
            assert not any(ref() is not None for ref in alive), "an earlier update is still alive"
            state = State({"t00": np.full(8, number, np.float32)})
            alive.append(weakref.ref(state["t00"]))
            yield Update(site=f"s{number}", state=state, num_samples=1)
            del state

    joined, _ = join.apply(model, in_site_order(stream()), join.init(model))
    assert len(alive) == 4
    assert joined["t00"].any()
