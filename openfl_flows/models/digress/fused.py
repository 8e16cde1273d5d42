"""Memory-lean forms of the two operations that training spends most of its time in.

Both give what the plain PyTorch expressions give; only the passes over memory are fewer.

Shape legend: B graphs, N padded nodes, C channels.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_LEVELS = 1 << 16


class EdgeAttention(torch.autograd.Function):
    """scores = q_i k_j * mul + add; gathered_i = sum_j softmax_j(scores) v_j; pairs = FiLM(scores).

    The softmax is per channel, so its gradient is w_ij g_i (v_j - gathered_i) and needs no
    intermediate of its own; mul and add stay packed as they leave their common matrix product.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, packed: Tensor, film_mul: Tensor,
        film_add: Tensor, keys: Tensor | None, squares: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Apply.

        Args:
            ctx: autograd's.
            q: queries, scaled, (B, N, C).
            k: keys, (B, N, C).
            v: values, (B, N, C).
            packed: mul and add side by side, (B, N, N, 2C).
            film_mul: factor of the pairs' modulation, (B, C).
            film_add: its offset, (B, C).
            keys: added to the scores inside the softmax, (B, 1, N, 1).
            squares: multiplies the scores, (B, N, N, 1).

        Returns:
            gathered (B, N, C) and pairs (B, N, N, C).
        """
        mul, add = packed.chunk(2, -1)
        scores = q.unsqueeze(2) * k.unsqueeze(1)
        scores.mul_(mul).add_(add)
        if squares is not None:
            scores.mul_(squares)
        logits = scores if keys is None else scores + keys.to(scores.dtype)
        weights = torch.softmax(logits, 2, dtype=scores.dtype)
        # With keys the logits are an array of their own, free to be written over.
        gathered = torch.mul(weights, v.unsqueeze(1), out=None if keys is None else logits).sum(2)
        pairs = torch.addcmul(film_add[:, None, None], scores, film_mul[:, None, None])
        ctx.save_for_backward(q, k, v, packed, film_mul, scores, weights, gathered, squares)
        return gathered, pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_gathered: Tensor, d_pairs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the first six arguments."""
        q, k, v, packed, film_mul, scores, weights, gathered, squares = ctx.saved_tensors
        mul = packed.chunk(2, -1)[0]
        d_packed = torch.empty_like(packed)
        # The gradient of add is that of the scores, so it is worked out in its place.
        d_mul, d_scores = d_packed.chunk(2, -1)
        torch.mul(weights, d_gathered.unsqueeze(2), out=d_scores)
        d_v = d_scores.sum(1)
        d_scores.mul_(v.unsqueeze(1) - gathered.unsqueeze(2))
        d_scores.addcmul_(d_pairs, film_mul[:, None, None])
        if squares is not None:
            d_scores.mul_(squares)
        work = d_pairs * scores
        d_film_mul, d_film_add = work.sum((1, 2)), d_pairs.sum((1, 2))
        torch.mul(d_scores, mul, out=work)
        torch.mul(work, k.unsqueeze(1), out=d_mul)
        d_q = d_mul.sum(2)
        d_k = work.mul_(q.unsqueeze(2)).sum(1)
        torch.mul(d_scores, q.unsqueeze(2), out=d_mul).mul_(k.unsqueeze(1))
        return d_q, d_k, d_v, d_packed, d_film_mul, d_film_add, None, None


def edge_attention(
    q: Tensor, k: Tensor, v: Tensor, packed: Tensor, film_mul: Tensor, film_add: Tensor,
    keys: Tensor | None = None, squares: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`EdgeAttention` as a typed function."""
    apply: Callable[..., tuple[Tensor, Tensor]] = EdgeAttention.apply
    return apply(q, k, v, packed, film_mul, film_add, keys, squares)


def dropout(states: Tensor, probability: float) -> Tensor:
    """Inverted dropout from the global generator.

    On a CPU the mask is cut from 64-bit random words, four entries a word, which is several times
    cheaper than a Bernoulli draw per entry; the probability is then a multiple of 2^-16, and the
    scale that of the rounded probability, so the mean is kept exactly.
    """
    if states.device.type != "cpu":
        return F.dropout(states, probability)
    words = torch.empty((states.numel() + 3) // 4, dtype=torch.int64)
    words.random_(torch.iinfo(torch.int64).min, None)
    entries = words.view(torch.int16)[: states.numel()].view(states.shape)
    dropped = round(probability * _LEVELS)
    kept = (entries >= dropped - _LEVELS // 2).to(states.dtype)
    return states * kept.mul_(_LEVELS / (_LEVELS - dropped))
