"""Ancestral sampling of graphs, with fewer steps, kept chains and guidance.

Shape legend: B graphs, N padded nodes, K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from openfl_flows.models.digress.bounds import Prediction
from openfl_flows.models.digress.graphs import Graphs, concatenate, pair_mask
from openfl_flows.models.digress.guidance import Guidance
from openfl_flows.models.digress.process import NoiseProcess, Noisy
from openfl_flows.models.digress.schedule import strided_levels
from openfl_flows.models.digress.transitions import (
    inverse_cdf,
    log_posterior,
    sample_rows,
    symmetric,
    uniform,
)

Predict = Callable[..., Prediction]


class Sampled(NamedTuple):
    """Drawn graphs.

    Attributes:
        graphs: `num` graphs, int64 classes, as wide as the largest graph may be.
        chain: `chain_frames` moments of the first `keep_chain` graphs, from noise to the final
            graph; None where none were asked for.
    """

    graphs: Graphs
    chain: list[Graphs] | None


def sample_graphs(
    process: NoiseProcess, predict: Predict, num: int, generator: torch.Generator, *,
    num_nodes: Tensor | None, steps: int, keep_chain: int, chain_frames: int,
    guidance: Guidance | None, batch_size: int,
) -> Sampled:  # fmt: skip
    """Draw `num` graphs; see `Denoiser.sample`."""
    levels = strided_levels(process.num_steps, steps)
    _check(num, batch_size, keep_chain, chain_frames, steps)
    sizes = _sizes(process, num, num_nodes, generator)
    device, width = process.atom_limit.device, len(process.log_size) - 1
    finals: list[Graphs] = []
    chains: list[list[Graphs]] = []
    for start in range(0, num, batch_size):
        part = slice(start, min(start + batch_size, num))
        mask_BN = torch.arange(width, device=device) < sizes[part, None]
        rows = max(0, min(keep_chain - start, len(mask_BN)))
        pull = None if guidance is None else guidance.rows(part)
        final, frames = _denoise(
            process, predict, mask_BN, levels, generator, pull, slice(0, rows), chain_frames
        )
        finals.append(final)
        if rows and chain_frames:
            chains.append(frames)
    chain = [concatenate(list(moment)) for moment in zip(*chains, strict=True)] or None
    return Sampled(concatenate(finals), chain)


def _denoise(
    process: NoiseProcess, predict: Predict, mask_BN: Tensor, levels: list[int],
    generator: torch.Generator, guidance: Guidance | None, kept: slice, num_frames: int,
) -> tuple[Graphs, list[Graphs]]:  # fmt: skip
    """One batch from level T to a graph, and the frames of its `kept` graphs."""
    graphs = process.draw_limit(mask_BN, generator)
    frames: dict[int, Graphs] = {}
    steps = len(levels) - 1
    for i in range(steps):
        t, s = (
            torch.full((len(mask_BN),), level, device=mask_BN.device) for level in levels[i:][:2]
        )
        noisy = Noisy(graphs, t)
        prediction = predict(noisy, diagonal=i > 0)
        log_z = _posterior(process, prediction, noisy, s)
        if guidance is not None:
            pull = guidance.log_factors(noisy, diagonal=i > 0)
            log_z = Prediction(log_z.atoms + pull.atoms, log_z.bonds + pull.bonds)
        graphs = _draw(log_z, mask_BN, generator)
        frames[(i + 1) * num_frames // steps] = graphs.rows(kept)
    if process.corrected:
        last = Noisy(graphs, torch.zeros(len(mask_BN), dtype=torch.int64, device=mask_BN.device))
        graphs = _draw(predict(last), mask_BN, generator)
    frames[num_frames] = graphs.rows(kept)
    return graphs, [frames[k] for k in range(1, num_frames + 1)]


def _posterior(
    process: NoiseProcess, prediction: Prediction, noisy: Noisy, s: Tensor
) -> Prediction:
    """Log p(z_s | z_t) of every atom and bond."""
    t = noisy.t
    values = (process.step_keep(s, t), process.survivals[s], process.survivals[t])
    keep, kept_s, kept_t = (value[:, None, None] for value in values)
    atoms = log_posterior(
        prediction.atoms, noisy.graphs.atoms, keep, kept_s, kept_t, process.atom_limit
    )
    keep, kept_s, kept_t = (value[:, None, None, None] for value in values)
    bonds = log_posterior(
        prediction.bonds, noisy.graphs.bonds, keep, kept_s, kept_t, process.bond_limit
    )
    return Prediction(atoms, bonds)


def _draw(log_p: Prediction, mask_BN: Tensor, generator: torch.Generator) -> Graphs:
    """Graphs of independent draws per atom and per unordered pair."""
    num, width = mask_BN.shape
    atoms = sample_rows(log_p.atoms, uniform((num, width), generator, mask_BN.device))
    pairs = sample_rows(log_p.bonds, uniform((num, width, width), generator, mask_BN.device))
    padding = torch.full_like(atoms, -1)
    return Graphs(torch.where(mask_BN, atoms, padding), symmetric(pairs) * pair_mask(mask_BN))


def _sizes(
    process: NoiseProcess, num: int, num_nodes: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Nodes per graph, (num,)."""
    device, largest = process.atom_limit.device, len(process.log_size) - 1
    if num_nodes is None:
        return inverse_cdf(process.log_size.exp(), uniform((num,), generator, device))
    if num_nodes.shape != (num,) or int(num_nodes.min()) < 1 or int(num_nodes.max()) > largest:
        raise ValueError(f"num_nodes is {num_nodes.tolist()}; expected {num} sizes 1..{largest}")
    return num_nodes.to(device)


def _check(num: int, batch_size: int, keep_chain: int, chain_frames: int, steps: int) -> None:
    if num < 1 or batch_size < 1:
        raise ValueError(f"num is {num} and batch_size {batch_size}; expected at least 1 each")
    if not 0 <= keep_chain <= num:
        raise ValueError(f"keep_chain is {keep_chain}; expected 0 to num={num}")
    if not 0 <= chain_frames <= steps:
        raise ValueError(f"chain_frames is {chain_frames}; expected 0 to steps={steps}")
    if (keep_chain > 0) != (chain_frames > 0):
        raise ValueError(
            f"keep_chain is {keep_chain} and chain_frames {chain_frames}; expected both or neither"
        )
