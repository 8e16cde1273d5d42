"""What leaves a site: an update of bounded norm, and noise of the size that was asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from openfl_flows.privacy.gaussian import Gaussian, release
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.state import State

KEY = bytes(range(32))


def model(seed: int, size: float = 1.0, shape: tuple[int, ...] = (40, 50)) -> State:
    rng = np.random.default_rng(seed)
    arrays = {
        "a": (size * rng.standard_normal(shape)).astype("float32"),
        "b": np.float32(size * rng.standard_normal(())),
        "frozen": rng.standard_normal(7).astype("float32"),
    }
    return State({name: np.asarray(array) for name, array in arrays.items()}, frozen=["frozen"])


def changed(before: State, after: State) -> np.ndarray:
    return np.concatenate([(before[n].astype("f8") - after[n]).ravel() for n in ("a", "b")])


def mechanism(clip_norm: float, noise_multiplier: float) -> Gaussian:
    return Gaussian(clip_norm=clip_norm, noise_multiplier=noise_multiplier)


@given(size=st.floats(1e-3, 1e3), clip_norm=st.floats(1e-2, 1e2))
def test_no_update_is_longer_than_the_clip_norm(size, clip_norm):
    before, trained = model(0), model(1, size)
    released = release(trained, before, mechanism(clip_norm, 1e-9), KEY)
    own, sent = changed(before, trained), changed(before, released.state)
    norm = np.linalg.norm(own)
    assert released.norm == pytest.approx(norm, rel=1e-6)
    rounding = 1e-6 * (np.linalg.norm(changed(before, State({n: 0 * before[n] for n in "ab"}))) + 1)
    assert np.linalg.norm(sent) <= clip_norm + rounding
    assert sent == pytest.approx(own * min(1, clip_norm / norm), abs=1e-5)


def test_the_noise_is_normal_and_of_the_size_asked_for():
    before = model(0)
    released = release(before, before, mechanism(0.5, 4.0), KEY)
    noise = changed(before, released.state) / (0.5 * 4.0)
    assert released.norm == 0
    assert stats.kstest(noise, "norm").pvalue > 0.01


def test_the_noise_comes_from_the_key_alone():
    before, how = model(0), mechanism(1.0, 1.0)
    first = release(model(1), before, how, KEY).state
    assert release(model(1), before, how, KEY).state == first
    assert release(model(1), before, how, bytes(32)).state != first


def test_what_is_frozen_stays():
    before = model(0)
    sent = release(model(0, 2.0), before, mechanism(1.0, 1.0), KEY).state
    assert np.array_equal(sent["frozen"], before["frozen"])
    assert sent.spec == before.spec


def test_large_tensors_are_no_other_than_small_ones():
    before, trained = model(0, shape=(3, 200_000)), model(1, shape=(3, 200_000))
    sent = release(trained, before, mechanism(1.0, 1e-9), KEY).state
    assert np.linalg.norm(changed(before, sent)) == pytest.approx(1, rel=1e-3)


def test_nothing_leaves_without_noise():
    counted = State({"a": np.zeros(3, "float32"), "steps": np.int64(3).reshape(())})
    with pytest.raises(WithheldError, match="'steps' is int64, expected floating point"):
        release(counted, counted, mechanism(1.0, 1.0), KEY)
    broken = State({"a": np.full(3, np.nan, "float32")})
    with pytest.raises(WithheldError, match="not finite"):
        release(broken, State({"a": np.zeros(3, "float32")}), mechanism(1.0, 1.0), KEY)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("clip_norm", 0),
        ("clip_norm", float("inf")),
        ("noise_multiplier", -1),
        ("noise_multiplier", float("nan")),
        ("max_epsilon", 0),
        ("delta", 0),
        ("delta", 1),
    ],
)
def test_what_is_no_mechanism_is_refused(key, value):
    with pytest.raises(ValueError, match=f"privacy.{key}={value}, expected a number"):
        Gaussian(**{"clip_norm": 1.0, "noise_multiplier": 1.0, key: value})
