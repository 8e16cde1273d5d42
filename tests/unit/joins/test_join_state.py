"""A join's state is a State: saved and restored, the run goes on as if nothing had happened."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from openfl_flows.joins import outer
from openfl_flows.joins.base import Join, chain
from openfl_flows.joins.mean import weighted_mean
from openfl_flows.joins.recipes import JOINS, build_join
from openfl_flows.state import State
from openfl_flows.update import Update

WITH_STATE = {
    "diloco": JOINS["diloco"](lr=0.7, momentum=0.4),
    "fedavgm": JOINS["fedavgm"](),
    "fedadam": JOINS["fedadam"](),
    "fedyogi": JOINS["fedyogi"](),
    "guarded fedadam": build_join("fedadam", max_norm=1.0),
    "three stages": chain(weighted_mean(), outer.sgd(lr=0.5, momentum=0.5), outer.adam(lr=0.1)),
    "nested": chain(JOINS["diloco"](), chain(outer.yogi(lr=0.1), outer.sgd(lr=0.9, momentum=0.2))),
}


def model(seed: int) -> State:
    rng = np.random.default_rng(seed)
    return State(
        {
            "layer/0.weight": rng.normal(size=(2, 3)).astype(np.float32),
            "scale": np.array(rng.normal()),
            "steps": np.array(seed),
            "frozen": np.ones(2, np.float32),
        },
        frozen=["frozen"],
    )


def go_on(join: Join, state: State, join_state: State, rounds: range) -> tuple[State, State]:
    for number in rounds:
        updates = [
            Update(site=f"s{i}", state=model(10 * number + i), num_samples=i + 1) for i in range(3)
        ]
        state, join_state = join.apply(state, updates, join_state)
    return state, join_state


@pytest.mark.parametrize("join", WITH_STATE.values(), ids=WITH_STATE.keys())
def test_a_restored_run_equals_one_that_was_never_interrupted(join: Join, tmp_path: Path):
    start = model(999)
    expected = go_on(join, start, join.init(start), range(6))
    halfway, join_state = go_on(join, start, join.init(start), range(3))
    save_file(dict(join_state), tmp_path / "join.safetensors")
    restored = State(load_file(tmp_path / "join.safetensors"))
    assert restored.digest() == join_state.digest()
    assert go_on(join, halfway, restored, range(3, 6)) == expected


@pytest.mark.parametrize("join", WITH_STATE.values(), ids=WITH_STATE.keys())
def test_a_run_that_forgets_its_state_differs(join: Join):
    start = model(999)
    halfway, join_state = go_on(join, start, join.init(start), range(3))
    kept, _ = go_on(join, halfway, join_state, range(3, 6))
    forgot, _ = go_on(join, halfway, join.init(halfway), range(3, 6))
    assert kept != forgot


def test_only_averaged_tensors_have_momentum():
    join_state = JOINS["diloco"]().init(model(0))
    assert list(join_state) == ["1/layer/0.weight", "1/scale"]
