"""The cosine noise schedule of discrete diffusion, and which noise levels are drawn.

beta_t is the probability that step t redraws a class from the limit distribution, and
alpha_bar_t = prod_{i<=t} (1 - beta_i) that a class has survived up to t, for t = 0..T.
"""

import math

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


def strided_levels(num_steps: int, steps: int) -> list[int]:
    """Noise levels that a sampler visits, from T down to 0, in `steps` nearly equal strides.

    Raises:
        ValueError: where `steps` is not in 1..T.
    """
    if not 1 <= steps <= num_steps:
        raise ValueError(f"steps is {steps}; expected 1 to diffusion_steps={num_steps}")
    return [round(num_steps * (steps - i) / steps) for i in range(steps + 1)]
