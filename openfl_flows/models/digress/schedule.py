"""The cosine noise schedule of discrete diffusion, and which noise levels are drawn.

beta_t is the probability that step t redraws a class from the limit distribution, and
alpha_bar_t = prod_{i<=t} (1 - beta_i) that a class has survived up to t, for t = 0..T.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from openfl_flows.models.digress.transitions import uniform

_LARGEST_BETA = 0.9999


def cosine_betas(num_steps: int) -> Tensor:
    """beta_0..beta_T of the cosine schedule, (T+1,) float32.

    f(u) = cos^2(pi/2 * (u/(T+2) + s) / (1 + s)) with s = 0.008 on T+2 evenly spaced points u of
    [0, T+2], and beta_t = 1 - f(u_{t+1}) / f(u_t) (Nichol and Dhariwal, 2021, as published for
    DiGress: alpha_bar_0 is a little below 1, so level 0 is already slightly noisy).
    """
    offset = 0.008
    points = np.linspace(0, num_steps + 2, num_steps + 2)
    curve = np.cos(0.5 * math.pi * ((points / (num_steps + 2)) + offset) / (1 + offset)) ** 2
    curve = curve / curve[0]
    return torch.from_numpy(1 - curve[1:] / curve[:-1]).float()


def survival(betas: Tensor) -> Tensor:
    """alpha_bar_0..alpha_bar_T of the betas, (T+1,); every alpha is kept at 1e-4 or above."""
    alphas = 1 - betas.clamp(0.0, _LARGEST_BETA)
    return alphas.log().cumsum(0).exp()


def stratified_timesteps(num: int, num_steps: int, generator: torch.Generator) -> Tensor:
    """One noise level per graph from 1..T, spread evenly: (num,) int64 in random order.

    Draws level floor((i + u) T / num) + 1 for i = 0..num-1 with one shared uniform u, then
    shuffles: each graph's level is uniform on 1..T (so estimates stay unbiased), while the batch
    covers all noise levels, which removes most of the Monte-Carlo noise of a likelihood bound.
    """
    shift = uniform((1,), generator, generator.device).double()
    ranks = torch.arange(num, device=generator.device, dtype=torch.float64)
    levels = ((ranks + shift) * num_steps / num).floor().long().clamp(max=num_steps - 1) + 1
    return levels[torch.randperm(num, generator=generator, device=generator.device)]


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How a sampler goes down from level T to 0; by default as published, in even strides.

    Strides err because atoms and bonds are drawn independently of each other in each. `spacing` and
    `corrector` err less with more steps, as even strides do, and not at all in the limit.
    `overshoot` and `temperature` do not: they give more valid molecules for fewer steps at the
    price of a lasting preference for likely ones.

    Attributes:
        spacing: Levels lie at T u^spacing for u evenly spaced in 0..1: 1 is even; 2 is dense where
            the graph is decided, the "polydec" distortion of time of DeFoG (Qin et al., 2025,
            arXiv 2410.04263).
        overshoot: Denoise past the next level s, to s (1 - overshoot), and noise back up to s: 1
            draws the whole graph at every step. Costs no evaluation of the network.
        corrector: Times that each stride is noised back up and walked down again, the
            predictor-corrector steps of Campbell et al. (2022, arXiv 2205.14987) with the discrete
            forward and backward step. They are taken out of the number of steps.
        temperature: Of the predicted classes of atoms and bonds: below 1 is sharper.
    """

    spacing: float = 1.0
    overshoot: float = 0.0
    corrector: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what leads nowhere."""
        if not 0.25 <= self.spacing <= 8:
            raise ValueError(f"spacing is {self.spacing}; expected 0.25 to 8")
        if not 0 <= self.overshoot <= 1:
            raise ValueError(f"overshoot is {self.overshoot}; expected 0 to 1")
        if self.corrector < 0:
            raise ValueError(f"corrector is {self.corrector}; expected 0 or more")
        if not 0.1 <= self.temperature <= 10:
            raise ValueError(f"temperature is {self.temperature}; expected 0.1 to 10")

    def path(self, num_steps: int, steps: int) -> list[int]:
        """Levels from T to 0: down by denoising, `steps` times, and up by noising.

        Raises:
            ValueError: where `steps` is not in 1..T, or too few for the corrector.
        """
        if not 1 <= steps <= num_steps:
            raise ValueError(f"steps is {steps}; expected 1 to diffusion_steps={num_steps}")
        strides, rest = divmod(steps, self.corrector + 1)
        if not strides:
            raise ValueError(f"steps is {steps}; expected more than corrector={self.corrector}")
        levels = strided_levels(num_steps, strides, spacing=self.spacing)
        path = levels[:1]
        for above, level in pairwise(levels):
            lowest = round(level * (1 - self.overshoot))
            down = [lowest] if lowest == level else [lowest, level]
            again = self.corrector + (rest if level == 0 else 0)
            path += down + [above, *down] * again
        return path


def strided_levels(num_steps: int, steps: int, *, spacing: float = 1.0) -> list[int]:
    """Distinct noise levels from T down to 0 in `steps` strides, `spacing` as of `Descent`.

    Raises:
        ValueError: where `steps` is not in 1..T.
    """
    if not 1 <= steps <= num_steps:
        raise ValueError(f"steps is {steps}; expected 1 to diffusion_steps={num_steps}")
    if spacing == 1:
        return [round(num_steps * (steps - i) / steps) for i in range(steps + 1)]
    levels = [0]
    for k in range(1, steps + 1):
        # Levels are integers, and none may be visited twice, so dense parts step by 1.
        level = min(round(num_steps * (k / steps) ** spacing), num_steps - (steps - k))
        levels.append(max(level, levels[-1] + 1))
    return levels[::-1]
