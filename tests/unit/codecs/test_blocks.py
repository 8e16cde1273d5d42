"""Block-wise integers: their bytes by hand, and what a payload must not hold."""

import numpy as np
import pytest
import zstandard

from openfl_flows.codecs.base import Codec
from openfl_flows.codecs.recipes import build_compression

ONE = 0x3F80  # the bits of 1 as a bfloat16


def codec(name: str, **options: object) -> Codec:
    return build_compression(name, **options).codec


def test_int8_by_hand():
    x = np.float32([127, -127, 1, 0.5, 1.5, -0.4, 0, 64.4])
    payload = codec("int8", block=8).encode(x, 0)
    # Four lanes of two values: word j holds values j, 2 + j, 4 + j and 6 + j. Ties go to even.
    words = [[127, 1, 2, 0], [129, 0, 0, 64]]
    assert payload.tolist() == [*words[0], *words[1], ONE >> 8, ONE & 255]


def test_int4_by_hand():
    x = np.float32([7, -7, 1, 2, 3, -1, -2, 0])
    payload = codec("int4", block=8).encode(x, 0)
    codes = [7, 9, 1, 2, 3, 15, 14, 0]
    pairs = [low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True)]
    assert payload.tolist() == [*pairs, ONE >> 8, ONE & 255]


def test_a_ternary_scale_is_the_mean_of_what_counts():
    x = np.float32([1, -0.5, 0.34, 0.1, 0, 0, 0, 0])
    codec_ = codec("int2", block=8)
    payload = codec_.encode(x, 0)
    assert payload[:4].tolist() == [0b1101, 0, 0, 0]
    np.testing.assert_array_equal(codec_.decode(payload, 8), np.float32([0.75, -0.75] + [0] * 6))


@pytest.mark.parametrize(
    ("name", "expected"), [("int8", 1 + 2 / 128), ("int4", 0.5 + 2 / 64), ("int2", 0.25 + 2 / 64)]
)
def test_bytes_a_value(name, expected):
    assert codec(name).num_bytes(10 * 2**20) / (10 * 2**20) == pytest.approx(expected)
    assert codec(name).num_bytes(0) == 0


@pytest.mark.parametrize("name", ["int8", "int4", "int2"])
def test_each_block_has_its_own_scale(name):
    x = np.ones(3 * 64, np.float32)
    x[64:128] *= 1e-6
    x[128:] *= 1e30
    block_codec = codec(name, block=64)
    decoded = block_codec.decode(block_codec.encode(x, 0), x.size)
    np.testing.assert_allclose(decoded, x, rtol=2**-8)


@pytest.mark.parametrize("name", ["int8", "int4", "int2"])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_subnormal_values_become_zeros_next_to_others_that_do_not(name, rounding):
    x = np.zeros(32, np.float32)
    x[:16] = np.float32(1e-41)
    x[16:] = np.float32(1e-35)
    block_codec = codec(name, block=16, rounding=rounding)
    decoded = block_codec.decode(block_codec.encode(x, 0), x.size)
    assert not decoded[:16].any()
    np.testing.assert_allclose(decoded[16:], x[16:], rtol=2**-7)


@pytest.mark.parametrize("name", ["int8", "int4", "int2"])
def test_a_code_that_is_never_written_is_refused(name):
    bits = int(name[3:])
    payload = codec(name).encode(np.ones(128, np.float32), 0).copy()
    payload[0] = int(payload[0]) >> bits << bits | 1 << bits - 1
    with pytest.raises(ValueError, match=f"{name} payload holds -{2 ** (bits - 1)}, never written"):
        codec(name).decode(payload, 128)


@pytest.mark.parametrize("name", ["int8", "int4", "int2"])
@pytest.mark.parametrize("bits", [0x7F80, 0x7FC0, 0xFF80, 0xBF80, 0x8000, 0x007F])
def test_a_scale_that_is_never_written_is_refused(name, bits):
    payload = codec(name, block=64).encode(np.ones(128, np.float32), 0).copy()
    payload[-4], payload[-2] = bits >> 8, bits & 255
    with pytest.raises(ValueError, match=f"{name} payload holds the scale .*, never written"):
        codec(name, block=64).decode(payload, 128)


def test_a_scale_that_would_lead_to_infinity_is_refused():
    payload = codec("int4").encode(np.ones(64, np.float32), 0).copy()
    payload[-2:] = 0x7F, 0x7F
    with pytest.raises(ValueError, match="payload holds the scale 3.38.*e\\+38, never written"):
        codec("int4").decode(payload, 64)


def test_padding_must_be_zero():
    payload = codec("int4", block=8).encode(np.ones(5, np.float32), 0).copy()
    payload[3] |= 0x10
    with pytest.raises(ValueError, match="not zero beyond its 5 values"):
        codec("int4", block=8).decode(payload, 5)
    # A word holds 16 ternary values, two blocks of 8.
    payload = codec("int2", block=8).encode(np.ones(5, np.float32), 0).copy()
    payload[-3], payload[-1] = ONE >> 8, ONE & 255
    with pytest.raises(ValueError, match="a scale beyond its 5 values"):
        codec("int2", block=8).decode(payload, 5)


@pytest.mark.parametrize("kind", ["normal", "laplace", "standard_t"])
def test_int2_with_error_feedback_takes_a_fifth_of_a_byte(kind):
    rng = np.random.default_rng(0)
    ternary = codec("int2")
    n = 2**17
    residual = np.zeros(n, np.float32)
    for _ in range(12):
        draw = rng.standard_t(3, n) if kind == "standard_t" else getattr(rng, kind)(size=n)
        change = draw.astype(np.float32) + residual
        payload = ternary.encode(change, 0)
        residual = change - ternary.decode(payload, n)
        assert len(zstandard.ZstdCompressor(level=1).compress(payload)) / n < 0.2
