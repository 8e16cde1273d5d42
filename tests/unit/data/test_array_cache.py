"""The array cache: what was stored comes back, or nothing does."""

import numpy as np
import pytest

from openfl_flows.data.array_cache import cache_key, load_arrays, store_arrays


def test_round_trip_and_absence(tmp_path):
    path = tmp_path / "deep" / "a.npz"
    assert load_arrays(path) is None
    store_arrays(path, {"x": np.arange(3), "s": np.array(["é", ""])})
    loaded = load_arrays(path)
    assert loaded is not None
    assert loaded["x"].tolist() == [0, 1, 2]
    assert loaded["s"].tolist() == ["é", ""]


def test_objects_are_never_pickled_and_leave_the_old_file(tmp_path):
    path = tmp_path / "a.npz"
    store_arrays(path, {"x": np.arange(3)})
    before = path.read_bytes()
    with pytest.raises(ValueError, match="allow_pickle=False"):
        store_arrays(path, {"x": np.array([object()])})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_key_depends_on_content_and_options_not_on_their_order():
    key = cache_key(b"x", {"a": 1, "b": 2})
    assert key == cache_key(b"x", {"b": 2, "a": 1})
    assert len({key, cache_key(b"y", {"a": 1, "b": 2}), cache_key(b"x", {"a": 1, "b": 3})}) == 3
