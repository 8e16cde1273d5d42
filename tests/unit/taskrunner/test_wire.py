"""What travels: exact arrays, a few buckets, and model files that explain themselves."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfl.pipelines.tensor_codec import TensorCodec
from openfl.protocols import utils
from openfl.utilities import TensorKey

from openfl_flows.metrics.mean import Mean
from openfl_flows.state import State
from openfl_flows.taskrunner.pipeline import DTYPES, ExactPipeline
from openfl_flows.taskrunner.wire import (
    bucket_names,
    from_buckets,
    from_model_tensors,
    mean_array,
    means_of,
    to_buckets,
    to_model_tensors,
)

STATE = State(
    {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "bias": np.float32([0.5]),
        "steps": np.int64([7]),
        "scalar": np.float32(3),
        "statistics": np.float64([0.1, 0.2]),
    },
    frozen=("statistics",),
)
FROZEN = {"statistics": STATE["statistics"]}


@given(
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0))
    )
)
def test_every_array_arrives_bit_for_bit(array):
    codec = TensorCodec(ExactPipeline())
    key = TensorKey("a", "site", 0, False, ("trained",))
    sent_key, data, metadata = codec.compress(key, array, require_lossless=True)
    message = utils.construct_named_tensor(sent_key, data, metadata, lossless=True)
    received = [{"int_list": list(m.int_list)} for m in message.transformer_metadata]
    _, arrived = codec.decompress(sent_key, message.data_bytes, received, require_lossless=True)
    assert arrived.dtype == array.dtype
    assert arrived.shape == array.shape
    assert arrived.tobytes() == array.tobytes()


def test_what_has_no_number_on_the_wire_is_refused():
    with pytest.raises(ValueError, match="cannot send complex64, expected one of float32"):
        ExactPipeline().forward(np.complex64([1]))


def test_frozen_tensors_stay_at_home():
    buckets = to_buckets(STATE)
    assert list(buckets) == bucket_names(STATE.spec)
    assert (
        sum(bucket.nbytes for bucket in buckets.values())
        == STATE.nbytes - FROZEN["statistics"].nbytes
    )
    assert from_buckets(buckets, STATE.spec, FROZEN) == STATE


def test_a_missing_and_an_unexpected_bucket_are_named():
    buckets = to_buckets(STATE)
    name, *_ = buckets
    with pytest.raises(ValueError, match=f"{name} is missing"):
        from_buckets({n: b for n, b in buckets.items() if n != name}, STATE.spec, FROZEN)
    with pytest.raises(ValueError, match="bucket-0099 is unexpected"):
        from_buckets({**buckets, "bucket-0099": buckets[name]}, STATE.spec, FROZEN)


def test_a_model_file_needs_nothing_but_itself():
    proto = utils.construct_model_proto(to_model_tensors(STATE), 0, ExactPipeline())
    tensors, round_number = utils.deconstruct_model_proto(proto, ExactPipeline())
    assert round_number == 0
    assert from_model_tensors(tensors) == STATE


def test_another_model_file_is_refused():
    with pytest.raises(ValueError, match="not a model file of this package"):
        from_model_tensors({"conv.weight": np.zeros(3, np.float32)})


def test_metrics_travel_as_sums():
    means = {"nll": Mean(0.1 + 0.2, 3), "mae": Mean(0.0, 0)}
    assert means_of({name: mean_array(mean) for name, mean in means.items()}) == means
