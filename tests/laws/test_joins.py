"""Laws that every join keeps."""

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_flows.joins import outer
from openfl_flows.joins.base import Join, chain
from openfl_flows.joins.mean import weighted_mean
from openfl_flows.joins.recipes import JOINS, build_join
from openfl_flows.state import State, pack, unpack
from openfl_flows.update import Update

WEIGHTED = {
    "fedavg": JOINS["fedavg"](),
    "diloco": JOINS["diloco"](),
    "fedavgm": JOINS["fedavgm"](),
    "fedadam": JOINS["fedadam"](),
    "fedyogi": JOINS["fedyogi"](),
}
ELEMENTWISE = {
    **WEIGHTED,
    "median": JOINS["median"](),
    "trimmed_mean": JOINS["trimmed_mean"](trim=0.3),
}
GUARDED = {
    "guarded fedavg": build_join("fedavg"),
    "clipped diloco": build_join("diloco", max_norm=0.5),
    "clipped median": build_join("median", max_norm=0.5),
}
EVERY = {**ELEMENTWISE, **GUARDED}


def over(joins: dict[str, Join]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("join", joins.values(), ids=joins.keys())


def random_state(seed: int) -> State:
    """Trained, counted and frozen tensors, of several shapes and two precisions."""
    rng = np.random.default_rng(seed)
    return State(
        {
            "w": rng.normal(size=(3, 4)).astype(np.float32),
            "scale": np.array(rng.normal()),
            "half": rng.normal(size=5).astype(np.float16),
            "empty": np.zeros((0, 2), np.float32),
            "zero": np.array([-0.0, 0.0], np.float32),
            "num_batches": np.array(rng.integers(1000)),
            "seen": rng.random(4) < 0.5,
            "frozen": rng.normal(size=2).astype(np.float32),
        },
        frozen=["frozen"],
    )


def random_updates(num_sites: int, seed: int = 0) -> list[Update]:
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 99, num_sites).tolist()
    return [
        Update(site=f"s{i}", state=random_state(1000 * seed + i), num_samples=weight)
        for i, weight in enumerate(weights)
    ]


def run(join: Join, rounds: list[list[Update]], model: State | None = None) -> tuple[State, State]:
    model = random_state(77) if model is None else model
    join_state = join.init(model)
    for updates in rounds:
        model, join_state = join.apply(model, updates, join_state)
    return model, join_state


@over(EVERY)
@settings(max_examples=10)
@given(data=st.data())
def test_the_order_of_arrival_changes_no_bit(join, data):
    rounds = [random_updates(5, seed) for seed in (1, 2)]
    shuffled = [data.draw(st.permutations(updates)) for updates in rounds]
    assert run(join, rounds) == run(join, shuffled)


@over(EVERY)
@settings(max_examples=10)
@given(factor=st.integers(2, 10**12))
def test_scaling_all_weights_changes_no_bit(join, factor):
    updates = random_updates(4)
    scaled = [
        Update(site=u.site, state=u.state, num_samples=u.num_samples * factor) for u in updates
    ]
    assert run(join, [updates]) == run(join, [scaled])


@over(EVERY)
@settings(max_examples=10)
@given(weights=st.lists(st.integers(1, 10**6), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_sites_that_agree_with_the_model_leave_it(join, weights, seed):
    model = random_state(seed)
    updates = [
        Update(site=f"s{i}", state=model, num_samples=weight) for i, weight in enumerate(weights)
    ]
    assert run(join, [updates] * 3, model)[0] == model


@over(EVERY)
def test_joining_keeps_the_spec_and_leaves_its_inputs_alone(join):
    model, updates = random_state(77), random_updates(3)
    join_state = join.init(model)
    before = [model.digest(), join_state.digest(), *(u.state.digest() for u in updates)]
    joined, after = join.apply(model, updates, join_state)
    assert joined.spec == model.spec
    assert after.spec == join_state.spec
    rebuilt = [State(model, frozen=model.frozen), State(join_state)]
    rebuilt += [State(u.state, frozen=u.state.frozen) for u in updates]
    assert [state.digest() for state in rebuilt] == before


@over(EVERY)
def test_counters_take_the_maximum_and_frozen_tensors_stay(join):
    model, updates = random_state(77), random_updates(3)
    joined, _ = run(join, [updates], model)
    assert joined["num_batches"] == max(u.state["num_batches"] for u in updates)
    assert (joined["seen"] == np.any([u.state["seen"] for u in updates], axis=0)).all()
    assert (joined["frozen"] == model["frozen"]).all()


@over(EVERY)
def test_the_same_inputs_give_the_same_bits(join):
    rounds = [random_updates(3, seed) for seed in range(3)]
    assert run(join, rounds) == run(join, rounds)


@over(ELEMENTWISE)
@pytest.mark.parametrize("max_bytes", [8, 24, 2**20])
def test_buckets_give_the_same_bits_as_tensors(join, max_bytes):
    def bucketed(state: State) -> State:
        buckets = {f"{i:03}": b for i, b in enumerate(pack(state, max_bytes))}
        num_frozen = len(pack(State({"frozen": state["frozen"]}), max_bytes))
        # Element types come in sorted order and "keep" before "mean": bool, float16, then float32.
        first = sum(len(pack(State({n: state[n]}), max_bytes)) for n in ("seen", "half"))
        return State(buckets, frozen=list(buckets)[first : first + num_frozen])

    model, rounds = random_state(77), [random_updates(3, seed) for seed in range(3)]
    joined, _ = run(join, rounds, model)
    packed_rounds = [
        [Update(site=u.site, state=bucketed(u.state), num_samples=u.num_samples) for u in updates]
        for updates in rounds
    ]
    packed, _ = run(join, packed_rounds, bucketed(model))
    assert unpack(list(packed.values()), model.spec) == joined


@pytest.mark.parametrize("nesterov", [True, False])
def test_without_momentum_and_with_unit_rate_the_outer_step_is_fedavg(nesterov):
    join = chain(weighted_mean(), outer.sgd(lr=1, momentum=0, nesterov=nesterov))
    rounds = [random_updates(4, seed) for seed in range(3)]
    assert run(join, rounds)[0] == run(weighted_mean(), rounds)[0]


@pytest.mark.parametrize("name", ["fedavg", "guarded fedavg", "median", "trimmed_mean"])
def test_one_site_gives_its_own_bits(name):
    model, [update] = random_state(77), random_updates(1)
    joined, _ = run(EVERY[name], [[update]], model)
    assert joined == update.state.with_arrays({"frozen": model["frozen"]})


# --- what is refused ---------------------------------------------------------------------------


@over(EVERY)
def test_no_updates_are_refused(join):
    with pytest.raises(ValueError, match="no updates to join"):
        run(join, [[]])


@over(EVERY)
def test_two_updates_of_one_site_are_refused_by_name(join):
    one, two = random_updates(2)
    twin = Update(site="s0", state=two.state, num_samples=1)
    with pytest.raises(ValueError, match="'s0'"):
        run(join, [[one, twin]])


@over(EVERY)
def test_a_stream_out_of_order_is_refused_by_name(join):
    with pytest.raises(ValueError, match="site 's0' came after that of 's1'"):
        run(join, [reversed(random_updates(2))])


@over(EVERY)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": np.zeros(3, np.float32)}, r"'w' is float32\(3,\)"),
        ({"w": np.zeros((3, 4))}, r"'w' is float64\(3, 4\)"),
        ({"new": np.zeros(1)}, "'new' is unexpected"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_by_site_and_tensor(join, change, message):
    good, bad = random_updates(2)
    state = State({**bad.state, **change}, frozen=bad.state.frozen)
    with pytest.raises(ValueError, match=f"site 's1' does not fit the model: tensor {message}"):
        run(join, [[good, Update(site="s1", state=state, num_samples=1)]])


@over(EVERY)
def test_an_update_that_thaws_a_frozen_tensor_is_refused(join):
    good, bad = random_updates(2)
    thawed = Update(site="s1", state=State(bad.state), num_samples=1)
    with pytest.raises(ValueError, match="'frozen' is .* reduced by mean, expected .* by keep"):
        run(join, [[good, thawed]])


@over(GUARDED)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_guard_names_site_tensor_and_count(join, value):
    good, bad = random_updates(2)
    w = bad.state["w"].copy()
    w[1, :2] = value
    broken = Update(site="s1", state=bad.state.with_arrays({"w": w}), num_samples=1)
    message = "site 's1' is not finite: tensor 'w' has 2 NaN or infinite of 12 values"
    with pytest.raises(ValueError, match=message):
        run(join, [[good, broken]])


# --- memory ------------------------------------------------------------------------------------


@over({**WEIGHTED, **{name: GUARDED[name] for name in ("guarded fedavg", "clipped diloco")}})
def test_one_update_is_in_memory_at_a_time(join):
    alive: list[weakref.ref] = []

    def stream() -> Iterator[Update]:
        for update in range(5):
            assert not any(ref() is not None for ref in alive), "an earlier update is still alive"
            state = random_state(update)
            alive.extend(weakref.ref(array) for array in state.values())
            yield Update(site=f"s{update}", state=state, num_samples=1 + update)
            del state

    run(join, [stream()])
    assert len(alive) == 5 * len(random_state(0))
