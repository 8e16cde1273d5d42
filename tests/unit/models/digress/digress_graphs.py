"""Random graphs and tiny models for the tests."""

from dataclasses import replace
from typing import Any

import torch

from openfl_flows.models.digress import (
    Denoiser,
    DigressConfig,
    Graphs,
    GraphStatistics,
    Regressor,
    regressor_config,
)

TINY = DigressConfig(
    num_layers=2, dx=16, de=8, dy=8, num_heads=2, ff_x=16, ff_e=8, ff_y=16, mlp_x=16, mlp_e=8,
    mlp_y=8, dropout=0.0, diffusion_steps=20,
)  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config(**changes: Any) -> DigressConfig:
    return replace(TINY, **changes)


def statistics(max_atoms: int = 9) -> GraphStatistics:
    return GraphStatistics(
        node_counts=(0.0,) + (1 / max_atoms,) * max_atoms,
        atom_marginals=(0.5, 0.2, 0.2, 0.1),
        bond_marginals=(0.6, 0.2, 0.1, 0.1, 0.0),
        target_mean=(2.0, -6.0),
        target_std=(1.5, 0.5),
    )


def denoiser(seed: int = 0, **changes: Any) -> Denoiser:
    torch.manual_seed(seed)
    chosen = config(**changes)
    return Denoiser(chosen, statistics(chosen.max_atoms)).eval()


def regressor(seed: int = 0, **changes: Any) -> Regressor:
    torch.manual_seed(seed)
    chosen = regressor_config(config(**changes))
    return Regressor(chosen, statistics(chosen.max_atoms)).eval()


def random_graphs(num: int, seed: int = 0, *, width: int = 9, density: float = 0.35) -> Graphs:
    """Graphs of 1..width nodes with random classes, nodes first, padding last."""
    source = generator(seed)
    sizes = torch.randint(1, width + 1, (num, 1), generator=source)
    mask = torch.arange(width) < sizes
    atoms = torch.randint(0, 4, (num, width), generator=source)
    bonded = torch.rand((num, width, width), generator=source) < density
    bonds = (torch.randint(1, 4, bonded.shape, generator=source) * bonded).triu(1)
    bonds = (bonds + bonds.transpose(1, 2)) * (mask[:, None] & mask[:, :, None])
    atoms = torch.where(mask, atoms, torch.full_like(atoms, -1))
    return Graphs(atoms.to(torch.int8), bonds.to(torch.int8))


def padded(graphs: Graphs, extra: int) -> Graphs:
    """The same graphs, `extra` columns wider."""
    pad = torch.nn.functional.pad
    return Graphs(pad(graphs.atoms, (0, extra), value=-1), pad(graphs.bonds, (0, extra, 0, extra)))


def permuted(graphs: Graphs, order: torch.Tensor) -> Graphs:
    """Nodes in another order, padding included."""
    return Graphs(graphs.atoms[:, order], graphs.bonds[:, order][:, :, order])
