"""State: immutability, identity, and the packing that puts it on the wire."""

import copy
import os
import pickle
import re
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from openfl_flows.state import BUCKET_BYTES, Spec, State, TensorSpec, pack, unpack

DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_])
ARRAYS = DTYPES.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0)))
NAMES = st.text("abc./é", min_size=1, max_size=5)


@st.composite
def states(draw):
    arrays = draw(st.dictionaries(NAMES, ARRAYS, max_size=6))
    frozen = [name for name in sorted(arrays) if draw(st.booleans())]
    return State(arrays, frozen=frozen)


def sample() -> State:
    return State(
        {
            "b": np.arange(6, dtype=np.float32).reshape(2, 3),
            "a": np.array(7),
            "c": np.zeros((0, 4), np.float16),
            "mask": np.array([True, False]),
        },
        frozen=["c"],
    )


# --- immutable ---------------------------------------------------------------------------------


def test_a_write_to_a_tensor_is_refused():
    with pytest.raises(ValueError, match="read-only"):
        sample()["b"][0, 0] = 1


def test_a_tensor_cannot_be_assigned():
    with pytest.raises(TypeError):
        sample()["b"] = np.zeros(1)


def test_an_array_that_owns_its_memory_is_taken_over_without_a_copy():
    mine = np.ones(3)
    assert State({"a": mine})["a"] is mine
    assert not mine.flags.writeable


@pytest.mark.parametrize("read_only", [False, True])
def test_later_writes_to_the_memory_behind_a_view_change_nothing(read_only):
    memory = np.ones(4)
    view = memory[1:]
    view.flags.writeable = not read_only
    state = State({"a": view})
    digest = state.digest()
    memory[:] = 9
    assert (state["a"] == 1).all()
    assert State(state).digest() == digest


def test_a_view_of_read_only_memory_costs_no_copy():
    received = np.frombuffer(bytes(8), np.float32)
    assert np.shares_memory(State({"a": received})["a"], received)


def test_arrays_of_another_byte_order_become_native():
    big = State({"a": np.arange(3, dtype=">f4")})
    assert big == State({"a": np.arange(3, dtype="<f4")})
    assert big["a"].dtype.isnative


@pytest.mark.parametrize("array", [np.array(["x"]), np.array([None]), np.array([1j])])
def test_other_element_types_are_refused_by_name(array):
    with pytest.raises(ValueError, match="'w' has element type"):
        State({"w": array})


def test_a_frozen_name_must_exist():
    with pytest.raises(ValueError, match="frozen tensor 'z' is not in the state"):
        State({"a": np.ones(1)}, frozen=["z"])


# --- digest and equality -----------------------------------------------------------------------


@given(states(), st.data())
def test_any_flipped_bit_changes_the_digest(state, data):
    filled = [name for name, array in state.items() if array.nbytes]
    if not filled:
        return
    name = data.draw(st.sampled_from(filled))
    raw = bytearray(state[name].tobytes())
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    array = np.frombuffer(bytes(raw), state[name].dtype).reshape(state[name].shape)
    assert state.with_arrays({name: array}).digest() != state.digest()


@pytest.mark.parametrize(
    "other",
    [
        State({"b": np.zeros(4, np.float32)}),
        State({"a": np.zeros((2, 2), np.float32)}),
        State({"a": np.zeros(4, np.int32)}),
        State({"a": np.zeros(4, np.float32)}, frozen=["a"]),
        State({"a": np.zeros(4, np.float32), "b": np.zeros(0)}),
        State({"a": np.array([0, 0, 0, -0.0], np.float32)}),
        State({}),
    ],
    ids=["name", "shape", "dtype", "frozen", "empty tensor", "sign of zero", "nothing"],
)
def test_the_digest_tells_apart(other):
    state = State({"a": np.zeros(4, np.float32)})
    assert state.digest() != other.digest()
    assert state != other


def test_insertion_and_memory_order_change_nothing():
    matrix = np.arange(6.0).reshape(2, 3)
    one = State({"a": matrix.copy(), "b": np.zeros(2)})
    two = State({"b": np.zeros(2), "a": np.asfortranarray(matrix)})
    assert list(two) == ["a", "b"]
    assert one == two
    assert pack(one)[0].tolist() == pack(two)[0].tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert hash(one) == hash(two)


def test_the_digest_is_the_same_in_another_process():
    code = (
        "import numpy as np; from openfl_flows.state import State;"
        "print(State({'b': np.arange(3.), 'a': np.array(1)}, frozen=['a']).digest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {State({"a": np.array(1), "b": np.arange(3.0)}, frozen=["a"]).digest()}


# --- copies ------------------------------------------------------------------------------------


def test_a_copy_is_the_state_itself():
    state = sample()
    assert copy.deepcopy(state) is state
    assert copy.copy(state) is state
    assert copy.deepcopy({"site": [state]})["site"][0] is state


@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_pickling_keeps_every_bit_and_stays_read_only(module):
    state = sample()
    again = module.loads(module.dumps(state))
    assert again.digest() == state.digest()
    assert again.frozen == ("c",)
    assert not any(array.flags.writeable for array in again.values())


# --- derived states ----------------------------------------------------------------------------


def test_reductions_follow_element_type_and_frozen_names():
    assert {t.name: t.reduce for t in sample().spec} == {
        "a": "max",
        "b": "mean",
        "c": "keep",
        "mask": "max",
    }
    assert list(sample().trained()) == ["b"]


def test_with_arrays_replaces_and_keeps_what_is_frozen():
    state = sample().with_arrays({"a": np.array(8)})
    assert state["a"] == 8
    assert state.frozen == ("c",)
    with pytest.raises(ValueError, match="'z' is not in the state"):
        state.with_arrays({"z": np.ones(1)})


def test_map_takes_other_states_by_name():
    one, two = State({"a": np.ones(2), "b": np.ones(1)}), State({"b": np.ones(1), "a": np.zeros(2)})
    total = one.map(np.add, two)
    assert total == State({"a": np.ones(2), "b": np.full(1, 2.0)})


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({}, "'a' is missing"),
        ({"a": np.ones(2), "z": np.ones(1)}, "'z' is unexpected"),
        ({"a": np.ones(3)}, r"'a' is float64\(3,\) reduced by mean, expected float64\(2,\)"),
        ({"a": np.ones(2, int)}, "'a' is int64"),
    ],
)
def test_a_difference_of_specs_names_the_tensor(theirs, message):
    assert re.search(message, State({"a": np.ones(2)}).spec.difference(State(theirs).spec))


def test_a_frozen_flag_is_a_difference_and_equal_specs_have_none():
    free, frozen = State({"a": np.ones(2)}).spec, State({"a": np.ones(2)}, frozen=["a"]).spec
    assert "reduced by keep, expected float64(2,) reduced by mean" in free.difference(frozen)
    assert free.difference(State({"a": np.zeros(2)}).spec) == ""


# --- packing -----------------------------------------------------------------------------------


@given(states(), st.integers(8, 64))
def test_packing_loses_nothing_and_respects_the_limit(state, max_bytes):
    buckets = pack(state, max_bytes)
    assert all(0 < bucket.nbytes <= max_bytes for bucket in buckets)
    assert sum(bucket.nbytes for bucket in buckets) == state.nbytes
    assert unpack(buckets, state.spec).digest() == state.digest()


def test_large_tensors_are_split_into_full_buckets():
    buckets = pack(State({"a": np.zeros(10, np.float32), "b": np.ones(5, np.float32)}), 16)
    assert [bucket.size for bucket in buckets] == [4, 4, 4, 3]
    assert buckets[2].tolist() == [0, 0, 1, 1]
    assert BUCKET_BYTES <= 64 * 1024 * 1024


def test_frozen_tensors_share_no_bucket_with_trained_ones():
    state = State({"a": np.zeros(2), "b": np.ones(2), "c": np.zeros(2)}, frozen=["b"])
    assert [bucket.tolist() for bucket in pack(state)] == [[1, 1], [0, 0, 0, 0]]


def test_a_bucket_holds_at_least_one_element():
    with pytest.raises(ValueError, match="max_bytes=7 is smaller than one float64"):
        pack(State({"a": np.ones(1)}), 7)


@pytest.mark.parametrize(
    ("buckets", "message"),
    [
        ([], "hold 0 float32 elements, expected 3"),
        ([np.zeros(4, np.float32)], "hold 4 float32 elements, expected 3"),
        ([np.zeros(3, np.float32), np.zeros(1, np.int8)], "hold 1 int8 elements, expected 0"),
    ],
)
def test_buckets_that_do_not_fit_are_refused(buckets, message):
    spec = Spec([TensorSpec(name="a", shape=(3,), dtype="float32", reduce="mean")])
    with pytest.raises(ValueError, match=message):
        unpack(buckets, spec)
