"""The keystream is that of the standard, and its normal numbers are normal."""

import numpy as np
import pytest
from scipy import stats

from openfl_flows.privacy.keystream import KEY_BYTES, Keystream


def test_it_is_chacha20():
    # RFC 8439, appendix A.1, test vector 1.
    expected = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    assert Keystream(bytes(KEY_BYTES)).words(4).astype("<u8").tobytes().hex() == expected


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 1000])
def test_a_stream_goes_on_where_it_was(cut):
    stream = Keystream(bytes(KEY_BYTES))
    parts = [stream.words(cut), stream.words(1000 - cut)]
    assert np.array_equal(np.concatenate(parts), Keystream(bytes(KEY_BYTES)).words(1000))


def test_normal_numbers_are_normal():
    numbers = Keystream(bytes(range(KEY_BYTES))).normal(100_001)
    assert numbers.shape == (100_001,)
    assert stats.kstest(numbers, "norm").pvalue > 0.01
    # The cosines and the sines of the same angles.
    assert abs(np.corrcoef(numbers[:50_000], numbers[50_001:])[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers[:50_000] ** 2, numbers[50_001:] ** 2)[0, 1]) < 0.02
