"""Guidance: bends each sampling step towards target properties that a regressor g predicts.

Two ways. `Guidance` is the published one (Vignac et al., 2023, algorithm 3): p(z_s) is multiplied
by softmax_class(-strength * grad_{z_t} MSE(g(z_t, t), target)). The regressor has only ever seen
one-hot graphs, so its slope at one says little of what another class would do.

`Selection` asks the regressor about whole graphs instead: of some candidates z_s ~ p(z_s | z_t) one
is drawn with probability proportional to p(target | z_s)^strength, where p(target | z_s) is normal
around g(z_s, s) with the variance of the regressor's errors at level s. With many candidates and
strength 1 that is a step of Bayes' posterior p(z_s | z_t, target) (soft value-based decoding, Li et
al., 2024, arXiv 2408.08252).

Shape legend: B graphs, N padded nodes, K classes, C candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from openfl_flows.models.digress.bounds import Prediction
from openfl_flows.models.digress.graphs import Graphs, concatenate, pair_mask
from openfl_flows.models.digress.process import Noisy, evaluating
from openfl_flows.models.digress.regressor import Regressor
from openfl_flows.models.digress.transitions import sample_rows, uniform

UNINFORMED = 0.95
"""Share of the variance at pure noise above which a level's errors say that nothing is known."""
VARIANCE_BINS = 20
"""Noise levels at which the regressor's errors are measured; between them they are interpolated."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Guidance:
    """Where to pull samples and how hard.

    Attributes:
        regressor: trained with the same noise as the denoiser; its configuration's numerics hold.
        target: [mu in Debye, HOMO in eV], (2,) for all graphs or (num, 2); NaN leaves one free.
        strength: factor of the gradient, one for all graphs or (num,). Corrected: of each graph's
            own mean squared error of standardised targets; 10 is weak, 100 strong. Published: of
            the mean over the whole batch of raw targets, so it weakens as the batch grows.
    """

    regressor: Regressor
    target: Tensor
    strength: float | Tensor

    def rows(self, part: slice | Tensor) -> "Guidance":
        """The guidance of some of the graphs: a slice, or their positions."""
        strength = self.strength
        if isinstance(strength, Tensor) and strength.dim():
            strength = strength[part]
        return replace(self, target=_of_rows(self.target, part), strength=strength)

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
                errors = _square_errors(regressor, out, self.target)
                error = errors.mean(1).sum() if regressor.config.corrected else errors.mean()
                grad_x, grad_e = torch.autograd.grad(error, (x, e))
        finally:
            regressor.train(was_training)
        grad_e = (grad_e + grad_e.transpose(1, 2)) / 2 * pair_mask(mask_BN).unsqueeze(-1)
        return grad_x * mask_BN.unsqueeze(-1), grad_e


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Where to pull samples, by a choice among whole candidate graphs at every step.

    Attributes:
        regressor: trained with the same noise as the denoiser.
        target: [mu in Debye, HOMO in eV], (2,) for all graphs or (num, 2); NaN leaves one free.
        variance: of the regressor's standardised errors at levels 0..T, (T + 1, 2), see
            `error_variance`.
        strength: exponent of the likelihood of the target; 1 is Bayes' posterior.
        candidates: graphs to choose from at each step.
    """

    regressor: Regressor
    target: Tensor
    variance: Tensor
    strength: float = 1.0
    candidates: int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot choose.

        Raises:
            ValueError: naming the value and what was expected.
        """
        if self.candidates < 2:
            raise ValueError(f"candidates is {self.candidates}; expected at least 2")

    @property
    def informed(self) -> Tensor:
        """Levels at which the regressor knows more of a property than at pure noise, (T + 1,)."""
        return (self.variance < UNINFORMED * self.variance[-1]).any(1)

    def rows(self, part: slice | Tensor) -> "Selection":
        """The guidance of some of the graphs."""
        return replace(self, target=_of_rows(self.target, part))

    def choose(self, draw: Callable[[], Graphs], s: Tensor, generator: torch.Generator) -> Graphs:
        """Draw candidates of level s and take one of each graph's.

        Where the regressor knows nothing of any graph yet there is one candidate, which is taken.

        Args:
            draw: gives one candidate of every graph.
            s: their noise level, (B,).
            generator: source of the choice.
        """
        if not self.informed[s].any():
            return draw()
        drawn = [draw() for _ in range(self.candidates)]
        scores_BC = torch.stack([self.log_likelihood(Noisy(graphs, s)) for graphs in drawn], -1)
        choice_B = sample_rows(
            self.strength * scores_BC, uniform((len(s),), generator, scores_BC.device)
        )
        index = choice_B * len(s) + torch.arange(len(s), device=choice_B.device)
        return concatenate(drawn).rows(index)

    def log_likelihood(self, noisy: Noisy) -> Tensor:
        """Log p(target | graph) up to a constant of the level, (B,)."""
        regressor = self.regressor
        with evaluating(regressor):
            out = regressor(*regressor.one_hot(noisy.graphs), noisy.t, noisy.graphs.mask)
        errors = _square_errors(regressor, out, self.target)
        return -(errors / self.variance.to(out)[noisy.t]).sum(1) / 2


def error_variance(
    regressor: Regressor, graphs: Graphs, targets: Tensor, generator: torch.Generator, *,
    batch_size: int = 512,
) -> Tensor:  # fmt: skip
    """Mean square of the regressor's standardised errors at each noise level, (T + 1, 2), float32.

    Measured at `VARIANCE_BINS` + 1 levels and interpolated.

    Args:
        regressor: the regressor.
        graphs: clean graphs that it was not trained on.
        targets: [mu in Debye, HOMO in eV], (B, 2), NaN = missing.
        generator: source of noise.
        batch_size: graphs at once.

    Raises:
        ValueError: a property has no label.
    """
    if bool(targets.isnan().all(0).any()):
        raise ValueError("a property has no label: the regressor's errors cannot be measured")
    steps = regressor.config.diffusion_steps
    bins = min(VARIANCE_BINS, steps)
    levels = [round(i * steps / bins) for i in range(bins + 1)]
    sums = []
    with evaluating(regressor):
        for level in levels:
            errors = []
            for start in range(0, len(targets), batch_size):
                part = slice(start, start + batch_size)
                t = torch.full(targets[part, 0].shape, level, device=targets.device)
                noisy = regressor.process.corrupt(graphs.rows(part), t, generator)
                errors.append((regressor.predict(noisy) - targets[part]) / regressor.std)
            sums.append(torch.cat(errors).square().nanmean(0))
    return _interpolated(torch.stack(sums), levels)


def _interpolated(values: Tensor, levels: list[int]) -> Tensor:
    rows = [
        torch.lerp(values[i], values[i + 1], k / (b - a))
        for i, (a, b) in enumerate(pairwise(levels))
        for k in range(b - a)
    ]
    return torch.stack([*rows, values[-1]])


def _square_errors(regressor: Regressor, out: Tensor, target: Tensor) -> Tensor:
    """Squares of standardised errors, (B, 2), 0 where nothing is wanted."""
    target = target.to(out)
    free = target.isnan().expand_as(out)
    wanted = (torch.where(target.isnan(), 0.0, target) - regressor.mean) / regressor.std
    return (out - wanted).square().masked_fill(free, 0.0)


def _of_rows(target: Tensor, part: slice | Tensor) -> Tensor:
    return target if target.dim() == 1 else target[part]
