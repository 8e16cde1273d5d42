"""Joins by name: what the plan's ``join`` group can ask for."""

import numpy as np
import pytest

from openfl_flows.joins import outer, recipes
from openfl_flows.joins.base import chain
from openfl_flows.joins.mean import weighted_mean
from openfl_flows.state import State
from openfl_flows.update import Update

MODEL = State({"w": np.array([1.0, 2.0])})
UPDATES = [
    Update(site="a", state=State({"w": np.array([0.0, 2.5])}), num_samples=1),
    Update(site="b", state=State({"w": np.array([-1.0, 3.0])}), num_samples=3),
]


def after_two_rounds(join):
    model, join_state = MODEL, join.init(MODEL)
    for _ in range(2):
        model, join_state = join.apply(model, UPDATES, join_state)
    return model


@pytest.mark.parametrize(
    ("name", "options", "optimizer"),
    [
        ("diloco", {"lr": 0.5, "momentum": 0.3}, outer.sgd(lr=0.5, momentum=0.3, nesterov=True)),
        ("fedavgm", {"lr": 0.5, "momentum": 0.3}, outer.sgd(lr=0.5, momentum=0.3, nesterov=False)),
        (
            "fedadam",
            {"lr": 0.5, "beta1": 0.3, "beta2": 0.4, "tau": 0.1},
            outer.adam(lr=0.5, betas=(0.3, 0.4), tau=0.1),
        ),
        (
            "fedyogi",
            {"lr": 0.5, "beta1": 0.3, "beta2": 0.4, "tau": 0.1},
            outer.yogi(lr=0.5, betas=(0.3, 0.4), tau=0.1),
        ),
    ],
)
def test_a_recipe_is_the_mean_and_its_optimizer_with_every_option(name, options, optimizer):
    expected = after_two_rounds(chain(weighted_mean(), optimizer))
    assert after_two_rounds(recipes.build_join(name, **options)) == expected


def test_the_recipes_differ():
    # Of two sites nothing can be trimmed: the median is the trimmed mean.
    makers = [make for name, make in recipes.JOINS.items() if name != "trimmed_mean"]
    assert len({after_two_rounds(make()) for make in makers}) == len(makers)


def test_the_default_gains_are_stable(recwarn):
    recipes.diloco()
    recipes.fedavgm()
    assert not recwarn.list


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"join.name='fedsgd' is unknown, expected one of fedavg"):
        recipes.build_join("fedsgd")


@pytest.mark.parametrize(
    ("name", "options", "option"),
    [("fedavg", {"lr": 1}, "lr"), ("trimmed_mean", {}, "trim"), ("diloco", {"mom": 1}, "mom")],
)
def test_an_option_that_does_not_belong_or_is_missing_is_refused(name, options, option):
    with pytest.raises(ValueError, match=f"join.name='{name}': .*'{option}'"):
        recipes.build_join(name, **options)


def test_max_norm_bounds_the_step_of_the_whole_join():
    join = recipes.build_join("fedavg", max_norm=0.25)
    model, _ = join.apply(MODEL, UPDATES, join.init(MODEL))
    assert np.linalg.norm(model["w"] - MODEL["w"]) <= 0.25 + 1e-12
