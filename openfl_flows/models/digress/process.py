"""The forward noising process that a denoiser and its regressor share.

Shape legend: B graphs, N padded nodes, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from openfl_flows.models.digress.config import DigressConfig
from openfl_flows.models.digress.graphs import NUM_BOND_CLASSES, Graphs, pair_mask
from openfl_flows.models.digress.schedule import cosine_betas, survival
from openfl_flows.models.digress.statistics import GraphStatistics
from openfl_flows.models.digress.transitions import (
    inverse_cdf,
    log_one_hot,
    redraw,
    symmetric,
    uniform,
)


class Noisy(NamedTuple):
    """Graphs at a noise level.

    Attributes:
        graphs: the noisy graphs, int64 classes.
        t: noise level 0..T of each graph, (B,) int64.
    """

    graphs: Graphs
    t: Tensor


class NoiseProcess(nn.Module):
    """Noise schedule and limit distributions; moves with its module, never saved with it.

    Attributes:
        betas: beta_0..beta_T.
        survivals: alpha_bar_0..alpha_bar_T.
        atom_limit: limit distribution of atom classes.
        bond_limit: limit distribution of bond classes.
        log_size: log-probability of each graph size, index = number of nodes.
    """

    betas: Tensor
    survivals: Tensor
    atom_limit: Tensor
    bond_limit: Tensor
    log_size: Tensor

    def __init__(self, config: DigressConfig, statistics: GraphStatistics) -> None:
        """Build the buffers.

        Raises:
            ValueError: where the statistics do not fit the configuration.
        """
        super().__init__()
        num_atoms = len(config.vocabulary)
        if len(statistics.atom_marginals) != num_atoms:
            raise ValueError(
                f"atom_marginals has {len(statistics.atom_marginals)} classes; "
                f"expected {num_atoms}, one per symbol of vocabulary {config.vocabulary}"
            )
        if len(statistics.node_counts) != config.max_atoms + 1:
            raise ValueError(
                f"node_counts has {len(statistics.node_counts)} entries; "
                f"expected max_atoms + 1 = {config.max_atoms + 1} (sizes 0..max_atoms)"
            )
        self.num_steps = config.diffusion_steps
        self.corrected = config.corrected
        betas = cosine_betas(config.diffusion_steps)
        atoms, bonds = statistics.atom_marginals, statistics.bond_marginals
        if config.transition == "uniform":
            atoms = (1 / num_atoms,) * num_atoms
            bonds = (1 / NUM_BOND_CLASSES,) * NUM_BOND_CLASSES
        values = {
            "betas": betas,
            "survivals": survival(betas),
            "atom_limit": torch.tensor(atoms, dtype=torch.float64).float(),
            "bond_limit": torch.tensor(bonds, dtype=torch.float64).float(),
            "log_size": torch.tensor(statistics.node_counts, dtype=torch.float64).log().float(),
        }
        for name, value in values.items():
            self.register_buffer(name, value, persistent=False)

    def levels(self, num: int, generator: torch.Generator, *, lowest_t: int) -> Tensor:
        """`num` noise levels uniform on lowest_t..T, (num,) int64."""
        draws = torch.randint(
            lowest_t, self.num_steps + 1, (num,), generator=generator, device=generator.device
        )
        return draws.to(self.betas.device)

    def corrupt(self, graphs: Graphs, t: Tensor, generator: torch.Generator) -> Noisy:
        """Draw z_t ~ q(z_t | graphs) at noise levels t (B,); bonds stay symmetric."""
        device = graphs.atoms.device
        keep_B = self.survivals[t.to(self.survivals.device)]
        shape = tuple(graphs.bonds.shape)
        atom_draws = uniform(shape[:2], generator, device)
        bond_draws = symmetric(uniform(shape, generator, device))
        atoms = redraw(graphs.atoms, keep_B[:, None], self.atom_limit, atom_draws)
        bonds = redraw(graphs.bonds, keep_B[:, None, None], self.bond_limit, bond_draws)
        return Noisy(_masked(atoms, bonds, graphs.mask), t.to(device))

    def draw_limit(self, mask_BN: Tensor, generator: torch.Generator) -> Graphs:
        """Draw z_T from the limit distributions on the nodes of `mask_BN`."""
        num, width = mask_BN.shape
        atoms = inverse_cdf(self.atom_limit, uniform((num, width), generator, mask_BN.device))
        draws = symmetric(uniform((num, width, width), generator, mask_BN.device))
        return _masked(atoms, inverse_cdf(self.bond_limit, draws), mask_BN)

    def step_keep(self, s: Tensor, t: Tensor) -> Tensor:
        """Probability that a class survives from level s to t > s, (B,).

        alpha_bar_t / alpha_bar_s; published single steps use 1 - beta_t, which differs at t = T
        (0 instead of 1e-4).
        """
        ratio = self.survivals[t] / self.survivals[s]
        if self.corrected:
            return ratio
        return torch.where(t - s == 1, 1 - self.betas[t], ratio)

    def prior_divergence(self, graphs: Graphs, *, edges_twice: bool, reverse: bool) -> Tensor:
        """KL between q(z_T | graphs) and the limit, summed over a graph, in nats, (B,).

        Args:
            graphs: clean graphs.
            edges_twice: count both (i, j) and (j, i), as published.
            reverse: KL(limit || q) as published, instead of KL(q || limit).
        """
        atoms = _limit_divergence(graphs.atoms, self.survivals[-1], self.atom_limit, reverse)
        bonds = _limit_divergence(graphs.bonds, self.survivals[-1], self.bond_limit, reverse)
        pairs = (bonds * pair_mask(graphs.mask)).sum((1, 2))
        return (atoms * graphs.mask).sum(1) + (pairs if edges_twice else pairs / 2)


def _masked(atoms: Tensor, bonds: Tensor, mask_BN: Tensor) -> Graphs:
    """Graphs with padding and diagonal in their canonical form."""
    atoms = torch.where(mask_BN, atoms, torch.full_like(atoms, -1))
    return Graphs(atoms, bonds * pair_mask(mask_BN))


def _limit_divergence(classes: Tensor, keep: Tensor, limit_K: Tensor, reverse: bool) -> Tensor:
    """KL between keep * one_hot + (1 - keep) * limit and the limit, per entry."""
    one_hot = log_one_hot(classes, len(limit_K)).exp()
    reached = keep * one_hot + (1 - keep) * limit_K
    limit = limit_K.expand_as(reached)
    first, second = (limit, reached) if reverse else (reached, limit)
    terms = first * (first.log() - second.clamp_min(torch.finfo(first.dtype).tiny).log())
    return torch.where(first > 0, terms, 0.0).sum(-1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within: no gradients and no dropout; the training flag is restored on the way out."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)
