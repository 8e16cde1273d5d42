"""Top-k: which values travel, and what a payload must not hold."""

import numpy as np
import pytest

from openfl_flows.codecs.recipes import build_compression


def topk(fraction):
    return build_compression("topk", fraction=fraction).codec


def test_the_largest_travel():
    x = np.float32([1, -8, 0.5, 2, -4, 0, 0, 3])
    decoded = topk(0.375).decode(topk(0.375).encode(x, 0), 8)
    np.testing.assert_array_equal(decoded, np.float32([0, -8, 0, 0, -4, 0, 0, 3]))


def test_the_first_of_equals_travel():
    decoded = topk(0.25).decode(topk(0.25).encode(np.ones(8, np.float32), 0), 8)
    np.testing.assert_array_equal(decoded, np.float32([1, 1, 0, 0, 0, 0, 0, 0]))


def test_every_piece_sends_its_own_largest():
    x = np.random.default_rng(0).normal(size=3 * 2**16 + 1000).astype(np.float32)
    x[2**16 :] *= 1e-6
    decoded = topk(0.01).decode(topk(0.01).encode(x, 0), x.size)
    for start in range(0, x.size, 2**16):
        part, sent = x[start : start + 2**16], decoded[start : start + 2**16] != 0
        assert sent.sum() == np.ceil(0.01 * part.size)
        assert np.abs(part[sent]).min() >= np.abs(part[~sent]).max() * (1 - 2**-7)
        np.testing.assert_allclose(decoded[start : start + 2**16][sent], part[sent], rtol=2**-8)


@pytest.mark.parametrize("fraction", [0.001, 0.03, 0.5])
def test_bytes_a_value(fraction):
    expected = fraction * 25 / 8 + 1 / 2048
    assert topk(fraction).num_bytes(2**20) / 2**20 == pytest.approx(expected, rel=0.01)


def payload_of(lower, row):
    """Four of 512 values, all 1."""
    return np.array([*lower, row, *[0x80, 0x3F] * 4], np.uint8)


def test_a_payload_by_hand():
    # Positions 3, 9, 255 and 256 + 2: bits 0, 1, 2 and 1 + 3.
    decoded = topk(4 / 512).decode(payload_of([3, 9, 255, 2], 0b010111), 512)
    assert np.flatnonzero(decoded).tolist() == [3, 9, 255, 258]


@pytest.mark.parametrize(
    ("lower", "row", "n", "reason"),
    [
        ([3, 9, 255, 2], 0b000111, 512, "3 positions, expected 4"),
        ([3, 9, 255, 2], 0b110111, 512, "5 positions, expected 4"),
        ([3, 9, 9, 2], 0b010111, 512, "positions that do not rise"),
        ([3, 9, 8, 2], 0b010111, 512, "positions that do not rise"),
        ([3, 9, 255, 2], 0b100111, 512, "position 514 of 512 values"),
        ([3, 9, 255, 244], 0b010111, 500, "position 500 of 500 values"),
    ],
)
def test_wrong_positions_are_refused(lower, row, n, reason):
    with pytest.raises(ValueError, match=f"topk payload holds {reason}"):
        topk(4 / 512).decode(payload_of(lower, row), n)


def test_values_that_are_not_finite_are_refused():
    payload = payload_of([3, 9, 255, 2], 0b010111)
    payload[-1] = 0x7F
    with pytest.raises(ValueError, match="expected finite"):
        topk(4 / 512).decode(payload, 512)
