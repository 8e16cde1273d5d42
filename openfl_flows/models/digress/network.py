"""The DiGress graph transformer over node, pair and graph states.

Parameter names and shapes are those of the published implementation, so its checkpoints load.
Where an output has no columns, its last linear map (published with zero rows) does not exist here.

Shape legend: B graphs, N padded nodes, X / E / Y widths of node, pair and graph states.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openfl_flows.models.digress.attention import Attention, Masks, make_masks
from openfl_flows.models.digress.config import DigressConfig
from openfl_flows.models.digress.fused import dropout
from openfl_flows.models.digress.native import update_natively
from openfl_flows.models.digress.native.build import kernels


class Widths(NamedTuple):
    """Columns of node, pair and graph arrays."""

    x: int
    e: int
    y: int


class GraphTransformer(nn.Module):
    """in-MLPs, transformer layers, out-MLPs with a residual from the input."""

    def __init__(
        self, config: DigressConfig, inputs: Widths, outputs: Widths, *, mask_keys: bool = True
    ) -> None:
        """Build the network.

        Args:
            config: sizes and numerics.
            inputs: columns of the inputs x, e, y.
            outputs: columns of the outputs; those with 0 are not computed.
            mask_keys: whether attention leaves padding out (the published regressor does not).
        """
        super().__init__()
        self.outputs = outputs
        self.corrected = config.corrected
        self.native = False
        self.mlp_in_X = _input_mlp(inputs.x, config.mlp_x, config.dx)
        self.mlp_in_E = _input_mlp(inputs.e, config.mlp_e, config.de)
        self.mlp_in_y = _input_mlp(inputs.y, config.mlp_y, config.dy)
        self.tf_layers = nn.ModuleList(
            Layer(config, mask_keys=mask_keys) for _ in range(config.num_layers)
        )
        self.mlp_out_X = _output_mlp(config.dx, config.mlp_x, outputs.x)
        self.mlp_out_E = _output_mlp(config.de, config.mlp_e, outputs.e)
        self.mlp_out_y = _output_mlp(config.dy, config.mlp_y, outputs.y)

    def forward(
        self, x: Tensor, e: Tensor, y: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Apply the network.

        Args:
            x: node inputs, (B, N, inputs.x), zero on padding.
            e: pair inputs, (B, N, N, inputs.e), symmetric, one-hot or zero; zero on padding.
            y: graph inputs, (B, inputs.y).
            mask: True on real nodes, (B, N).

        Returns:
            x (B, N, outputs.x), e (B, N, N, outputs.e) symmetric with zero diagonal, and
            y (B, outputs.y); zero on padding.
        """
        masks = make_masks(mask, x.dtype)
        h_x = self.mlp_in_X(x) * masks.nodes
        h_e = self._read_pairs(e) * masks.squares
        h_y = self.mlp_in_y(y).to(x.dtype)
        last = len(self.tf_layers) - 1
        with_xe, with_y = self.outputs.x + self.outputs.e > 0, self.outputs.y > 0
        for i, layer in enumerate(self.tf_layers):
            assert isinstance(layer, Layer)
            final = i == last
            wanted = {"with_xe": with_xe or not final, "with_y": with_y or not final}
            if self.native:
                h_x, h_e, h_y = update_natively(layer, h_x, h_e, h_y, masks.sizes, **wanted)
            else:
                h_x, h_e, h_y = layer.update(h_x, h_e, h_y, masks, **wanted)
        return self._read_out(h_x, h_e, h_y, (x, e, y), masks)

    def use_native_kernels(self) -> None:
        """Compute the layers with kernels compiled for this processor.

        Raises:
            ValueError: They cannot be compiled here, or numerics are not the corrected ones.
        """
        if not self.corrected:
            raise ValueError("kernels=native with numerics=published, expected numerics=corrected")
        kernels()
        self.native = True

    def _read_pairs(self, e: Tensor) -> Tensor:
        """States of the pairs (B, N, N, E), symmetric."""
        if e.requires_grad:
            states: Tensor = self.mlp_in_E(e)
            return (states + states.transpose(1, 2)) / 2
        # One-hot inputs are few different ones, and the zeros of the diagonal: a table is enough.
        classes = e.shape[-1]
        table: Tensor = self.mlp_in_E(torch.eye(classes + 1, classes, device=e.device))
        index = torch.where(e.any(-1), e.argmax(-1), classes)
        return F.embedding(index, table)

    def _read_out(
        self, h_x: Tensor, h_e: Tensor, h_y: Tensor, inputs: tuple[Tensor, ...], masks: Masks
    ) -> tuple[Tensor, Tensor, Tensor]:
        x, e, y = inputs
        out_x, out_e, out_y = x[..., :0], e[..., :0], y[..., :0]
        if self.outputs.x:
            out_x = (self.mlp_out_X(h_x) + x[..., : self.outputs.x]) * masks.nodes
        if self.outputs.e:
            pairs = (self.mlp_out_E(h_e) + e[..., : self.outputs.e]) * masks.pairs
            out_e = (pairs + pairs.transpose(1, 2)) / 2
        if self.outputs.y:
            out_y = self.mlp_out_y(h_y)
            if not self.corrected:
                # The residual of one input column is broadcast over all outputs as published.
                out_y = out_y + y[..., : self.outputs.y]
        return out_x, out_e, out_y


class Layer(nn.Module):
    """Attention and feed-forward blocks, each with dropout, residual and post-LayerNorm."""

    def __init__(self, config: DigressConfig, *, mask_keys: bool) -> None:
        """Build one layer."""
        super().__init__()
        self.dropout = config.dropout
        self.self_attn = Attention(config, mask_keys=mask_keys)
        self.linX1, self.linX2 = _pair(config.dx, config.ff_x)
        self.normX1, self.normX2 = nn.LayerNorm(config.dx), nn.LayerNorm(config.dx)
        self.linE1, self.linE2 = _pair(config.de, config.ff_e)
        self.normE1, self.normE2 = nn.LayerNorm(config.de), nn.LayerNorm(config.de)
        self.lin_y1, self.lin_y2 = _pair(config.dy, config.ff_y)
        self.norm_y1, self.norm_y2 = nn.LayerNorm(config.dy), nn.LayerNorm(config.dy)

    def update(
        self, x: Tensor, e: Tensor, y: Tensor, masks: Masks, *, with_xe: bool, with_y: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """New states; those not asked for are returned as they came."""
        new_x, new_e, new_y = x, e, y
        if with_xe:
            change_x, change_e = self.self_attn.nodes_and_pairs(x, e, y, masks)
            new_x = self._block(x, change_x, self.normX1, self.linX1, self.linX2, self.normX2)
            new_e = self._block(e, change_e, self.normE1, self.linE1, self.linE2, self.normE2)
        if with_y:
            change_y = self.self_attn.graph(x, e, y, masks)
            new_y = self._block(y, change_y, self.norm_y1, self.lin_y1, self.lin_y2, self.norm_y2)
        return new_x, new_e, new_y

    def _block(
        self, state: Tensor, change: Tensor, norm1: nn.LayerNorm, lin1: nn.Linear,
        lin2: nn.Linear, norm2: nn.LayerNorm,
    ) -> Tensor:  # fmt: skip
        """norm2(h + lin2(relu(lin1(h)))) with h = norm1(state + change)."""
        hidden: Tensor = norm1(state + self._drop(change))
        inner = self._drop(F.relu(lin1(hidden)))
        out: Tensor = norm2(hidden + self._drop(lin2(inner)))
        return out

    def _drop(self, states: Tensor) -> Tensor:
        return dropout(states, self.dropout) if self.training and self.dropout else states


def _pair(width: int, hidden: int) -> tuple[nn.Linear, nn.Linear]:
    return nn.Linear(width, hidden), nn.Linear(hidden, width)


def _input_mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out), nn.ReLU())


def _output_mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(width, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, out)) if out else nn.Sequential(*layers)
