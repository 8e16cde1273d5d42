"""Laws of streaming DiLoCo: joins of fragments, and rounds of sites that go on meanwhile."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from openfl_flows.joins.base import Join
from openfl_flows.joins.recipes import JOINS, build_join, diloco
from openfl_flows.joins.streaming import fragment, split, streaming, synchronised
from openfl_flows.learners.base import Budget, Learner, TrainReport
from openfl_flows.learners.fragments import Streaming, train_round
from openfl_flows.learners.module import load_module_state, module_state
from openfl_flows.learners.toy import ToyTask
from openfl_flows.state import State
from openfl_flows.update import Update
from tests.laws.test_joins import ELEMENTWISE, over, random_state, random_updates

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "streaming.json"
BY_ELEMENT = {**ELEMENTWISE, "guarded diloco": build_join("diloco")}
FRAGMENTS = pytest.mark.parametrize("fragments", [2, 3, 7])


def silent(step: int, num_steps: int, loss: float) -> None:
    pass


# --- joins --------------------------------------------------------------------------------------


def joined_in_turn(
    join: Join, fragments: int, model: State, rounds: list[list[Update]]
) -> tuple[State, State]:
    """Each round's updates, of whole models, fragment by fragment."""
    by_fragment = streaming(join, fragments)
    join_state = by_fragment.init(model)
    for updates in rounds:
        for names in split(model.spec, fragments):
            own = [
                Update(site=u.site, state=fragment(u.state, names), num_samples=u.num_samples)
                for u in updates
            ]
            model, join_state = by_fragment.apply(model, own, join_state)
    return model, join_state


@over(BY_ELEMENT)
@FRAGMENTS
def test_all_fragments_one_after_the_other_are_the_whole_join(join, fragments):
    model, rounds = random_state(77), [random_updates(3, seed) for seed in range(3)]
    in_turn, _ = joined_in_turn(join, fragments, model, rounds)
    join_state = join.init(model)
    for updates in rounds:
        model, join_state = join.apply(model, updates, join_state)
    assert in_turn == model


@pytest.mark.parametrize("make", JOINS.values(), ids=JOINS)
def test_one_fragment_is_the_join_itself(make):
    join = make(trim=0.1) if make is JOINS["trimmed_mean"] else make()
    assert streaming(join, 1) is join


def different(one: State, other: State) -> set[str]:
    return {name for name in one if one[name].tobytes() != other[name].tobytes()}


@over(BY_ELEMENT)
@FRAGMENTS
def test_what_is_not_synchronised_keeps_its_bits(join, fragments):
    model = random_state(77)
    by_fragment = streaming(join, fragments)
    join_state = by_fragment.init(model)
    for round_ in range(1, 2 * fragments + 1):
        names = synchronised(model.spec, fragments, round_)
        own = [
            Update(site=u.site, state=fragment(u.state, names), num_samples=u.num_samples)
            for u in random_updates(3, round_)
        ]
        after, state_after = by_fragment.apply(model, own, join_state)
        assert after.spec == model.spec
        assert different(model, after) <= set(names)
        number = (round_ - 1) % fragments
        assert all(name.startswith(f"{number}/") for name in different(join_state, state_after))
        model, join_state = after, state_after
    assert different(model, random_state(77)) >= {"w", "scale", "half"}


@over(BY_ELEMENT)
@settings(max_examples=10)
@given(data=st.data())
def test_the_order_of_arrival_changes_no_bit(join, data):
    model, rounds = random_state(77), [random_updates(5, seed) for seed in (1, 2)]
    shuffled = [data.draw(st.permutations(updates)) for updates in rounds]
    assert joined_in_turn(join, 3, model, rounds) == joined_in_turn(join, 3, model, shuffled)


@FRAGMENTS
def test_fragments_in_turn_send_what_one_synchronisation_sends(fragments):
    model = random_state(1)
    sent = [
        fragment(model, synchronised(model.spec, fragments, round_)).nbytes
        for round_ in range(1, fragments + 1)
    ]
    assert sum(sent) == model.travelling().nbytes
    assert max(sent) < sum(sent)


# --- rounds -------------------------------------------------------------------------------------


class Regression:
    """Two linear layers by SGD with momentum, on another batch at every step."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = {"generator": generator, "dtype": torch.float64}
        self.inputs = torch.randn(40, 8, 5, **shape)
        self.targets = self.inputs @ torch.randn(5, **shape) + seed
        self.module = network()
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.01, momentum=0.5)
        self.step = 0

    def receive(self, state: State) -> None:
        load_module_state(self.module, state)

    def send(self) -> State:
        return module_state(self.module)

    def train(self, budget: Budget, progress) -> TrainReport:
        assert budget.steps is not None
        for _ in range(budget.steps):
            self.take_step()
        return TrainReport(metrics={}, num_samples=8 * budget.steps, num_steps=budget.steps)

    def take_step(self) -> None:
        self.optimizer.zero_grad()
        error = self.module(self.inputs[self.step]).squeeze(-1) - self.targets[self.step]
        error.square().mean().backward()
        self.optimizer.step()
        self.step += 1


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 1)).double()


@dataclass
class Run:
    """What rounds gave: the models after each, and what is left in the end."""

    models: list[State]
    sent: list[State]
    join_state: State
    reports: list[TrainReport]


def streamed(
    learners: dict[str, Learner],
    model: State,
    join: Join,
    rounds: int,
    budget: Budget,
    how: Streaming,
) -> Run:
    """Rounds as an aggregator and its sites do them."""
    by_fragment = streaming(join, how.fragments)
    run = Run([], [], by_fragment.init(model), [])
    locals_ = dict.fromkeys(learners, model)
    for round_ in range(1, rounds + 1):
        updates = []
        for site, learner in learners.items():
            synced = synchronised(model.spec, how.fragments, round_ - 1)
            report = train_round(learner, locals_[site], model, synced, how, budget, silent)
            locals_[site] = learner.send()
            names = synchronised(model.spec, how.fragments, round_)
            sent = fragment(locals_[site], names) if how.fragments > 1 else locals_[site]
            updates.append(Update(site=site, state=sent, num_samples=report.num_samples))
            run.sent.append(locals_[site])
            run.reports.append(report)
        model, run.join_state = by_fragment.apply(model, updates, run.join_state)
        run.models.append(model)
    return run


def reference(rounds: int, steps: int, how: Streaming, lr: float, momentum: float):
    """The published algorithm by its step count, with torch's optimizer for each fragment."""
    sites = [Regression(1), Regression(2)]
    theta = {name: tensor.clone() for name, tensor in network().state_dict().items()}
    parts = split(module_state(network()).spec, how.fragments)
    outer = [
        torch.optim.SGD([theta[n] for n in part], lr=lr, momentum=momentum, nesterov=True)
        for part in parts
    ]
    models, number = [], 0
    for step in range(1, rounds * steps + 1):
        for site in sites:
            site.take_step()
        if step % steps == 0:
            number = (step // steps - 1) % how.fragments
            for name in parts[number]:
                mean = sum(site.module.state_dict()[name] for site in sites) / len(sites)
                theta[name].grad = theta[name] - mean
            outer[number].step()
            models.append({name: tensor.clone() for name, tensor in theta.items()})
        if step >= steps and step % steps == how.delay:
            for site in sites:
                for name in parts[number]:
                    own = site.module.state_dict()[name]
                    own.copy_(torch.lerp(theta[name], own, how.mixing))
    return models


@pytest.mark.parametrize("mixing", [0.0, 0.5])
@pytest.mark.parametrize("delay", [0, 2])
@pytest.mark.parametrize("fragments", [1, 2, 3])
def test_rounds_are_the_published_algorithm(fragments, delay, mixing):
    how = Streaming(fragments=fragments, delay=delay, mixing=mixing)
    rounds, steps, outer = 3 * fragments + 1, 3, {"lr": 0.8, "momentum": 0.3}
    sites = {f"s{seed}": Regression(seed) for seed in (1, 2)}
    initial = module_state(network())
    run = streamed(sites, initial, diloco(**outer), rounds, Budget(steps=steps), how)
    expected = reference(rounds, steps, how, **outer)
    for found, model in zip(run.models, expected, strict=True):
        for name, tensor in model.items():
            np.testing.assert_allclose(found[name], tensor.numpy(), rtol=0, atol=1e-12)
    assert run.models[-1] != initial


def test_delay_and_mixing_make_a_difference():
    hows = [Streaming(fragments=2, delay=d, mixing=m) for d in (0, 1) for m in (0.0, 0.5)]
    last = {
        streamed(
            {"s1": Regression(1), "s2": Regression(2)}, module_state(network()), diloco(), 4,
            Budget(steps=3), how,
        ).models[-1]
        for how in hows
    }  # fmt: skip
    assert len(last) == len(hows)


@pytest.mark.parametrize("budget", [Budget(steps=3), Budget(epochs=0.5)], ids=["steps", "epochs"])
@pytest.mark.parametrize("name", ["fedavg", "diloco", "fedavgm", "fedadam"])
def test_one_fragment_without_delay_or_mixing_is_the_plain_round_bit_for_bit(name, budget):
    task = ToyTask(sites=("a", "b", "c"), padding=3)
    model, join = task.initial_state(), JOINS[name]()
    ours = {site: task.learner(site) for site in task.sites}
    run = streamed(ours, model, join, 4, budget, Streaming())
    plain = {site: task.learner(site) for site in task.sites}
    join_state, models, reports = join.init(model), [], []
    for _ in range(4):
        updates = []
        for site, learner in plain.items():
            learner.receive(model)
            reports.append(learner.train(budget, silent))
            num_samples = reports[-1].num_samples
            updates.append(Update(site=site, state=learner.send(), num_samples=num_samples))
        model, join_state = join.apply(model, updates, join_state)
        models.append(model)
    assert (run.models, run.join_state, run.reports) == (models, join_state, reports)
    for site in task.sites:
        own, other = (each[site].local_state()["optimizer"]["state"][0] for each in (ours, plain))
        assert torch.equal(own["momentum_buffer"], other["momentum_buffer"])


class Slope:
    """Falls by the same amount at every step."""

    def __init__(self, slopes: dict[str, float]) -> None:
        self.slopes = slopes

    def receive(self, state: State) -> None:
        self.state = state
        self.received = state

    def send(self) -> State:
        return self.state

    def train(self, budget: Budget, progress) -> TrainReport:
        assert budget.steps is not None
        for _ in range(budget.steps):
            self.state = State({n: a - np.float32(self.slopes[n]) for n, a in self.state.items()})
        return TrainReport(metrics={}, num_samples=1, num_steps=budget.steps)


def test_rounds_by_hand():
    golden = json.loads(GOLDEN.read_text())
    how = Streaming(**{name: golden[name] for name in ("fragments", "delay", "mixing")})
    join = diloco(lr=golden["lr"], momentum=golden["momentum"])

    def state(values: dict[str, float]) -> State:
        return State({name: np.array([value], np.float32) for name, value in values.items()})

    sites = {site: Slope(slopes) for site, slopes in golden["slopes"].items()}
    for rounds in range(1, len(golden["rounds"]) + 1):
        learners = copy.deepcopy(sites)
        run = streamed(
            learners, state(golden["initial"]), join, rounds, Budget(steps=golden["steps"]), how
        )
        row = golden["rounds"][rounds - 1]
        assert run.models[-1] == state(row["model"])
        assert run.join_state == state(
            {f"{number}/1/{n}": row["momentum"][n] for number, n in enumerate("ab")}
        )
        assert {site: slope.received for site, slope in learners.items()} == {
            site: state(values) for site, values in row["mixed"].items()
        }
        assert run.sent[-2:] == [state(values) for values in row["trained"].values()]
