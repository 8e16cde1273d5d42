"""Published numerics reproduce the published implementation, array by array."""

import pytest
import torch
from torch.testing import assert_close

import tests.unit.models.digress.digress_golden as golden
from openfl_flows.models.digress import Guidance, Prediction
from openfl_flows.models.digress.bounds import _step_divergence
from openfl_flows.models.digress.features import ExtraFeatures
from openfl_flows.models.digress.graphs import one_hot_atoms, one_hot_bonds
from openfl_flows.models.digress.schedule import cosine_betas, survival
from openfl_flows.models.digress.transitions import (
    log_one_hot,
    log_posterior,
    log_posterior_soft,
    transition_matrix,
)

GOLD = golden.arrays()
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("steps", [100, 500])
def test_schedule(steps):
    betas = cosine_betas(steps)
    assert_close(betas, GOLD[f"betas_T{steps}"], rtol=1e-6, atol=1e-7)
    assert_close(survival(betas), GOLD[f"alphas_bar_T{steps}"], rtol=1e-4, atol=1e-8)


def test_marginals():
    process = golden.denoiser().process
    assert_close(process.atom_limit, GOLD["x_marginals"], **CLOSE)
    assert_close(process.bond_limit, GOLD["e_marginals"], **CLOSE)


@pytest.mark.parametrize("kind", ["X", "E"])
def test_transition_matrices(kind):
    process, t = golden.denoiser().process, golden.noisy().t
    limit = process.atom_limit if kind == "X" else process.bond_limit
    kept = process.step_keep(t - 1, t)
    assert_close(transition_matrix(kept, limit), GOLD[f"Qt{kind}"], **CLOSE)
    for level, name in ((t - 1, "Qsb"), (t, "Qtb")):
        ours = transition_matrix(process.survivals[level], limit)
        assert_close(ours, GOLD[f"{name}{kind}"], **CLOSE)


def test_forward_probabilities():
    process, t, graphs = golden.denoiser().process, golden.noisy().t, golden.clean()
    q_x = transition_matrix(process.survivals[t], process.atom_limit)
    q_e = transition_matrix(process.survivals[t], process.bond_limit)
    ours_x = one_hot_atoms(graphs, 4) @ q_x
    ours_e = one_hot_bonds(graphs) @ q_e[:, None]
    mask, pairs = graphs.mask, golden.pairs()
    assert_close(ours_x[mask], GOLD["q_xt_X"][mask], **CLOSE)
    assert_close(ours_e[pairs], GOLD["q_xt_E"][pairs], **CLOSE)


@pytest.mark.parametrize("which", ["noisy", "clean"])
def test_features(which):
    graphs = golden.noisy().graphs if which == "noisy" else golden.clean()
    nodes, graph = ExtraFeatures(golden.CONFIG)(graphs)
    theirs, mask = GOLD[f"{which}_feat_X"], graphs.mask
    assert_close(nodes[..., :3], theirs[..., :3], **CLOSE)
    assert_close(nodes[..., 6:], GOLD[f"{which}_mol_X"].float(), **CLOSE)
    assert_close(graph[:, :11], GOLD[f"{which}_feat_y"], rtol=1e-4, atol=1e-4)
    assert_close(graph[:, 11:], GOLD[f"{which}_mol_y"], **CLOSE)
    connected = (graph[:, 5] == 1) & (graphs.num_nodes > 1)
    assert_close(nodes[connected, :, 3], theirs[connected, :, 3])
    values = graph[:, 6:9]
    simple = connected & (mask.sum(1) > 3) & ((values[:, 1:] - values[:, :-1]) > 1e-3).all(1)
    assert simple.sum() >= 5
    assert_close(nodes[simple, :, 4:6].abs(), theirs[simple, :, 4:6].abs(), rtol=0, atol=2e-3)


def test_denoiser_network():
    model = golden.denoiser()
    x, e, y = model.model(GOLD["in_X"], GOLD["in_E"], GOLD["in_y"], GOLD["node_mask"])
    assert_close(x, GOLD["pred_X"], **CLOSE)
    assert_close(e, GOLD["pred_E"], **CLOSE)
    assert y.shape == (16, 0)


def test_inputs_of_the_denoiser():
    noisy = golden.noisy()
    assert_close(one_hot_bonds(noisy.graphs, diagonal=True), GOLD["in_E"], **CLOSE)
    assert_close(one_hot_atoms(noisy.graphs, 4), GOLD["in_X"][..., :4], **CLOSE)
    assert_close(noisy.t / 500, GOLD["in_y"][:, 12], **CLOSE)


def test_loss():
    model, clean = golden.denoiser(), golden.clean()

    def forward(*_args, **_kwargs):
        return GOLD["pred_X"], GOLD["pred_E"]

    model.forward = forward
    assert_close(model.loss(golden.noisy(), clean), GOLD["train_loss"], **CLOSE)


def _log_rates():
    process, t = golden.denoiser().process, golden.noisy().t
    return process, process.step_keep(t - 1, t), process.survivals[t - 1], process.survivals[t]


@pytest.mark.parametrize("form", ["true", "softmean", "mixture"])
def test_posteriors(form):
    process, *rates = _log_rates()
    clean, noisy = golden.clean(), golden.noisy().graphs
    sides = (
        ("X", clean.atoms, noisy.atoms, process.atom_limit, clean.mask),
        ("E", clean.bonds, noisy.bonds, process.bond_limit, golden.pairs()),
    )
    for kind, x, z, limit, mask in sides:
        predicted = GOLD[f"pred_{kind}"].log_softmax(-1)
        keep, at_s, at_t = (rate.view((16,) + (1,) * (predicted.dim() - 1)) for rate in rates)
        if form == "true":
            ours = log_posterior_soft(log_one_hot(x, len(limit)), z, keep, at_s, limit)
        elif form == "softmean":
            ours = log_posterior_soft(predicted, z, keep, at_s, limit)
        else:
            ours = log_posterior(predicted, z, keep, at_s, at_t, limit)
        theirs = GOLD[f"post_{form}_{kind}"].view(ours.shape)[mask]
        theirs = theirs / theirs.sum(-1, keepdim=True)
        assert_close(ours.exp()[mask], theirs, rtol=1e-3, atol=1e-5)


def test_step_term_of_the_likelihood():
    prediction = Prediction(GOLD["pred_X"].log_softmax(-1), GOLD["pred_E"].log_softmax(-1))
    process = golden.denoiser().process
    parts = _step_divergence(process, golden.clean(), golden.noisy(), prediction, soft=True)
    assert_close(parts.atoms.mean(), GOLD["X_kl"], rtol=5e-5, atol=0)
    assert_close(parts.bonds.mean(), GOLD["E_kl"], rtol=5e-5, atol=0)
    assert_close(500 * (parts.atoms + parts.bonds).mean(), GOLD["L_t"], rtol=5e-5, atol=0)


def test_prior_and_size_terms():
    process, clean = golden.denoiser().process, golden.clean()
    prior = process.prior_divergence(clean, edges_twice=True, reverse=True)
    assert_close(prior, GOLD["kl_prior"], rtol=0, atol=1e-6)
    assert_close(process.log_size[clean.num_nodes], GOLD["log_pN"], **CLOSE)


def test_regressor_and_guidance():
    noisy, regressor = golden.noisy(), golden.regressor()
    out = regressor.predict(noisy)
    assert_close(out, GOLD["reg_out"], **CLOSE)
    targets = GOLD["reg_target"].expand(16, 2)
    assert_close(regressor.loss(noisy, targets), GOLD["reg_mse"], **CLOSE)
    strength = float(GOLD["lambda_guidance"])
    guidance = Guidance(regressor=regressor, target=GOLD["reg_target"][0], strength=strength)
    grad_x, grad_e = guidance.gradients(noisy)
    mask, pairs = noisy.graphs.mask, golden.pairs()
    assert_close(grad_e[pairs], GOLD["grad_E"][pairs], rtol=1e-4, atol=1e-7)
    assert_close(grad_x.sum(1), (GOLD["grad_X"] * mask[..., None]).sum(1), rtol=1e-4, atol=1e-7)
    # Interchangeable nodes tie for minimum and maximum: rounding decides which gets the gradient.
    mask = mask.clone()
    mask[[2, 3, 4, 6, 7, 14]] = False
    assert_close(grad_x[mask], GOLD["grad_X"][mask], rtol=1e-4, atol=1e-7)
    factors = guidance.log_factors(noisy)
    for kind, factor, real in (("X", factors.atoms, mask), ("E", factors.bonds, pairs)):
        base = GOLD[f"post_mixture_{kind}"].view(factor.shape)
        guided = base * factor.exp()
        guided = guided / guided.sum(-1, keepdim=True)
        assert_close(guided[real], GOLD[f"guided_{kind}"][real], rtol=1e-3, atol=1e-5)


def test_published_time_is_added_to_both_outputs():
    regressor, noisy = golden.regressor(), golden.noisy()
    last = regressor.model.mlp_out_y[2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    assert_close(regressor.predict(noisy), (noisy.t / 500)[:, None].expand(16, 2))
