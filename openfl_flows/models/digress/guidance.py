"""Regressor guidance: bends each sampling step towards target properties.

p(z_s) is multiplied by softmax_class(-strength * grad_{z_t} MSE(g(z_t, t), target))
(Vignac et al., 2023, algorithm 3).

Shape legend: B graphs, N padded nodes, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openfl_flows.models.digress.bounds import Prediction
from openfl_flows.models.digress.graphs import pair_mask
from openfl_flows.models.digress.process import Noisy
from openfl_flows.models.digress.regressor import Regressor


@dataclass(frozen=True, kw_only=True, eq=False)
class Guidance:
    """Where to pull samples and how hard.

    Attributes:
        regressor: trained with the same noise as the denoiser; its configuration's numerics hold.
        target: [mu in Debye, HOMO in eV], (2,) for all graphs or (num, 2).
        strength: factor of the gradient, one for all graphs or (num,). Corrected: of each graph's
            own mean squared error of standardised targets, about 10 is useful. Published: of the
            mean over the whole batch of raw targets, so it weakens as the batch grows.
    """

    regressor: Regressor
    target: Tensor
    strength: float | Tensor

    def rows(self, part: slice) -> "Guidance":
        """The guidance of a slice of the graphs."""
        strength = self.strength
        return Guidance(
            regressor=self.regressor,
            target=self.target if self.target.dim() == 1 else self.target[part],
            strength=strength[part]
            if isinstance(strength, Tensor) and strength.dim()
            else strength,
        )

    def log_factors(self, noisy: Noisy, *, diagonal: bool = True) -> Prediction:
        """Log of the factors on each atom's and each bond's class, float32.

        Args:
            noisy: z_t and t.
            diagonal: as for the denoiser.
        """
        grad_x, grad_e = self.gradients(noisy, diagonal=diagonal)
        strength = torch.as_tensor(self.strength, device=grad_x.device).float().reshape(-1, 1, 1)
        return Prediction(
            atoms=(-strength * grad_x).log_softmax(-1),
            bonds=(-strength.unsqueeze(-1) * grad_e).log_softmax(-1),
        )

    def gradients(self, noisy: Noisy, *, diagonal: bool = True) -> tuple[Tensor, Tensor]:
        """Gradients of the error at one-hot atoms (B, N, K) and bonds (B, N, N, 5).

        Zero on padding; that of the bonds symmetrised and zero on the diagonal.
        """
        regressor, mask_BN = self.regressor, noisy.graphs.mask
        was_training = regressor.training
        regressor.eval()
        try:
            with torch.enable_grad():
                x, e = (
                    v.requires_grad_() for v in regressor.one_hot(noisy.graphs, diagonal=diagonal)
                )
                out = regressor(x, e, noisy.t, mask_BN)
                wanted = (self.target.to(out) - regressor.mean) / regressor.std
                errors = (out - wanted).square()
                error = errors.mean(1).sum() if regressor.config.corrected else errors.mean()
                grad_x, grad_e = torch.autograd.grad(error, (x, e))
        finally:
            regressor.train(was_training)
        grad_e = (grad_e + grad_e.transpose(1, 2)) / 2 * pair_mask(mask_BN).unsqueeze(-1)
        return grad_x * mask_BN.unsqueeze(-1), grad_e
