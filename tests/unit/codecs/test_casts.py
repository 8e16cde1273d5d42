"""Casts: every half, every bfloat16, and what lies between them."""

import numpy as np
import pytest
import torch

from openfl_flows.codecs import casts
from openfl_flows.codecs.recipes import build_compression

FP16 = build_compression("fp16").codec
BF16 = build_compression("bf16").codec


def around(floats):
    """Floats in rising order, what lies halfway between them, and the floats next to that."""
    middle = ((floats[1:].astype(np.float64) + floats[:-1]) / 2).astype(np.float32)
    below, above = (np.nextafter(middle, np.float32(end)) for end in (-np.inf, np.inf))
    every = np.concatenate([floats, middle, below, above])
    return np.concatenate([every, -every])


def test_fp16_rounds_as_numpy_does():
    halves = np.arange(casts._INFINITY_FP16, dtype=np.uint16).view(np.float16)
    x = around(halves.astype(np.float32))
    payload = FP16.encode(x, 0)
    np.testing.assert_array_equal(payload.view(np.uint16), x.astype(np.float16).view(np.uint16))
    np.testing.assert_array_equal(FP16.decode(payload, x.size), x.astype(np.float16))


def test_bf16_rounds_as_torch_does():
    x = around(casts.from_bf16(np.arange(0x7F80, dtype=np.uint16)))
    expected = torch.from_numpy(x).bfloat16()
    payload = BF16.encode(x, 0)
    np.testing.assert_array_equal(payload.view(np.int16), expected.view(torch.int16).numpy())
    np.testing.assert_array_equal(BF16.decode(payload, x.size), expected.float().numpy())


def test_bf16_keeps_the_largest_floats_finite():
    largest = np.finfo(np.float32).max
    decoded = BF16.decode(BF16.encode(np.float32([largest, -largest]), 0), 2)
    np.testing.assert_array_equal(decoded, np.float32([3.3895314e38, -3.3895314e38]))


@pytest.mark.parametrize("value", [65520, -7e4, 3e38])
def test_fp16_refuses_what_would_become_infinite(value):
    assert np.isfinite(FP16.decode(FP16.encode(np.float32([65519, -65519]), 0), 2)).all()
    with pytest.raises(ValueError, match="is beyond fp16, expected at most 65504"):
        FP16.encode(np.float32([1, value]), 0)


@pytest.mark.parametrize(("codec", "bits"), [(BF16, 0x7F80), (BF16, 0x7FC1), (FP16, 0xFC00)])
def test_a_payload_that_is_not_finite_is_refused(codec, bits):
    payload = np.array([0, bits, 0], np.uint16).view(np.uint8)
    with pytest.raises(ValueError, match="expected finite"):
        codec.decode(payload, 3)


def test_the_next_bfloat16_upward():
    x = np.float32([0, 1, 1 + 2**-20, 255.5])
    upward = casts.from_bf16(casts.ceil_bf16(x))
    np.testing.assert_array_equal(upward, np.float32([0, 1, 1 + 2**-7, 256]))
