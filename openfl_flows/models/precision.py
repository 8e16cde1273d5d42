"""How a model is computed: the precision of its matrix products, and whose kernels."""

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]
Kernels = Literal["torch", "native"]


def in_precision(
    precision: Precision, device: torch.device | str
) -> AbstractContextManager[object]:
    """A context in which matrix products run in `precision`; all else stays float32."""
    enabled = precision == "bfloat16"
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=enabled)
