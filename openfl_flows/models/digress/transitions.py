"""Discrete noise that redraws classes from a limit distribution: forward, posterior, sampling.

Step s -> t keeps a class with probability a = alpha_bar_t / alpha_bar_s and otherwise draws it
from the limit m: Q = a I + (1 - a) 1 m^T, acting on row vectors, q(z_t | x) = x Q
(Austin et al., 2021; Vignac et al., 2023, equations 2-4). With that Q every posterior has a closed
form; no K x K matrix per node is ever built.

Shape legend: B graphs, ... node or pair axes, K classes.
"""

import torch
from torch import Tensor


def uniform(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str
) -> Tensor:
    """Uniform numbers of [0, 1) from `generator`, moved to `device`."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device)


def symmetric(values_BNN: Tensor) -> Tensor:
    """The strict upper triangle mirrored; zero diagonal, (B, N, N)."""
    upper_BNN = values_BNN.triu(1)
    return upper_BNN + upper_BNN.transpose(1, 2)


def transition_matrix(keep_B: Tensor, limit_K: Tensor) -> Tensor:
    """Q = keep I + (1 - keep) 1 m^T for each graph, (B, K, K); rows sum to 1."""
    eye_KK = torch.eye(len(limit_K), device=limit_K.device, dtype=limit_K.dtype)
    keep_B11 = keep_B[:, None, None]
    return keep_B11 * eye_KK + (1 - keep_B11) * limit_K.expand(len(limit_K), -1)


def redraw(classes: Tensor, keep: Tensor, limit_K: Tensor, draws: Tensor) -> Tensor:
    """Sample q(z_t | x): keep each class with probability `keep`, else draw from the limit.

    Args:
        classes: classes x, (B, ...), any integer type.
        keep: alpha_bar_t, broadcastable to `classes`.
        limit_K: limit distribution.
        draws: uniform numbers of [0, 1), one per class; one draw serves both decisions.

    Returns:
        Classes z_t, int64, (B, ...).
    """
    rest = ((draws - keep) / (1 - keep).clamp_min(torch.finfo(keep.dtype).tiny)).clamp(0, 1)
    return torch.where(draws < keep, classes.long(), inverse_cdf(limit_K, rest))


def inverse_cdf(probs_K: Tensor, draws: Tensor) -> Tensor:
    """The class whose slice of the cumulative distribution holds each draw, int64."""
    return torch.bucketize(draws, _edges(probs_K), right=True)


def sample_rows(log_probs: Tensor, draws: Tensor) -> Tensor:
    """One class per row of unnormalised log-probabilities by inverse CDF, int64.

    Args:
        log_probs: (..., K); rows may hold -inf, not only -inf.
        draws: uniform numbers of [0, 1), (...).
    """
    return (_edges(log_probs.softmax(-1)) <= draws.unsqueeze(-1)).sum(-1)


def log_posterior(
    log_p: Tensor, noisy: Tensor, keep: Tensor, survival_s: Tensor, survival_t: Tensor,
    limit_K: Tensor,
) -> Tensor:  # fmt: skip
    """Log sum_x p(x) q(z_s | z_t, x): the step that the sampler takes.

    With L(z_s) = Q[z_s, z_t] and D_x = abar_t [x = z_t] + (1 - abar_t) m(z_t), the sum is
    L(z_s) (abar_s p(z_s) / D_{z_s} + (1 - abar_s) m(z_s) sum_x p(x) / D_x).

    Args:
        log_p: log-probabilities of the clean class x, (B, ..., K); a true class is 0 and -inf.
        noisy: classes z_t, int64, (B, ...).
        keep: probability that a class survives the step from s to t, (B, 1, ...) as log_p.
        survival_s: alpha_bar_s, the same shape.
        survival_t: alpha_bar_t, the same shape.
        limit_K: limit distribution m.

    Returns:
        Normalised log-probabilities of z_s, (B, ..., K).
    """
    here, log_limit_z = _arrived(noisy, limit_K)
    # Bounded: a class that cannot have become z_t (where m(z_t) = 0) must not give 0 / 0.
    log_arrive = _log_kept(here, survival_t, log_limit_z).clamp_min(-80.0)
    log_share = log_p - log_arrive
    log_total = log_share.logsumexp(-1, keepdim=True)
    log_from_x = torch.logaddexp(
        survival_s.log() + log_share, _log1m(survival_s) + limit_K.log() + log_total
    )
    # Bounded too: what cannot have become z_t from any class leaves all classes equal, not NaN.
    log_step = _log_kept(here, keep, log_limit_z).clamp_min(-1e30)
    return (log_step + log_from_x).log_softmax(-1)


def log_posterior_soft(
    log_p: Tensor, noisy: Tensor, keep: Tensor, survival_s: Tensor, limit_K: Tensor
) -> Tensor:
    """Log q(z_s | z_t, x := p), the soft prediction put in the place of x, normalised.

    This is the distribution in the published likelihood estimate; it is not the one that the
    sampler draws from (see `log_posterior`). Both agree where p is one-hot. Arguments as there.
    """
    here, log_limit_z = _arrived(noisy, limit_K)
    log_from_p = torch.logaddexp(survival_s.log() + log_p, _log1m(survival_s) + limit_K.log())
    return (_log_kept(here, keep, log_limit_z) + log_from_p).log_softmax(-1)


def kl_divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p) per row of log-probabilities; classes with q = 0 add nothing."""
    terms = log_q.exp() * (log_q - log_p)
    return torch.where(log_q > -torch.inf, terms, 0.0).sum(-1)


def log_one_hot(classes: Tensor, num_classes: int) -> Tensor:
    """Log of the one-hot form: 0 at the class and -inf elsewhere, (..., K)."""
    return (classes.unsqueeze(-1) == torch.arange(num_classes, device=classes.device)).float().log()


def _edges(probs: Tensor) -> Tensor:
    """Upper end of each class's slice of [0, 1)."""
    edges = probs.cumsum(-1)
    # The last class of positive probability takes what rounding leaves; those behind it nothing.
    return edges.masked_fill(edges >= edges[..., -1:], torch.inf)


def _arrived(noisy: Tensor, limit_K: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each class is z_t, (B, ..., K), and log m(z_t), (B, ..., 1)."""
    here = noisy.unsqueeze(-1) == torch.arange(len(limit_K), device=noisy.device)
    return here, limit_K[noisy.clamp_min(0)].log().unsqueeze(-1)


def _log_kept(here: Tensor, keep: Tensor, log_limit_z: Tensor) -> Tensor:
    """Log of keep [class = z_t] + (1 - keep) m(z_t), (B, ..., K)."""
    moved = _log1m(keep) + log_limit_z
    return torch.where(here, torch.logaddexp(keep.log(), moved), moved)


def _log1m(value: Tensor) -> Tensor:
    """log(1 - value)."""
    return torch.log1p(-value)
