"""Guidance: free properties, units, neighbours, and the choice among candidates."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from openfl_flows.models.digress import (
    Guidance,
    Noisy,
    Regressor,
    Selection,
    error_variance,
    regressor_config,
)
from tests.unit.models.digress.digress_graphs import (
    config,
    denoiser,
    generator,
    random_graphs,
    regressor,
    statistics,
)

FREE = float("nan")
TARGET = torch.tensor([3.0, -6.5])
EVEN = torch.cat([torch.linspace(0.5, 1.0, 21)] * 2).view(2, 21).T


def noised(num: int = 64):
    judge = regressor()
    return judge, judge.corrupt(random_graphs(num), generator())


@pytest.mark.parametrize("size", [1, 8])
def test_a_graph_is_pulled_alike_alone_and_among_others(size):
    judge, noisy = noised()
    part = Noisy(noisy.graphs.rows(slice(0, size)), noisy.t[:size])
    gradient = Guidance(regressor=judge, target=TARGET, strength=10.0)
    assert_close(
        gradient.log_factors(part).bonds, gradient.log_factors(noisy).bonds[:size],
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip
    selection = Selection(regressor=judge, target=TARGET, variance=EVEN)
    assert_close(
        selection.log_likelihood(part), selection.log_likelihood(noisy)[:size], rtol=1e-4, atol=1e-5
    )


def test_no_property_swallows_the_other_whatever_its_unit():
    judge, noisy = noised(8)
    milli = replace(statistics(), target_mean=(2000.0, -6.0), target_std=(1500.0, 0.5))
    other = Regressor(regressor_config(config()), milli).eval()
    other.load_state_dict(judge.state_dict())
    ours = Guidance(regressor=judge, target=TARGET, strength=1.0)
    theirs = Guidance(regressor=other, target=torch.tensor([3000.0, -6.5]), strength=1.0)
    assert_close(ours.gradients(noisy), theirs.gradients(noisy))


def test_an_error_of_one_deviation_counts_the_same_in_both():
    judge, noisy = noised(8)
    flat = torch.ones_like(EVEN)
    with torch.no_grad():
        exact = judge.predict(noisy)
    values = [
        Selection(regressor=judge, target=exact + off, variance=flat).log_likelihood(noisy)
        for off in (torch.tensor([1.5, 0.0]), torch.tensor([0.0, 0.5]))
    ]
    assert_close(values[0], torch.full((8,), -0.5), rtol=1e-4, atol=1e-5)
    assert_close(values[1], values[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("free", [0, 1])
def test_a_free_property_does_not_matter(free):
    judge, noisy = noised(8)
    wanted = TARGET.clone()
    wanted[free] = FREE
    pull = Guidance(regressor=judge, target=wanted, strength=1.0)
    both = Guidance(regressor=judge, target=TARGET, strength=1.0)
    other = TARGET.clone()
    other[1 - free] = FREE
    rest = Guidance(regressor=judge, target=other, strength=1.0)
    ours, whole, theirs = (g.gradients(noisy)[1] for g in (pull, both, rest))
    assert ours.abs().sum() > 0
    assert_close(ours + theirs, whole, rtol=1e-4, atol=1e-7)
    neither = replace(pull, target=torch.tensor([FREE, FREE]))
    assert not neither.gradients(noisy)[1].any()


def test_the_likelihood_weighs_each_level_by_its_variance():
    judge, noisy = noised(8)
    flat = Selection(regressor=judge, target=TARGET, variance=torch.ones_like(EVEN))
    weighted = replace(flat, variance=EVEN)
    assert_close(
        weighted.log_likelihood(noisy), flat.log_likelihood(noisy) / EVEN[noisy.t, 0],
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip


def test_the_best_candidate_wins_where_the_strength_is_without_bound():
    judge = regressor()
    drawn = [random_graphs(16, seed) for seed in range(4)]
    s = torch.zeros(16, dtype=torch.int64)
    pull = Selection(
        regressor=judge, target=TARGET, variance=EVEN, strength=1e9, candidates=len(drawn)
    )
    source = iter(drawn)
    chosen = pull.choose(lambda: next(source), s, generator())
    every = torch.stack([pull.log_likelihood(Noisy(graphs, s)) for graphs in drawn])
    assert_close(pull.log_likelihood(Noisy(chosen, s)), every.max(0).values)


def test_without_knowledge_one_candidate_is_drawn():
    drawn = []
    pull = Selection(regressor=regressor(), target=TARGET, variance=EVEN)
    pull.choose(lambda: drawn.append(1) or random_graphs(4), torch.full((4,), 20), generator())
    assert len(drawn) == 1


def test_selection_moves_what_is_drawn_to_the_target():
    model, judge = denoiser(), regressor()
    means = []
    for wanted in (-50.0, 50.0):
        target = torch.tensor([wanted, FREE])
        pull = Selection(regressor=judge, target=target, variance=EVEN)
        drawn = model.sample(64, generator(1), guidance=pull, steps=10).graphs
        clean = Noisy(drawn, torch.zeros(64, dtype=torch.int64))
        means.append(float(judge.predict(clean)[:, 0].detach().mean()))
    assert means[0] < means[1]


def test_one_candidate_is_no_choice():
    with pytest.raises(ValueError, match="candidates is 1; expected at least 2"):
        Selection(regressor=regressor(), target=TARGET, variance=EVEN, candidates=1)


def test_error_variance_of_a_regressor_that_always_says_the_mean():
    judge = regressor()
    with torch.no_grad():
        for parameter in judge.model.mlp_out_y.parameters():
            parameter.zero_()
    targets = torch.tensor([[3.5, -6.0], [0.5, FREE], [2.0, -7.0]])
    found = error_variance(judge, random_graphs(3), targets, generator(), batch_size=2)
    assert_close(found, torch.tensor([2 / 3, 2.0]).expand(21, 2))


def test_error_variance_needs_labels():
    targets = torch.tensor([[3.5, FREE]] * 3)
    with pytest.raises(ValueError, match="a property has no label"):
        error_variance(regressor(), random_graphs(3), targets, generator())
