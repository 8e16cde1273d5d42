"""Laws that every codec keeps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from openfl_flows.codecs.base import Codec
from openfl_flows.codecs.recipes import build_compression
from openfl_flows.state import Array

BITS = {"int8": 8, "int4": 4, "int2": 2}
CASTS = {name: build_compression(name).codec for name in ("identity", "bf16", "fp16")}
NEAREST = {name: build_compression(name).codec for name in BITS} | {
    "int4 of 24": build_compression("int4", block=24).codec,
    "int2 of 4096": build_compression("int2", block=4096).codec,
}
STOCHASTIC = {name: build_compression(name, rounding="stochastic", block=64).codec for name in BITS}
TOPK = {
    "topk": build_compression("topk").codec,
    "topk of half": build_compression("topk", fraction=0.5).codec,
}
BY_ITSELF = {**CASTS, **NEAREST, **TOPK}
EVERY = {**BY_ITSELF, **{f"stochastic {name}": codec for name, codec in STOCHASTIC.items()}}
LOSSY = {name: codec for name, codec in EVERY.items() if not codec.exact}
SIZES = [0, 1, 7, 64, 65, 127, 4097, 2**16 - 1, 2**16, 2**16 + 1, 200_001]


def over(codecs: dict[str, Codec]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("codec", codecs.values(), ids=codecs.keys())


def through(codec: Codec, values: Array, seed: int = 0) -> Array:
    return codec.decode(codec.encode(values, seed), values.size)


def draw(kind: str, size: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    sample = {
        "gauss": rng.normal,
        "laplace": rng.laplace,
        "t": lambda size: rng.standard_t(3, size),
    }
    return np.asarray(sample[kind](size=size) * 1e-3, np.float32)


def values(limit: float = 6e4) -> st.SearchStrategy[Array]:
    """Few values of every magnitude, subnormal ones too, up to what fp16 holds."""
    return st_np.arrays(
        np.float32, st.integers(0, 150), elements=st.floats(-limit, limit, width=32)
    )


@over(EVERY)
@pytest.mark.parametrize("size", SIZES)
def test_the_payload_is_as_long_as_announced_and_decodes(codec, size):
    payload = codec.encode(draw("gauss", size), 5)
    assert payload.dtype == np.uint8
    assert payload.shape == (codec.num_bytes(size),)
    decoded = codec.decode(payload, size)
    assert decoded.dtype == np.float32
    assert decoded.shape == (size,)


@over(EVERY)
def test_where_the_payload_lies_and_who_may_write_to_it_changes_nothing(codec):
    x = draw("gauss", 70_000)
    payload = codec.encode(x, 1)
    frame = np.zeros(payload.size + 1, np.uint8)
    frame[1:] = payload
    frame.flags.writeable = False
    decoded = codec.decode(frame[1:], x.size)
    np.testing.assert_array_equal(decoded, codec.decode(payload, x.size))
    decoded[:] = 0
    np.testing.assert_array_equal(frame[1:], payload)


@over(EVERY)
def test_values_are_left_as_they_were(codec):
    x = draw("gauss", 70_000)
    x.flags.writeable = False
    before = x.copy()
    codec.encode(x, 1)
    np.testing.assert_array_equal(x, before)


@over(BY_ITSELF)
@settings(max_examples=40)
@given(x=values())
def test_what_was_decoded_is_encoded_the_same(codec, x):
    payload = codec.encode(x, 0)
    decoded = codec.decode(payload, x.size)
    np.testing.assert_array_equal(codec.encode(decoded, 1), payload)


@over(BY_ITSELF)
@pytest.mark.parametrize("kind", ["gauss", "laplace", "t"])
def test_what_was_decoded_is_encoded_the_same_at_length(codec, kind):
    payload = codec.encode(draw(kind, 150_001), 0)
    decoded = codec.decode(payload, 150_001)
    np.testing.assert_array_equal(codec.encode(decoded, 1), payload)


@over(BY_ITSELF)
@settings(max_examples=20)
@given(x=values())
def test_the_opposite_values_become_the_opposite(codec, x):
    np.testing.assert_array_equal(through(codec, -x), -through(codec, x))


@over(EVERY)
def test_zeros_stay_zeros(codec):
    x = draw("gauss", 9000)
    x[100:8000] = 0
    assert not through(codec, x)[100:8000].any()
    assert not through(codec, np.zeros(9000, np.float32)).any()


@over(BY_ITSELF)
def test_the_seed_matters_to_stochastic_rounding_only(codec):
    x = draw("gauss", 70_000)
    np.testing.assert_array_equal(codec.encode(x, 1), codec.encode(x, 2))


@over(STOCHASTIC)
def test_the_seed_alone_decides_how_values_are_rounded(codec):
    x = draw("gauss", 70_000)
    np.testing.assert_array_equal(codec.encode(x, 1), codec.encode(x, 1))
    assert (codec.encode(x, 1) != codec.encode(x, 2)).any()


@settings(max_examples=40)
@given(x=st_np.arrays(np.uint32, st.integers(0, 99)).map(lambda bits: bits.view(np.float32)))
def test_identity_is_exact_to_the_bit(x):
    x = x[np.isfinite(x)]
    decoded = through(CASTS["identity"], x)
    np.testing.assert_array_equal(decoded.view(np.uint32), x.view(np.uint32))


@pytest.mark.parametrize("name", ["int8", "int4"])
@settings(max_examples=60)
@given(x=values(limit=float(np.float32(1e38))), block=st.sampled_from([8, 24, 64]))
def test_rounding_to_nearest_is_off_by_half_a_step(name, x, block):
    codec = build_compression(name, block=block).codec
    largest = 2 ** (BITS[name] - 1) - 1
    error = np.abs(through(codec, x).astype(np.float64) - x)
    for start in range(0, x.size, block):
        absmax = np.abs(x[start : start + block]).max().astype(np.float64)
        # Half a step of integers, and 2**-9 of the largest value for the scale's own rounding.
        bound = absmax * (0.5 / largest + 2**-9) * (1 + 2**-8) + largest * 2.0**-126
        assert error[start : start + block].max() <= bound


@settings(max_examples=60)
@given(x=values(limit=float(np.float32(1e38))), block=st.sampled_from([8, 24, 64]))
def test_a_ternary_value_is_off_by_less_than_the_largest_of_its_block(x, block):
    error = np.abs(through(build_compression("int2", block=block).codec, x).astype(np.float64) - x)
    for start in range(0, x.size, block):
        absmax = np.abs(x[start : start + block]).max().astype(np.float64)
        assert error[start : start + block].max() <= 0.65 * absmax + 2.0**-125


@over(STOCHASTIC)
def test_stochastic_rounding_is_right_on_average(codec):
    x = draw("laplace", 4096)
    errors = np.stack([through(codec, x, seed).astype(np.float64) - x for seed in range(300)])
    total, squares = errors.sum(axis=0), (errors**2).sum()
    # Unbiased and independent, the square of a sum is on average the sum of squares.
    assert 0.9 < (total**2).sum() / squares < 1.1
    for direction in (np.ones_like(x), np.sign(x), np.sign(np.abs(x) - np.median(np.abs(x)))):
        assert abs((total * direction).sum()) < 4 * np.sqrt(squares)


@over(LOSSY)
@pytest.mark.parametrize("kind", ["gauss", "t"])
def test_with_error_feedback_the_sum_arrives_but_for_a_bounded_residual(codec, kind):
    residual = np.zeros(20_000, np.float32)
    sent, meant = np.zeros(20_000), np.zeros(20_000)
    norms = []
    for round_ in range(120):
        change = draw(kind, residual.size, seed=round_)
        given_ = change + residual
        decoded = through(codec, given_, round_)
        residual = given_ - decoded
        sent += decoded
        meant += change
        norms.append(np.linalg.norm(residual))
    np.testing.assert_allclose(sent + residual, meant, atol=1e-6)
    assert np.mean(norms[-20:]) < 1.3 * np.mean(norms[60:80]) + 1e-9


@over(EVERY)
@settings(max_examples=60)
@given(data=st.data(), n=st.integers(0, 130))
def test_any_bytes_decode_to_finite_values_or_are_refused(codec, data, n):
    size = codec.num_bytes(n)
    payload = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.uint8)
    try:
        decoded = codec.decode(payload, n)
    except ValueError:
        return
    assert decoded.shape == (n,)
    assert np.isfinite(decoded).all()


@over(EVERY)
@settings(max_examples=60)
@given(data=st.data())
def test_a_payload_with_a_flipped_bit_decodes_to_finite_values_or_is_refused(codec, data):
    x = draw("gauss", 200)
    payload = codec.encode(x, 0).copy()
    payload[data.draw(st.integers(0, payload.size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = codec.decode(payload, x.size)
    except ValueError:
        return
    assert np.isfinite(decoded).all()


@over(EVERY)
@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_payload_of_another_length_is_refused(codec, wrong):
    payload = np.zeros(codec.num_bytes(100) + wrong, np.uint8)
    with pytest.raises(ValueError, match=f"of {payload.size} bytes, expected"):
        codec.decode(payload, 100)


@over(EVERY)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 69_999])
def test_what_is_not_finite_is_not_encoded(codec, bad, place):
    x = draw("gauss", 70_000)
    x[place] = bad
    with pytest.raises(ValueError, match="a value is .*, expected finite ones"):
        codec.encode(x, 0)


@over({name: codec for name, codec in EVERY.items() if name != "fp16"})
def test_the_largest_floats_stay_finite_and_near(codec):
    x = np.full(130, np.finfo(np.float32).max)
    x[::2] *= -1
    decoded = through(codec, x)
    assert np.isfinite(decoded).all()
    sent = decoded != 0
    assert sent.any()
    np.testing.assert_allclose(decoded[sent], x[sent], rtol=0.04)
