"""Molecules drawn toward many targets at once, for one way of guidance after another."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openfl_flows.data.molecule_sites import SiteMolecules
from openfl_flows.learners.digress_state import Networks
from openfl_flows.metrics.molecules import MoleculeQuality, evaluate_molecules
from openfl_flows.models.digress import Guidance, Noisy, Selection, error_variance
from openfl_flows.models.digress.graphs import Graphs
from openfl_flows.models.digress.process import evaluating
from openfl_flows.seeds import derived_seed

_MOST_FOR_VARIANCE = 1000

Way = Literal["none", "gradient", "selection"]
Aim = Literal["both", "mu", "homo"]


@dataclass(frozen=True, kw_only=True)
class Pull:
    """How one set of molecules is guided.

    Attributes:
        way: ``gradient``, the published form; ``selection`` among candidates; or ``none``.
        strength: Of either, see :mod:`openfl_flows.models.digress.guidance`.
        aim: The properties that are guided; the others are left free.
    """

    way: Way = "none"
    strength: float = 0.0
    aim: Aim = "both"

    @property
    def name(self) -> str:
        """One word for files and tables."""
        return "unguided" if self.way == "none" else f"{self.way}-{self.aim}-{self.strength:g}"


class Drawn(NamedTuple):
    """Molecules drawn toward targets, all of one target after another.

    Attributes:
        smiles: (num,) of the largest fragment; None where not valid.
        opinion: (num, 2) what the regressor says of each graph, Debye and eV.
        quality: Counts over the whole set.
    """

    smiles: tuple[str | None, ...]
    opinion: NDArray[np.float64]
    quality: MoleculeQuality


def choose_targets(molecules: SiteMolecules, num: int, seed: int) -> NDArray[np.float64]:
    """(num, 2) dipole and HOMO of test molecules that have both, drawn without replacement.

    Raises:
        ValueError: There are not so many.
    """
    labels = np.asarray(molecules.test.targets, dtype=np.float64)
    known = labels[~np.isnan(labels).any(1)]
    if not 1 <= num <= len(known):
        raise ValueError(
            f"{num} targets, expected 1 to {len(known)}, the test molecules with both labels"
        )
    chosen = np.random.default_rng(derived_seed(seed, "targets")).permutation(len(known))[:num]
    return known[chosen]


def regressor_variance(networks: Networks, molecules: SiteMolecules) -> Tensor:
    """Variance of the regressor's errors on validation molecules, see `error_variance`.

    Raises:
        ValueError: A property has no label among them.
    """
    val = molecules.val
    labelled = np.flatnonzero(~np.isnan(val.targets).all(1))[:_MOST_FOR_VARIANCE]
    atoms, bonds = val.rows(labelled)
    device = networks.denoiser.process.atom_limit.device
    graphs = Graphs(torch.from_numpy(atoms), torch.from_numpy(bonds)).to(device)
    targets = torch.from_numpy(np.asarray(val.targets)[labelled]).to(device)
    generator = torch.Generator(device).manual_seed(derived_seed("variance"))
    return error_variance(networks.regressor, graphs, targets, generator)


def draw_toward(
    networks: Networks,
    pull: Pull,
    targets: NDArray[np.float64],
    *,
    per_target: int,
    variance: Tensor,
    candidates: int,
    steps: int | None,
    batch_size: int,
    seed: int,
) -> Drawn:
    """Draw molecules toward each target.

    The same seed gives the same sizes and noise at the start, however molecules are guided.

    Args:
        networks: The model.
        pull: How to guide.
        targets: (T, 2) dipole in Debye, HOMO in eV; NaN leaves one free.
        per_target: Molecules of each target.
        variance: Of the regressor, see :func:`regressor_variance`.
        candidates: Graphs that a selection chooses from.
        steps: Denoising steps, all where None.
        batch_size: Graphs at once.
        seed: Of the draws.
    """
    denoiser, device = networks.denoiser, networks.denoiser.process.atom_limit.device
    wanted = torch.from_numpy(targets).float().to(device).repeat_interleave(per_target, 0)
    sampled = denoiser.sample(
        len(wanted),
        torch.Generator(device).manual_seed(derived_seed(seed, "guided")),
        steps=steps,
        guidance=_guidance(networks, pull, wanted, variance, candidates),
        batch_size=batch_size,
    ).graphs
    with evaluating(networks.regressor):
        clean = torch.zeros(len(wanted), dtype=torch.int64, device=device)
        opinion = networks.regressor.predict(Noisy(sampled, clean))
    atoms, bonds = (part.cpu().numpy().astype(np.int8) for part in sampled)
    quality, smiles = evaluate_molecules(atoms, bonds, denoiser.config.vocabulary, ())
    return Drawn(smiles, opinion.double().cpu().numpy(), quality)


def _guidance(
    networks: Networks, pull: Pull, wanted: Tensor, variance: Tensor, candidates: int
) -> Guidance | Selection | None:
    if pull.way == "none":
        return None
    free = torch.tensor([pull.aim == "homo", pull.aim == "mu"], device=wanted.device)
    wanted = wanted.masked_fill(free, torch.nan)
    if pull.way == "gradient":
        return Guidance(regressor=networks.regressor, target=wanted, strength=pull.strength)
    return Selection(
        regressor=networks.regressor, target=wanted, variance=variance,
        strength=pull.strength, candidates=candidates,
    )  # fmt: skip
