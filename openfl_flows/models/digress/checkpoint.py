"""Published checkpoints into our networks, and ours into the published form."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openfl_flows.models.digress.schedule import cosine_betas
from openfl_flows.models.lightning import load_lightning

_PREFIX = "model."
_BETAS = "noise_schedule.betas"
_HEADS = ("mlp_out_X", "mlp_out_E", "mlp_out_y")


def load_published(
    source: str | Path | Mapping[str, Any], *, diffusion_steps: int | None = None
) -> dict[str, Tensor]:
    """State dict for `GraphTransformer.load_state_dict` of a published checkpoint.

    Accepts a Lightning checkpoint (its "state_dict" is used), or a bare state dict, with or
    without the prefix "model.". Tensors without elements are left out (our networks have no such
    maps); so is everything that is no network parameter: the noise schedule, which is checked to be
    the cosine one, and metrics.

    Args:
        source: a file that torch saved, or its content; nothing in a file is executed.
        diffusion_steps: T that a noise schedule in it must have; None for any.

    Raises:
        ValueError: where there are no network parameters, or the noise schedule is another one.
    """
    content: Any = source
    if not isinstance(source, Mapping):
        content = _read(Path(source))
    content = content.get("state_dict", content)
    betas = content.get(_BETAS)
    if betas is not None and not torch.allclose(betas, cosine_betas(len(betas) - 1), atol=1e-6):
        raise ValueError(f"{_BETAS} is not the cosine schedule of {len(betas) - 1} steps")
    if betas is not None and diffusion_steps not in (None, len(betas) - 1):
        raise ValueError(f"{_BETAS} has {len(betas) - 1} steps; expected {diffusion_steps}")
    prefixed = any(key.startswith(f"{_PREFIX}mlp_in_X") for key in content)
    prefix = _PREFIX if prefixed else ""
    roots = tuple(f"{prefix}{root}" for root in ("mlp_in_", "tf_layers.", "mlp_out_"))
    state = {
        key.removeprefix(prefix): value
        for key, value in content.items()
        if key.startswith(roots) and isinstance(value, Tensor) and value.numel()
    }
    if not state:
        raise ValueError(
            f"no parameters mlp_in_*, tf_layers.*, mlp_out_* among {len(content)} keys"
        )
    return state


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # Hyper-parameters of classes that are not here.
        return load_lightning(path)
    return content


def to_published(
    state: Mapping[str, Tensor], *, diffusion_steps: int | None = None
) -> dict[str, Tensor]:
    """The published state dict of a `GraphTransformer`'s: prefix and zero-size maps put back.

    Args:
        state: our network's state dict, names without prefix.
        diffusion_steps: T, to add the noise schedule that a Lightning checkpoint carries.
    """
    published = {}
    for key, value in state.items():
        published[_PREFIX + key] = value
        head, _, rest = key.partition(".")
        if head in _HEADS and rest == "0.bias" and f"{head}.2.weight" not in state:
            published[f"{_PREFIX}{head}.2.weight"] = value.new_zeros(0, len(value))
            published[f"{_PREFIX}{head}.2.bias"] = value.new_zeros(0)
    if diffusion_steps is not None:
        published[_BETAS] = cosine_betas(diffusion_steps)
    return published
