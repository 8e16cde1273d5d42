"""Likelihood bounds of a denoiser: the published estimate and the bound of the sampler.

Both need the network's predictions at one random level t and at level 0, in nats per graph.

Shape legend: B graphs, N padded nodes, K classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from openfl_flows.models.digress.graphs import Graphs, pair_mask
from openfl_flows.models.digress.process import NoiseProcess, Noisy
from openfl_flows.models.digress.transitions import (
    kl_divergence,
    log_one_hot,
    log_posterior,
    log_posterior_soft,
)


class Prediction(NamedTuple):
    """Log-probabilities of clean classes.

    Attributes:
        atoms: (B, N, K).
        bonds: (B, N, N, 5).
    """

    atoms: Tensor
    bonds: Tensor


class Bounds(NamedTuple):
    """Estimates of -log p(graph) in nats, (B,) each; unbiased over noise levels and noise.

    Attributes:
        nll: the published estimate: pairs counted twice, soft prediction in the posterior; no
            bound of the sampler's likelihood, only for comparison with published figures.
        elbo: the negative evidence lower bound of `Denoiser.sample` with all T steps and corrected
            numerics (published sampling leaves out the last draw, so nothing bounds it exactly).
    """

    nll: Tensor
    elbo: Tensor


def estimate_bounds(
    process: NoiseProcess, graphs: Graphs, noisy: Noisy, at_t: Prediction, at_0: Prediction
) -> Bounds:
    """-log p(n) + prior term + T * (step term at a random t in 1..T) + reconstruction term.

    Args:
        process: the forward process.
        graphs: clean graphs x.
        noisy: z_t ~ q(z_t | x), t in 1..T.
        at_t: prediction from z_t.
        at_0: prediction from some z_0 ~ q(z_0 | x).
    """
    size_B = -process.log_size[graphs.num_nodes]
    nodes_BN, pairs_BNN = graphs.mask.float(), pair_mask(graphs.mask).float()
    step_soft = _step_divergence(process, graphs, noisy, at_t, soft=True)
    step_mixture = _step_divergence(process, graphs, noisy, at_t, soft=False)
    rebuild_x = -(_true_class(at_0.atoms, graphs.atoms) * nodes_BN).sum(1)
    rebuild_e = -(_true_class(at_0.bonds, graphs.bonds) * pairs_BNN).sum((1, 2))
    prior_twice = process.prior_divergence(graphs, edges_twice=True, reverse=True)
    prior_once = process.prior_divergence(graphs, edges_twice=False, reverse=False)
    twice = process.num_steps * (step_soft.atoms + step_soft.bonds) + rebuild_x + rebuild_e
    once = process.num_steps * (step_mixture.atoms + step_mixture.bonds / 2)
    return Bounds(
        nll=size_B + prior_twice + twice,
        elbo=size_B + prior_once + once + rebuild_x + rebuild_e / 2,
    )


def _step_divergence(
    process: NoiseProcess, graphs: Graphs, noisy: Noisy, at_t: Prediction, *, soft: bool
) -> Prediction:
    """KL(q(z_{t-1} | z_t, x) || p(z_{t-1} | z_t)) summed over nodes and over ordered pairs."""
    t = noisy.t
    survival_s, survival_t = process.survivals[t - 1], process.survivals[t]
    keep = process.step_keep(t - 1, t) if soft else survival_t / survival_s
    rows = (
        (graphs.atoms, noisy.graphs.atoms, at_t.atoms, process.atom_limit, graphs.mask),
        (graphs.bonds, noisy.graphs.bonds, at_t.bonds, process.bond_limit, pair_mask(graphs.mask)),
    )
    totals = []
    for clean, z_t, log_p, limit, mask in rows:
        shape = (len(t),) + (1,) * (log_p.dim() - 1)
        step, kept_s, kept_t = (v.view(shape) for v in (keep, survival_s, survival_t))
        sure = log_one_hot(clean, len(limit))
        truth = log_posterior_soft(sure, z_t, step, kept_s, limit)
        if soft:
            model = log_posterior_soft(log_p, z_t, step, kept_s, limit)
            model = model if process.corrected else _lifted(model)
        else:
            model = log_posterior(log_p, z_t, step, kept_s, kept_t, limit)
        terms = torch.where(mask, kl_divergence(truth, model), 0.0)
        if soft and not process.corrected:
            terms = torch.where(mask, terms, _masked_divergence(limit))
        totals.append(terms.flatten(1).sum(1))
    return Prediction(atoms=totals[0], bonds=totals[1])


def _lifted(log_p: Tensor) -> Tensor:
    """Probabilities raised by 1e-7 and normalised again, as published."""
    raised = log_p.exp() + 1e-7
    return (raised / raised.sum(-1, keepdim=True)).log()


def _masked_divergence(limit_K: Tensor) -> Tensor:
    """What a masked entry adds as published: a sure class against its lifted form, scalar.

    In float32, where 1e-7 rounds to a noticeably larger lift beside 1.
    """
    sure = log_one_hot(torch.zeros((), dtype=torch.int64, device=limit_K.device), len(limit_K))
    return -_lifted(sure).amax()


def _true_class(log_p: Tensor, classes: Tensor) -> Tensor:
    """Log-probability of each entry's class; padding reads class 0."""
    return log_p.gather(-1, classes.long().clamp_min(0).unsqueeze(-1)).squeeze(-1)
