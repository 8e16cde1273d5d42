"""The golden values of the published implementation and networks with its weights."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from openfl_flows.models.digress import (
    QM9_PUBLISHED,
    Denoiser,
    DigressConfig,
    Graphs,
    Noisy,
    Regressor,
    load_published,
    regressor_config,
)
from openfl_flows.models.digress.attention import Attention
from openfl_flows.models.digress.config import Numerics

FOLDER = Path(__file__).resolve().parents[3] / "golden"
CONFIG = DigressConfig(
    num_layers=2, dx=20, de=21, dy=22, num_heads=5, ff_x=23, ff_e=24, mlp_x=17, mlp_e=18, mlp_y=19,
    dropout=0.0, numerics="published",
)  # fmt: skip


@cache
def arrays() -> dict[str, Tensor]:
    """All numeric golden arrays."""
    with np.load(FOLDER / "digress_no_h.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if key != "smiles"}


def clean() -> Graphs:
    """The 16 molecules."""
    return _graphs(arrays()["X"], arrays()["E"])


def noisy() -> Noisy:
    """The same, noised, at levels 1..500."""
    return Noisy(_graphs(arrays()["X_t"], arrays()["E_t"]), arrays()["t_int"][:, 0].long())


def pairs() -> Tensor:
    """True on pairs of distinct real nodes, (16, 9, 9)."""
    mask = arrays()["node_mask"]
    return mask[:, None] & mask[:, :, None] & ~torch.eye(9, dtype=torch.bool)


def denoiser(numerics: Numerics = "published") -> Denoiser:
    """A denoiser with the golden weights, in eval mode."""
    model = Denoiser(replace(CONFIG, numerics=numerics), QM9_PUBLISHED)
    model.model.load_state_dict(load_published(load_file(FOLDER / "digress_denoiser.safetensors")))
    return model.eval()


def regressor() -> Regressor:
    """A regressor with the golden weights, which were run with masked attention."""
    model = Regressor(regressor_config(CONFIG), QM9_PUBLISHED)
    model.model.load_state_dict(load_published(load_file(FOLDER / "digress_regressor.safetensors")))
    for module in model.modules():
        if isinstance(module, Attention):
            module.mask_keys = True
    return model.eval()


def _graphs(x: Tensor, e: Tensor) -> Graphs:
    mask = arrays()["node_mask"]
    atoms = torch.where(mask, x.argmax(-1), torch.full(mask.shape, -1))
    return Graphs(atoms, e.argmax(-1))
