"""How a model is computed: the precision of its matrix products, whose kernels, and where."""

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


def check_device(key: str, device: str) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        ValueError: Nothing can be put on it.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{key}={device} cannot be used, expected e.g. cpu: {reason}") from None
