"""Norms of a round, against the same by hand."""

import numpy as np
import pytest

from openfl_flows.ops.files import map_state, save_state
from openfl_flows.ops.movement import movement
from openfl_flows.state import State
from openfl_flows.update import Update


def state(*values: float, fixed: float = 100.0) -> State:
    arrays = {"w": np.array(values, np.float32), "fixed": np.array([fixed], np.float32)}
    return State(arrays, frozen=["fixed"])


def update(site: str, *values: float, num_samples: int = 1) -> Update:
    return Update(site=site, state=state(*values, fixed=7.0), num_samples=num_samples)


def test_norms_are_those_by_hand():
    # Steps (1, 0) and (0, 1) from (3, 4), the first of three times the weight.
    found = movement(state(3, 4), [update("a", 4, 4, num_samples=3), update("b", 3, 5)])
    assert found["weight_norm"] == pytest.approx(5)
    assert found["update_norm"] == pytest.approx(np.hypot(0.75, 0.25))
    assert found["drift"] == pytest.approx(np.sqrt(0.75 * 2 * 0.25**2 + 0.25 * 2 * 0.75**2))


def test_equal_sites_do_not_drift():
    found = movement(state(3, 4), [update("a", 4, 4), update("b", 4, 4)])
    assert found["drift"] == 0
    assert found["update_norm"] == 1


def test_an_update_of_another_model_is_left_to_the_join():
    assert movement(state(3, 4), [update("a", 4, 4, 4)]) == {}


def test_mapped_files_give_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("openfl_flows.ops.movement._PIECE", 1)
    monkeypatch.setattr("openfl_flows.ops.movement._MAPPED", 4)
    expected = movement(state(3, 4), [update("a", 4, 4)])
    save_state(tmp_path / "a.safetensors", state(4, 4, fixed=7.0))
    mapped = Update(site="a", state=map_state(tmp_path / "a.safetensors"), num_samples=1)
    assert movement(state(3, 4), [mapped]) == expected
