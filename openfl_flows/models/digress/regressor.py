"""The regressor that guides sampling: predicts a clean graph's properties from a noisy one.

Shape legend: B graphs, N padded nodes.
"""

import torch
from torch import Tensor, nn

from openfl_flows.models.digress.config import DigressConfig
from openfl_flows.models.digress.graphs import (
    NUM_BOND_CLASSES,
    Graphs,
    one_hot_atoms,
    one_hot_bonds,
)
from openfl_flows.models.digress.network import GraphTransformer, Widths
from openfl_flows.models.digress.process import NoiseProcess, Noisy, evaluating
from openfl_flows.models.digress.statistics import GraphStatistics

NUM_TARGETS = 2
"""Dipole moment mu in Debye, HOMO energy in eV."""


class Regressor(nn.Module):
    """[mu, HOMO] of the clean graph behind z_t. State dict as `Denoiser`'s: `model.<name>`."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: DigressConfig, statistics: GraphStatistics) -> None:
        """Build the network with random weights.

        Raises:
            ValueError: where the configuration has extra features, which cannot be differentiated,
                or the statistics do not fit.
        """
        super().__init__()
        if config.extra_features:
            raise ValueError("extra_features is True; expected False, see regressor_config")
        self.config = config
        self.process = NoiseProcess(config, statistics)
        self.model = GraphTransformer(
            config,
            Widths(len(config.vocabulary), NUM_BOND_CLASSES, 1),
            Widths(0, 0, NUM_TARGETS),
            mask_keys=config.corrected,
        )
        # Published targets are raw, which is the same as a mean of 0 and a deviation of 1.
        mean = statistics.target_mean if config.corrected else (0.0,) * NUM_TARGETS
        std = statistics.target_std if config.corrected else (1.0,) * NUM_TARGETS
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def corrupt(self, graphs: Graphs, generator: torch.Generator, *, lowest_t: int = 0) -> Noisy:
        """Draw a level of lowest_t..T for each graph and noise it to that level."""
        t = self.process.levels(len(graphs.atoms), generator, lowest_t=lowest_t)
        return self.process.corrupt(graphs, t, generator)

    def one_hot(self, graphs: Graphs, *, diagonal: bool = True) -> tuple[Tensor, Tensor]:
        """Inputs x (B, N, K) and e (B, N, N, 5) of `forward`; `diagonal` as for the denoiser."""
        e = one_hot_bonds(graphs, diagonal=diagonal and not self.config.corrected)
        return one_hot_atoms(graphs, len(self.config.vocabulary)), e

    def forward(self, x: Tensor, e: Tensor, t: Tensor, mask: Tensor) -> Tensor:
        """Standardised targets (B, 2), float32, of one-hot inputs; raw under published numerics.

        Args:
            x: one-hot atoms, (B, N, K).
            e: one-hot bonds, (B, N, N, 5).
            t: noise levels, (B,).
            mask: True on real nodes, (B, N).
        """
        y = t[:, None].float() / self.config.diffusion_steps
        out: Tensor = self.model(x, e, y, mask)[2]
        return out.float()

    def predict(self, noisy: Noisy) -> Tensor:
        """[mu in Debye, HOMO in eV], (B, 2)."""
        return self._standardised(noisy) * self.std + self.mean

    def loss(
        self, noisy: Noisy, targets: Tensor, *, num_targets: Tensor | int | None = None
    ) -> Tensor:
        """Squared error of standardised targets, summed over labels / num_targets.

        Args:
            noisy: noised graphs.
            targets: [mu in Debye, HOMO in eV], (B, 2), NaN = missing.
            num_targets: labels in the whole batch, where this is a micro-batch of it; the losses of
                all micro-batches then add up to that of the batch.

        Returns:
            Scalar loss; 0 for a batch without labels.
        """
        known = ~targets.isnan()
        wanted = (torch.where(known, targets, self.mean) - self.mean) / self.std
        errors = (self._standardised(noisy) - wanted).square() * known
        number = known.sum() if num_targets is None else torch.as_tensor(num_targets)
        return errors.sum() / number.clamp_min(1)

    def absolute_error(
        self, graphs: Graphs, targets: Tensor, generator: torch.Generator, *,
        t: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """|prediction - target| in Debye and eV, (B, 2), NaN where the label is missing.

        Args:
            graphs: clean graphs.
            targets: [mu in Debye, HOMO in eV], (B, 2).
            generator: source of noise.
            t: levels, (B,), uniform on 1..T unless given.
        """
        with evaluating(self):
            if t is None:
                t = self.process.levels(len(graphs.atoms), generator, lowest_t=1)
            return (self.predict(self.process.corrupt(graphs, t, generator)) - targets).abs()

    def _standardised(self, noisy: Noisy) -> Tensor:
        x, e = self.one_hot(noisy.graphs)
        out: Tensor = self(x, e, noisy.t, noisy.graphs.mask)
        return out
