"""Differentiable forms of the native kernels, and a DiGress layer made of them.

They compute what :mod:`~openfl_flows.models.digress.network` says with corrected numerics. Matrix
products run in the precision that autocast asks for, everything between them in float32.

Shape legend: B graphs, N padded nodes, X / E / Y widths of node, pair and graph states.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from openfl_flows.models.digress.native.build import kernels

if TYPE_CHECKING:
    from openfl_flows.models.digress.network import Layer


def update_natively(
    layer: "Layer", x: Tensor, e: Tensor, y: Tensor, sizes: Tensor, *, with_xe: bool, with_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`Layer.update`, by the native kernels.

    Args:
        layer: the layer.
        x: node states, (B, N, X), float32.
        e: pair states, (B, N, N, E), float32.
        y: graph states, (B, Y), float32.
        sizes: real nodes of each graph, the first ones, (B,) int64.
        with_xe: whether node and pair states are asked for.
        with_y: whether graph states are.
    """
    attention, new_x, new_e, new_y = layer.self_attn, x, e, y
    if with_xe:
        q, k, v, film = attention.project(x, y)
        rate = layer.dropout if layer.training else 0.0
        options = (layer.normE1.eps, rate)
        new_e, gathered = _edge_block(e, q, k, v, film.e_mul, film.e_add, sizes, options, (
            torch.cat((attention.e_mul.weight, attention.e_add.weight)),
            torch.cat((attention.e_mul.bias + 1, attention.e_add.bias)),
            *(p for part in (attention.e_out, layer.normE1, layer.linE1, layer.linE2, layer.normE2)
              for p in (part.weight, part.bias)),
        ))  # fmt: skip
        change = attention.read(gathered, film)
        new_x = _block(layer, x, change, layer.normX1, layer.linX1, layer.linX2, layer.normX2)
    if with_y:
        of_nodes = attention.x_y.read(_pool(x, sizes))
        change = attention.mix(of_nodes, attention.e_y.read(_pool(e, sizes)), y)
        new_y = _block(layer, y, change, layer.norm_y1, layer.lin_y1, layer.lin_y2, layer.norm_y2)
    return new_x, new_e, new_y


def _block(
    layer: "Layer", state: Tensor, change: Tensor, norm1: nn.LayerNorm, lin1: nn.Linear,
    lin2: nn.Linear, norm2: nn.LayerNorm,
) -> Tensor:  # fmt: skip
    rate = layer.dropout if layer.training else 0.0
    hidden = _residual_norm(state, change, norm1, rate)
    inner: Tensor = _apply(_ReluDropout, F.linear(hidden, lin1.weight, lin1.bias), rate)
    return _residual_norm(hidden, F.linear(inner, lin2.weight, lin2.bias), norm2, rate)


def _edge_block(
    e: Tensor, q: Tensor, k: Tensor, v: Tensor, film_mul: Tensor, film_add: Tensor, sizes: Tensor,
    options: tuple[float, float], weights: tuple[Tensor, ...],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    out: tuple[Tensor, Tensor] = _apply(
        _EdgeBlock, e, q, k, v, film_mul, film_add, sizes, options, *weights
    )
    return out


def _residual_norm(state: Tensor, change: Tensor, norm: nn.LayerNorm, rate: float) -> Tensor:
    out: Tensor = _apply(_ResidualNorm, state, change, norm.weight, norm.bias, norm.eps, rate)
    return out


def _pool(states: Tensor, sizes: Tensor) -> Tensor:
    out: Tensor = _apply(_Pool, states, sizes)
    return out


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    apply: Callable[..., Any] = function.apply
    return apply(*arguments)


def _seed(rate: float) -> int:
    """Of the dropout of one call; drawn from the global generator, as dropout is."""
    return int(torch.empty((), dtype=torch.int64).random_()) if rate else 0


class _EdgeBlock(torch.autograd.Function):
    """Pair states (B, N, N, E) through a layer, and what nodes gather (B, N, X)."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        *states, sizes, (epsilon, rate) = arguments[:8]
        states = [state.contiguous() for state in states]
        kind = states[1].dtype
        weights = [w.to(kind) if w.dim() == 2 else w for w in arguments[8:]]
        options = (epsilon, rate, _seed(rate))
        new_e, gathered, *changes = kernels().edge_block(*states, sizes, weights, *options)
        ctx.save_for_backward(*states, sizes, *changes, *weights)
        ctx.options = options
        return new_e, gathered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_e: Tensor, d_gathered: Tensor) -> tuple[Tensor | None, ...]:
        arrays, weights = ctx.saved_tensors[:9], list(ctx.saved_tensors[9:])
        run = kernels().edge_block_backward
        grads = run(d_e.contiguous(), d_gathered.contiguous(), *arrays, weights, *ctx.options)
        return (*grads[:6], None, None, *grads[6:])


class _ResidualNorm(torch.autograd.Function):
    """LayerNorm(state + dropout(change))."""

    @staticmethod
    def forward(
        ctx: Any, state: Tensor, change: Tensor, weight: Tensor, bias: Tensor, epsilon: float,
        rate: float,
    ) -> Tensor:  # fmt: skip
        state, change = state.contiguous(), change.contiguous()
        ctx.options = (epsilon, rate, _seed(rate))
        ctx.save_for_backward(state, change, weight)
        out: Tensor = kernels().residual_norm(state, change, weight, bias, *ctx.options)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        run = kernels().residual_norm_backward
        return (*run(d_out.contiguous(), *ctx.saved_tensors, *ctx.options), None, None)


class _ReluDropout(torch.autograd.Function):
    """dropout(relu(states))."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, rate: float) -> Tensor:
        out: Tensor = kernels().relu_dropout(states.contiguous(), rate, _seed(rate))
        ctx.save_for_backward(out)
        ctx.rate = rate
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        run = kernels().relu_dropout_backward
        return run(d_out.contiguous(), *ctx.saved_tensors, ctx.rate), None


class _Pool(torch.autograd.Function):
    """Mean, minimum, maximum and deviation of real nodes or pairs, (B, 4C)."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, sizes: Tensor) -> Tensor:
        states = states.contiguous()
        out: Tensor = kernels().pool(states, sizes)
        ctx.save_for_backward(states, sizes, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        return kernels().pool_backward(d_out.contiguous(), *ctx.saved_tensors), None
