"""Two places of ESM-2 that transformers computes slowly, computed alike up to rounding."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, EsmModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_ATTENTION = "openfl_flows_sdpa"


class Intermediate(nn.Module):
    """The widening layer of a block, with PyTorch's GELU in one pass instead of four.

    Args:
        dense: Its linear layer, (..., D) to (..., 4 D).
    """

    def __init__(self, dense: nn.Module) -> None:
        super().__init__()
        self.dense = dense

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., 4 D) of (..., D)."""
        return functional.gelu(self.dense(hidden))


def fuse(encoder: EsmModel) -> EsmModel:
    """Have an encoder compute by one kernel what is many in transformers; names stay."""
    for layer in encoder.encoder.layer:
        layer.intermediate = Intermediate(layer.intermediate.dense)
    encoder.set_attn_implementation(_ATTENTION)
    return encoder


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **options: Any,
) -> Any:
    """Scaled dot product attention; on a processor in float32, where bfloat16's is slow."""
    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    with torch.autocast("cpu", enabled=False):
        wide = (tensor.float() for tensor in (query, key, value))
        return sdpa_attention_forward(module, *wide, mask, **options)


AttentionInterface.register(_ATTENTION, _attend)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
