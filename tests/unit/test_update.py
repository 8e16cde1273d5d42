"""What a site may send."""

import copy
import pickle

import numpy as np
import pytest

from openfl_flows.state import State
from openfl_flows.update import Update

STATE = State({"w": np.ones(2)})


@pytest.mark.parametrize("num_samples", [0, -3])
def test_an_update_without_weight_is_refused_by_site(num_samples):
    with pytest.raises(ValueError, match=f"'berlin' sent an update of {num_samples} samples"):
        Update(site="berlin", state=STATE, num_samples=num_samples)


def test_negative_steps_are_refused_by_site():
    with pytest.raises(ValueError, match="'berlin' sent an update of -1 steps"):
        Update(site="berlin", state=STATE, num_samples=1, num_steps=-1)


def test_an_update_cannot_be_changed():
    update = Update(site="berlin", state=STATE, num_samples=1)
    with pytest.raises(AttributeError):
        update.num_samples = 2


def test_copies_share_the_state_and_pickles_equal_the_original():
    update = Update(site="berlin", state=STATE, num_samples=5, num_steps=2, metrics={"loss": 0.5})
    assert copy.deepcopy(update).state is STATE
    assert pickle.loads(pickle.dumps(update)) == update
