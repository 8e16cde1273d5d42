"""Attention between nodes that reads and writes the pair states, modulated by the graph state.

Shape legend: B graphs, N padded nodes, X / E / Y widths of node, pair and graph states.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openfl_flows.models.digress.config import DigressConfig
from openfl_flows.models.digress.fused import edge_attention


class Masks(NamedTuple):
    """Which entries of padded arrays are real, in the forms that the layers use.

    Attributes:
        nodes: 1.0 on real nodes, (B, N, 1).
        pairs: 1.0 on pairs of distinct real nodes, (B, N, N, 1).
        squares: 1.0 on pairs of real nodes, diagonal included, (B, N, N, 1).
        keys: 0 on real nodes and a large negative number on padding, (B, 1, N, 1).
        sizes: number of real nodes, (B,) int64.
    """

    nodes: Tensor
    pairs: Tensor
    squares: Tensor
    keys: Tensor
    sizes: Tensor


def make_masks(mask_BN: Tensor, dtype: torch.dtype) -> Masks:
    """The forms of a node mask."""
    squares_BNN = mask_BN.unsqueeze(1) & mask_BN.unsqueeze(2)
    eye_NN = torch.eye(mask_BN.shape[1], dtype=torch.bool, device=mask_BN.device)
    keys_B1N1 = (~mask_BN)[:, None, :, None].to(dtype) * -1e9
    return Masks(
        nodes=mask_BN.unsqueeze(-1).to(dtype),
        pairs=(squares_BNN & ~eye_NN).unsqueeze(-1).to(dtype),
        squares=squares_BNN.unsqueeze(-1).to(dtype),
        keys=keys_B1N1,
        sizes=mask_BN.sum(1),
    )


class Film(NamedTuple):
    """Feature-wise modulations by the graph state, (B, X) each; factors come with their 1 added.

    Attributes:
        e_mul: factor of the pairs.
        x_mul: factor of the nodes.
        e_add: offset of the pairs.
        x_add: offset of the nodes.
    """

    e_mul: Tensor
    x_mul: Tensor
    e_add: Tensor
    x_add: Tensor


class Pool(nn.Module):
    """Linear map of mean, minimum, maximum and standard deviation over entries.

    Corrected: over real entries, with the population standard deviation. Published: over all
    entries, padding and diagonal included, with the unbiased one.
    """

    def __init__(self, width: int, out: int, *, corrected: bool) -> None:
        """Pool states of `width` to `out` numbers."""
        super().__init__()
        self.corrected = corrected
        self.lin = nn.Linear(4 * width, out)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pool (B, M, width) under a mask (B, M, 1) to (B, out)."""
        if not self.corrected:
            parts = (states.mean(1), states.min(1).values, states.max(1).values, states.std(1))
            return self.read(torch.cat(parts, -1))
        share = mask / mask.sum(1, keepdim=True).clamp_min(1.0)
        mean = (states * share).sum(1)
        variance = ((states - mean.unsqueeze(1)).square() * share).sum(1)
        far = (1 - mask) * 1e9
        some = mask.amax(1)
        low, high = (states + far).amin(1) * some, (states - far).amax(1) * some
        return self.read(torch.cat((mean, low, high, (variance + 1e-6).sqrt()), -1))

    def read(self, pooled: Tensor) -> Tensor:
        """The linear map of pooled states, (B, 4 width) to (B, out)."""
        return F.linear(pooled, self.lin.weight, self.lin.bias)


class Attention(nn.Module):
    """Per-channel attention: Y_ij = (q_i k_j / sqrt(d)) * (1 + mul(e_ij)) + add(e_ij).

    softmax over j of Y weighs the values, Y itself becomes the new pair state; both pass a
    feature-wise modulation (FiLM) by the graph state y.
    """

    def __init__(self, config: DigressConfig, *, mask_keys: bool) -> None:
        """Build the maps.

        Args:
            config: sizes and numerics.
            mask_keys: whether padding is left out of the softmax.
        """
        super().__init__()
        dx, de, dy = config.dx, config.de, config.dy
        self.corrected, self.mask_keys = config.corrected, mask_keys
        self.scale = 1 / math.sqrt(dx // config.num_heads)
        self.q, self.k, self.v = (nn.Linear(dx, dx) for _ in range(3))
        self.e_add, self.e_mul = (nn.Linear(de, dx) for _ in range(2))
        self.y_e_mul, self.y_e_add = (nn.Linear(dy, dx) for _ in range(2))
        self.y_x_mul, self.y_x_add = (nn.Linear(dy, dx) for _ in range(2))
        self.y_y = nn.Linear(dy, dy)
        self.x_y = Pool(dx, dy, corrected=config.corrected)
        self.e_y = Pool(de, dy, corrected=config.corrected)
        self.x_out, self.e_out = nn.Linear(dx, dx), nn.Linear(dx, de)
        self.y_out = nn.Sequential(nn.Linear(dy, dy), nn.ReLU(), nn.Linear(dy, dy))

    def graph(self, x: Tensor, e: Tensor, y: Tensor, masks: Masks) -> Tensor:
        """New graph state (B, Y) of node states, pair states and the old one."""
        pairs_BME = e.flatten(1, 2)
        of_pairs = self.e_y(pairs_BME, masks.pairs.flatten(1, 2))
        return self.mix(self.x_y(x, masks.nodes), of_pairs, y)

    def mix(self, of_nodes: Tensor, of_pairs: Tensor, y: Tensor) -> Tensor:
        """New graph state (B, Y) of what was pooled, (B, Y) each, and the old one."""
        new: Tensor = self.y_out(self.y_y(y) + of_pairs + of_nodes)
        return new

    def nodes_and_pairs(
        self, x: Tensor, e: Tensor, y: Tensor, masks: Masks
    ) -> tuple[Tensor, Tensor]:
        """New node states (B, N, X) and pair states (B, N, N, E)."""
        q, k, v, film = self.project(x, y)
        # "1 +" of each modulation rides on the bias of its map.
        packed = _fused((self.e_mul, self.e_add), e, plus_one=1)
        if not self.corrected:
            q, k, v = q * masks.nodes, k * masks.nodes, v * masks.nodes
        gathered, mixed = edge_attention(
            q, k, v, packed, film.e_mul, film.e_add,
            masks.keys if self.mask_keys else None, None if self.corrected else masks.squares,
        )  # fmt: skip
        nodes, pairs = self.read(gathered, film), self.e_out(mixed)
        if not self.corrected:
            nodes, pairs = nodes * masks.nodes, pairs * masks.squares
        return nodes, pairs

    def project(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Film]:
        """Scaled queries, keys and values of the nodes, (B, N, X) each, and the modulations."""
        q, k, v = _fused((self.q, self.k, self.v), x).chunk(3, -1)
        maps = (self.y_e_mul, self.y_x_mul, self.y_e_add, self.y_x_add)
        return q * self.scale, k, v, Film(*_fused(maps, y, plus_one=2).chunk(4, -1))

    def read(self, gathered: Tensor, film: Film) -> Tensor:
        """Change of the node states, (B, N, X), of what the nodes gathered."""
        mixed = torch.addcmul(film.x_add.unsqueeze(1), gathered, film.x_mul.unsqueeze(1))
        return F.linear(mixed, self.x_out.weight, self.x_out.bias)


def _fused(layers: tuple[nn.Linear, ...], states: Tensor, *, plus_one: int = 0) -> Tensor:
    """All layers in one matrix product, outputs side by side; 1 added to the first `plus_one`."""
    weight = torch.cat([layer.weight for layer in layers])
    biases = [layer.bias + 1 if i < plus_one else layer.bias for i, layer in enumerate(layers)]
    return F.linear(states, weight, torch.cat(biases))
