"""Schedule, transitions, posteriors and forward noise keep their laws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from openfl_flows.models.digress import stratified_timesteps
from openfl_flows.models.digress.process import NoiseProcess
from openfl_flows.models.digress.schedule import cosine_betas, strided_levels, survival
from openfl_flows.models.digress.transitions import (
    kl_divergence,
    log_one_hot,
    log_posterior,
    log_posterior_soft,
    sample_rows,
    transition_matrix,
)
from tests.unit.models.digress.digress_graphs import (
    config,
    denoiser,
    generator,
    random_graphs,
    statistics,
)

LIMIT = torch.tensor([0.5, 0.3, 0.15, 0.05])
levels = st.integers(1, 20)
seeds = st.integers(0, 10_000)


def probabilities(seed, *shape):
    return torch.rand(shape, generator=generator(seed)).softmax(-1)


@given(keep=st.floats(0, 1))
def test_rows_of_a_transition_sum_to_one(keep):
    rows = transition_matrix(torch.tensor([keep]), LIMIT).sum(-1)
    assert_close(rows, torch.ones(1, 4))


@given(steps=st.integers(2, 1000))
def test_survival_falls_from_almost_one_to_zero(steps):
    survivals = survival(cosine_betas(steps))
    assert (survivals.diff() < 0).all()
    assert survivals[0] < 1
    assert survivals[-1] < 1e-4


@given(seed=seeds, t=levels, back=st.integers(1, 20))
def test_mixture_posterior_is_the_sum_over_clean_classes(seed, t, back):
    s = max(0, t - back)
    survivals = survival(cosine_betas(20)).double()
    limit = LIMIT.double()
    p = probabilities(seed, 1, 6, 4).double()
    z = torch.randint(0, 4, (1, 6), generator=generator(seed))
    q_ts = transition_matrix((survivals[t] / survivals[s])[None], limit)[0]
    q_s, q_t = (transition_matrix(survivals[u][None], limit)[0] for u in (s, t))
    likelihood = q_ts[:, z].permute(1, 2, 0)
    brute = torch.zeros(1, 6, 4, dtype=torch.float64)
    for x in range(4):
        brute += p[..., x, None] * likelihood * q_s[x] / q_t[x, z][..., None]
    rates = ((survivals[t] / survivals[s])[None], survivals[s][None], survivals[t][None])
    keep, at_s, at_t = (rate[:, None, None] for rate in rates)
    ours = log_posterior(p.log(), z, keep, at_s, at_t, limit).exp()
    assert_close(ours, brute)
    assert_close(ours.sum(-1), torch.ones(1, 6, dtype=torch.float64))


@given(seed=seeds, t=levels)
def test_both_posteriors_agree_on_a_sure_prediction(seed, t):
    survivals = survival(cosine_betas(20))
    z, x = torch.randint(0, 4, (2, 1, 6), generator=generator(seed))
    sure = log_one_hot(x, 4)
    keep, at_s, at_t = survivals[t] / survivals[t - 1], survivals[t - 1], survivals[t]
    mixture = log_posterior(sure, z, keep, at_s, at_t, LIMIT)
    soft = log_posterior_soft(sure, z, keep, at_s, LIMIT)
    assert_close(mixture.exp(), soft.exp(), rtol=1e-4, atol=1e-6)
    assert kl_divergence(mixture, soft).abs().max() < 1e-4


def test_a_class_outside_the_limit_gives_no_nan():
    limit = torch.tensor([0.6, 0.4, 0.0])
    z = torch.tensor([[2, 0]])
    p = torch.tensor([[[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]])
    one = torch.tensor(0.5)
    assert log_posterior(p.log(), z, one, one, one / 2, limit).exp().isfinite().all()


@settings(max_examples=20)
@given(seed=seeds)
def test_noise_is_symmetric_masked_and_repeatable(seed):
    graphs = random_graphs(8, seed)
    model = denoiser()
    noisy = model.corrupt(graphs, generator(seed))
    again = model.corrupt(graphs, generator(seed))
    atoms, bonds = noisy.graphs
    assert torch.equal(atoms, again.graphs.atoms)
    assert torch.equal(bonds, again.graphs.bonds)
    assert torch.equal(noisy.t, again.t)
    assert torch.equal(bonds, bonds.transpose(1, 2))
    assert torch.equal(atoms < 0, graphs.atoms < 0)
    assert not bonds.diagonal(dim1=1, dim2=2).any()
    assert not bonds[(atoms < 0)].any()


def test_noise_has_the_published_distribution():
    process = NoiseProcess(config(), statistics())
    graphs = random_graphs(1, 3).rows(torch.zeros(20_000, dtype=torch.int64))
    t = torch.full((20_000,), 9)
    noisy = process.corrupt(graphs, t, generator()).graphs
    kept = process.survivals[9]
    first = int(graphs.atoms[0, 0])
    expected = kept * torch.eye(4)[first] + (1 - kept) * process.atom_limit
    share = torch.bincount(noisy.atoms[:, 0], minlength=4) / 20_000
    assert_close(share, expected, rtol=0, atol=0.015)
    bond = int(graphs.bonds[0, 0, 1])
    expected = kept * torch.eye(5)[bond] + (1 - kept) * process.bond_limit
    share = torch.bincount(noisy.bonds[:, 0, 1], minlength=5) / 20_000
    assert_close(share, expected, rtol=0, atol=0.015)


def test_levels_start_where_asked():
    t = denoiser().corrupt(random_graphs(2000), generator(), lowest_t=1).t
    assert t.unique().tolist() == list(range(1, 21))
    assert denoiser().corrupt(random_graphs(2000), generator()).t.min() == 0


@given(num=st.integers(1, 100), seed=seeds)
def test_stratified_levels_are_even(num, seed):
    t = stratified_timesteps(num, 20, generator(seed))
    assert t.min() >= 1
    assert t.max() <= 20
    counts = torch.bincount(t, minlength=21)[1:]
    assert counts.max() - counts.min() <= 1 + (num % 20 > 0)


@given(steps=st.integers(1, 50))
def test_strides_go_down_to_zero(steps):
    visited = strided_levels(50, steps)
    assert visited[0] == 50
    assert visited[-1] == 0
    assert all(a > b for a, b in zip(visited, visited[1:], strict=False))


def test_too_many_steps_are_refused():
    with pytest.raises(ValueError, match="steps is 51; expected 1 to diffusion_steps=50"):
        strided_levels(50, 51)


def test_rows_never_draw_an_impossible_class():
    log_p = torch.tensor([0.0, 0.3, 0.7, 0.0]).log().expand(1000, 4)
    draws = torch.linspace(0, 1 - 2**-24, 1000)
    drawn = sample_rows(log_p, draws)
    assert drawn.unique().tolist() == [1, 2]
    assert abs(float((drawn == 1).float().mean()) - 0.3) < 0.01


def test_uniform_noise_ignores_the_marginals():
    process = NoiseProcess(config(transition="uniform"), statistics())
    assert_close(process.atom_limit, torch.full((4,), 0.25))


def test_statistics_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one per symbol of vocabulary"):
        NoiseProcess(config(vocabulary=("C", "N")), statistics())
    with pytest.raises(ValueError, match=r"node_counts has 10 entries; expected max_atoms \+ 1"):
        NoiseProcess(config(max_atoms=12), statistics())
