"""Ancestral sampling of graphs, with fewer steps, kept chains and guidance.

Shape legend: B graphs, N padded nodes, K classes.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from openfl_flows.models.digress.bounds import Prediction
from openfl_flows.models.digress.graphs import Graphs, concatenate, pair_mask
from openfl_flows.models.digress.guidance import Guidance, Selection
from openfl_flows.models.digress.process import NoiseProcess, Noisy
from openfl_flows.models.digress.schedule import Descent
from openfl_flows.models.digress.transitions import (
    inverse_cdf,
    log_posterior,
    redraw,
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
    guidance: Guidance | Selection | None, batch_size: int, descent: Descent,
) -> Sampled:  # fmt: skip
    """Draw `num` graphs; see `Denoiser.sample`."""
    levels = descent.path(process.num_steps, steps)
    _check(num, batch_size, keep_chain, chain_frames, steps)
    sizes = _sizes(process, num, num_nodes, generator)
    order = _order(sizes, batch_size, trimmed=process.corrected)
    finals: list[Graphs] = []
    chains: list[list[Graphs]] = []
    for part in torch.split(order, batch_size):
        pull = None if guidance is None else guidance.rows(part)
        kept = (part < keep_chain).nonzero().squeeze(1)
        final, frames = _denoise(
            process, predict, sizes[part], levels, generator, pull, kept, chain_frames, descent
        )
        finals.append(final)
        chains.append(frames)
    back = order.argsort()
    first = back[:keep_chain].argsort().argsort()
    chain = [concatenate(list(moment)).rows(first) for moment in zip(*chains, strict=True)]
    return Sampled(concatenate(finals).rows(back), chain or None)


def _order(sizes: Tensor, batch_size: int, *, trimmed: bool) -> Tensor:
    """The order in which graphs are drawn: by size, the largest first, where that saves work.

    A batch that is trimmed to its largest graph costs the square of that. Sizes that hardly differ
    (QM9's) are left in the order they have.
    """
    by_size = sizes.sort(descending=True, stable=True).indices
    costs = [
        sum(len(part) * int(part.max()) ** 2 for part in torch.split(some, batch_size))
        for some in (sizes, sizes[by_size])
    ]
    if trimmed and costs[1] < 0.9 * costs[0]:
        return by_size
    return torch.arange(len(sizes), device=sizes.device)


def _denoise(
    process: NoiseProcess, predict: Predict, sizes: Tensor, levels: list[int],
    generator: torch.Generator, guidance: Guidance | Selection | None, kept: Tensor,
    num_frames: int, descent: Descent,
) -> tuple[Graphs, list[Graphs]]:  # fmt: skip
    """One batch from level T to a graph, and the frames of its `kept` graphs."""
    width = len(process.log_size) - 1
    whole_BN = torch.arange(width, device=sizes.device) < sizes[:, None]
    # Noise is drawn for all nodes there may be, so that trimming does not change what is drawn.
    num = int(sizes.max()) if process.corrected else width
    mask_BN = whole_BN[:, :num]
    graphs = process.draw_limit(whole_BN, generator).trimmed(num)
    frames: dict[int, Graphs] = {}
    done, steps = 0, sum(int(b < a) for a, b in pairwise(levels))
    for level, following in pairwise(levels):
        t, s = (torch.full((len(sizes),), v, device=sizes.device) for v in (level, following))
        if following > level:
            graphs = _renoise(process, graphs, t, s, width, generator)
            continue
        noisy = Noisy(graphs, t)
        prediction = _sharpened(predict(noisy, diagonal=done > 0), descent.temperature)
        log_z = _posterior(process, prediction, noisy, s)
        if isinstance(guidance, Guidance):
            pull = guidance.log_factors(noisy, diagonal=done > 0)
            log_z = Prediction(log_z.atoms + pull.atoms, log_z.bonds + pull.bonds)
        graphs = _guided_draw(log_z, mask_BN, width, generator, guidance, s)
        done += 1
        frames[done * num_frames // steps] = _padded(graphs.rows(kept), width)
    if process.corrected:
        last = Noisy(graphs, torch.zeros(len(sizes), dtype=torch.int64, device=sizes.device))
        prediction = _sharpened(predict(last), descent.temperature)
        graphs = _guided_draw(prediction, mask_BN, width, generator, guidance, last.t)
    graphs = _padded(graphs, width)
    frames[num_frames] = graphs.rows(kept)
    return graphs, [frames[k] for k in range(1, num_frames + 1)]


def _renoise(
    process: NoiseProcess, graphs: Graphs, s: Tensor, t: Tensor, width: int,
    generator: torch.Generator,
) -> Graphs:  # fmt: skip
    """Draw z_t ~ q(z_t | z_s) for t > s."""
    keep_B, mask_BN = process.step_keep(s, t), graphs.mask
    of_atoms, of_pairs = _uniforms(mask_BN, width, generator)
    atoms = redraw(graphs.atoms, keep_B[:, None], process.atom_limit, of_atoms)
    bonds = redraw(graphs.bonds, keep_B[:, None, None], process.bond_limit, symmetric(of_pairs))
    return Graphs(torch.where(mask_BN, atoms, -1), bonds * pair_mask(mask_BN))


def _sharpened(prediction: Prediction, temperature: float) -> Prediction:
    if temperature == 1:
        return prediction
    atoms, bonds = ((log_p / temperature).log_softmax(-1) for log_p in prediction)
    return Prediction(atoms, bonds)


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


def _draw(log_p: Prediction, mask_BN: Tensor, width: int, generator: torch.Generator) -> Graphs:
    """Graphs of independent draws per atom and per unordered pair."""
    of_atoms, of_pairs = _uniforms(mask_BN, width, generator)
    atoms = sample_rows(log_p.atoms, of_atoms)
    pairs = sample_rows(log_p.bonds, of_pairs)
    padding = torch.full_like(atoms, -1)
    return Graphs(torch.where(mask_BN, atoms, padding), symmetric(pairs) * pair_mask(mask_BN))


def _guided_draw(
    log_p: Prediction, mask_BN: Tensor, width: int, generator: torch.Generator,
    guidance: Guidance | Selection | None, s: Tensor,
) -> Graphs:  # fmt: skip
    """Graphs at level s: drawn once, or chosen from several draws."""
    draw = partial(_draw, log_p, mask_BN, width, generator)
    return guidance.choose(draw, s, generator) if isinstance(guidance, Selection) else draw()


def _uniforms(mask_BN: Tensor, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A number per atom (B, N) and pair (B, N, N), those of the first N of `width` atoms."""
    num, nodes = mask_BN.shape
    of_atoms = uniform((num, width), generator, mask_BN.device)
    of_pairs = uniform((num, width, width), generator, mask_BN.device)
    return of_atoms[:, :nodes], of_pairs[:, :nodes, :nodes]


def _padded(graphs: Graphs, width: int) -> Graphs:
    """The same graphs, `width` nodes wide."""
    extra = width - graphs.atoms.shape[1]
    return Graphs(F.pad(graphs.atoms, (0, extra), value=-1), F.pad(graphs.bonds, (0, extra) * 2))


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
