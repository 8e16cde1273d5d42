"""Loss, likelihood bounds and sampling of the denoiser, against exact answers where there are."""

import math

import pytest
import torch
from torch.testing import assert_close

from openfl_flows.models.digress import Denoiser, Guidance, Noisy, stratified_timesteps
from openfl_flows.models.digress.transitions import log_one_hot
from tests.unit.models.digress.digress_graphs import (
    config,
    denoiser,
    generator,
    random_graphs,
    regressor,
    statistics,
)

NUMERICS = ["corrected", "published"]


class Exact(Denoiser):
    """The best predictor of data whose atoms and bonds are independent: Bayes' rule, no network."""

    def forward(self, noisy, *, diagonal=True):
        del diagonal
        kept = self.process.survivals[noisy.t]
        sides = (
            (noisy.graphs.atoms, self.process.atom_limit, kept[:, None, None]),
            (noisy.graphs.bonds, self.process.bond_limit, kept[:, None, None, None]),
        )
        logits = []
        for z, prior, keep in sides:
            here = log_one_hot(z.clamp_min(0), len(prior)).exp()
            arrive = keep * here + (1 - keep) * prior[z.clamp_min(0)][..., None]
            logits.append((prior * arrive + 1e-30).log())
        return logits[0], logits[1]


def exact(**changes):
    return Exact(config(extra_features=False, **changes), statistics())


@pytest.mark.parametrize("numerics", NUMERICS)
def test_micro_batches_add_up_to_the_batch(numerics):
    model, graphs = denoiser(numerics=numerics), random_graphs(12)
    noisy = model.corrupt(graphs, generator())
    whole = model.loss(noisy, graphs)
    nodes, pairs = graphs.num_nodes.sum(), graphs.num_pairs.sum()
    parts = []
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        piece = Noisy(noisy.graphs.rows(part), noisy.t[part])
        parts.append(model.loss(piece, graphs.rows(part), num_nodes=nodes, num_pairs=pairs))
    assert_close(sum(parts), whole, rtol=1e-5, atol=1e-6)
    assert_close(model.loss(noisy, graphs, num_nodes=int(nodes), num_pairs=int(pairs)), whole)


def test_loss_is_the_cross_entropy_by_hand():
    model, graphs = denoiser(), random_graphs(5)
    noisy = model.corrupt(graphs, generator())
    x, e = (part.detach().log_softmax(-1) for part in model(noisy))
    sums, nodes, pairs = [0.0, 0.0], 0, 0
    for b, n in enumerate(graphs.num_nodes.tolist()):
        for i in range(n):
            sums[0] -= float(x[b, i, graphs.atoms[b, i]])
            nodes += 1
            for j in set(range(n)) - {i}:
                sums[1] -= float(e[b, i, j, graphs.bonds[b, i, j]])
                pairs += 1
    by_hand = sums[0] / nodes + 5 * sums[1] / pairs
    assert_close(model.loss(noisy, graphs).item(), by_hand, rtol=1e-5, atol=0)


def test_elbo_of_the_exact_predictor_is_the_exact_likelihood():
    model = exact()
    graphs = model.sample(1500, generator(1)).graphs
    t = stratified_timesteps(1500, 20, generator(2))
    bounds = model.bounds(graphs, generator(3), t=t)
    process = model.process
    rows = torch.where(graphs.mask, process.atom_limit[graphs.atoms.clamp_min(0)].log(), 0.0)
    upper = (graphs.mask[:, None] & graphs.mask[:, :, None]).triu(1)
    pairs = torch.where(upper, process.bond_limit[graphs.bonds].log(), 0.0)
    surprise = -(process.log_size[graphs.num_nodes] + rows.sum(1) + pairs.sum((1, 2)))
    error = bounds.elbo - surprise
    assert abs(float(error.mean())) < 4 * float(error.std()) / math.sqrt(1500)
    assert float(bounds.nll.mean()) > 1.5 * float(surprise.mean())


@pytest.mark.parametrize("steps", [None, 4])
def test_samples_of_the_exact_predictor_have_the_marginals(steps):
    graphs = exact().sample(1500, generator(1), steps=steps).graphs
    share = torch.bincount(graphs.atoms[graphs.mask], minlength=4).double()
    assert_close(
        share / share.sum(), torch.tensor([0.5, 0.2, 0.2, 0.1]).double(), rtol=0, atol=0.02
    )
    upper = (graphs.mask[:, None] & graphs.mask[:, :, None]).triu(1)
    share = torch.bincount(graphs.bonds[upper], minlength=5).double()
    wanted = torch.tensor([0.6, 0.2, 0.1, 0.1, 0.0]).double()
    assert_close(share / share.sum(), wanted, rtol=0, atol=0.02)
    sizes = torch.bincount(graphs.num_nodes, minlength=10) / 1500
    assert_close(sizes, torch.tensor(statistics().node_counts), rtol=0, atol=0.03)


def test_a_perfect_network_has_no_step_term():
    model, graphs = denoiser(), random_graphs(64)

    def forward(_noisy, **_kwargs):
        return (
            log_one_hot(graphs.atoms.clamp_min(0), 4).clamp_min(-40),
            log_one_hot(graphs.bonds, 5).clamp_min(-40),
        )

    model.forward = forward
    bounds = model.bounds(graphs, generator())
    assert_close(bounds.elbo, torch.full((64,), math.log(9)), rtol=0, atol=0.05)
    assert_close(bounds.nll, torch.full((64,), math.log(9)), rtol=0, atol=0.05)


def test_nll_and_elbo_are_the_two_bounds():
    model, graphs = denoiser(), random_graphs(6)
    both = model.bounds(graphs, generator(5))
    assert torch.equal(model.nll(graphs, generator(5)), both.nll)
    assert torch.equal(model.elbo(graphs, generator(5)), both.elbo)
    assert both.nll.shape == (6,)


@pytest.mark.parametrize("numerics", NUMERICS)
def test_samples_are_well_formed_and_repeatable(numerics):
    model = denoiser(numerics=numerics)
    first = model.sample(10, generator(3), batch_size=4).graphs
    again = model.sample(10, generator(3), batch_size=4).graphs
    assert torch.equal(first.atoms, again.atoms)
    assert torch.equal(first.bonds, again.bonds)
    assert first.atoms.shape == (10, 9)
    assert torch.equal(first.bonds, first.bonds.transpose(1, 2))
    assert not first.bonds.diagonal(dim1=1, dim2=2).any()
    assert not first.bonds[~first.mask].any()
    assert first.num_nodes.min() >= 1


def test_sizes_can_be_given():
    sizes = torch.tensor([1, 9, 4])
    drawn = denoiser().sample(3, generator(), num_nodes=sizes).graphs
    assert torch.equal(drawn.num_nodes, sizes)


def test_chains_end_in_the_sample():
    sampled = denoiser().sample(5, generator(), keep_chain=3, chain_frames=6, batch_size=2)
    assert sampled.chain is not None
    assert [frame.atoms.shape for frame in sampled.chain] == [(3, 9)] * 6
    assert torch.equal(sampled.chain[-1].bonds, sampled.graphs.bonds[:3])
    assert not torch.equal(sampled.chain[0].bonds, sampled.chain[-1].bonds)
    assert denoiser().sample(2, generator()).chain is None


@pytest.mark.parametrize("training", [True, False])
def test_sampling_leaves_the_mode_alone(training):
    model = denoiser(dropout=0.3).train(training)
    model.sample(2, generator(), steps=2)
    model.bounds(random_graphs(2), generator())
    assert model.training is training
    assert model.model.training is training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_nodes": torch.tensor([3, 10])}, "expected 2 sizes 1..9"),
        ({"steps": 0}, "steps is 0"),
        ({"keep_chain": 3, "chain_frames": 1}, "keep_chain is 3; expected 0 to num=2"),
        ({"keep_chain": 1, "chain_frames": 99}, "chain_frames is 99; expected 0 to steps=20"),
        ({"keep_chain": 1}, "expected both or neither"),
        ({"batch_size": 0}, "batch_size 0"),
    ],
)
def test_impossible_requests_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        denoiser().sample(2, generator(), **options)


def test_guidance_moves_the_prediction_to_the_target():
    model, judge = denoiser(), regressor()
    means = []
    for wanted in (-50.0, 50.0):
        pull = Guidance(regressor=judge, target=torch.tensor([wanted, -6.0]), strength=10.0)
        drawn = model.sample(64, generator(1), guidance=pull, steps=10).graphs
        clean = Noisy(drawn, torch.zeros(64, dtype=torch.int64))
        means.append(float(judge.predict(clean)[:, 0].detach().mean()))
    assert means[0] < means[1]


def test_corrected_guidance_of_a_graph_ignores_its_neighbours():
    judge, noisy = regressor(), denoiser().corrupt(random_graphs(6), generator())
    target, strength = torch.randn(6, 2), torch.arange(6.0)
    pull = Guidance(regressor=judge, target=target, strength=strength)
    part = slice(2, 4)
    alone = pull.rows(part).log_factors(Noisy(noisy.graphs.rows(part), noisy.t[part]))
    whole = pull.log_factors(noisy)
    assert_close(alone.atoms, whole.atoms[part], rtol=1e-4, atol=1e-5)
    assert_close(alone.bonds, whole.bonds[part], rtol=1e-4, atol=1e-5)


def test_published_guidance_fades_with_the_batch():
    judge, noisy = (
        regressor(numerics="published"),
        denoiser().corrupt(random_graphs(6), generator()),
    )
    pull = Guidance(regressor=judge, target=torch.tensor([1.0, -6.0]), strength=1.0)
    whole = pull.gradients(noisy)[0][:1]
    alone = pull.gradients(Noisy(noisy.graphs.rows(slice(0, 1)), noisy.t[:1]))[0]
    assert_close(whole * 6, alone, rtol=1e-3, atol=1e-6)
