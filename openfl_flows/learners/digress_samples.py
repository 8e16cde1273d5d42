"""Molecules drawn from a finished DiGress: how, what they are judged against, what is written."""

import csv
import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict

from openfl_flows.atomic import write_atomically
from openfl_flows.data.molecule_sites import SiteMolecules
from openfl_flows.learners.digress_guidance import regressor_variance
from openfl_flows.learners.digress_state import Networks
from openfl_flows.metrics.distribution import MoleculeSet, compare
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.metrics.molecules import MoleculeQuality, canonical_smiles, evaluate_molecules
from openfl_flows.models.digress import Descent, Graphs, Guidance, Sampled, Selection
from openfl_flows.models.precision import Precision, in_precision
from openfl_flows.seeds import derived_seed

_MOST_REFERENCES = 5000


@dataclass(frozen=True, kw_only=True)
class DigressSampling:
    """How molecules are drawn from a finished model.

    Attributes:
        num: Molecules to draw; 0 to draw none.
        steps: Denoising steps, all of the diffusion's where None; fewer are faster and less exact.
        spacing: Of the noise levels that few steps visit: 1 even, above 1 denser near the end.
        overshoot: Share by which each step denoises too far and noises back up, 0 to 1.
        corrector: Times that each stride is walked again, out of the same number of steps.
        temperature: Of the predicted classes; below 1 is sharper and less diverse.
        batch_size: Graphs denoised at once.
        precision: Of the network's matrix products.
        chain_frames: Moments to keep of the first molecule's denoising.
        target: Dipole in Debye and HOMO in eV to guide toward, None leaving one of them free; None
            for no guidance.
        guidance: ``selection`` among candidates at every step, or the published ``gradient``.
        strength: Of either, see :mod:`openfl_flows.models.digress.guidance`; a selection's 3 and a
            gradient's 100 gain about the same.
        candidates: Graphs that a selection chooses from at every step.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    num: int = 1000
    steps: int | None = None
    spacing: float = 1.0
    overshoot: float = 0.0
    corrector: int = 0
    temperature: float = 1.0
    batch_size: int = 256
    precision: Precision = "float32"
    chain_frames: int = 50
    target: tuple[float | None, float | None] | None = None
    guidance: Literal["selection", "gradient"] = "selection"
    strength: float = 3.0
    candidates: int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        least_of = {"num": 0, "batch_size": 1, "chain_frames": 0, "candidates": 2, "strength": 0}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"sampling.{name}={getattr(self, name)}, expected at least {least}"
                )
        if self.target == (None, None):
            raise ValueError("sampling.target=[null, null], expected a dipole, a HOMO or both")
        try:
            self.descent  # noqa: B018
        except ValueError as error:
            raise ValueError(f"sampling.{error}") from None

    @property
    def descent(self) -> Descent:
        """How the sampler goes from noise to a graph."""
        return Descent(
            spacing=self.spacing,
            overshoot=self.overshoot,
            corrector=self.corrector,
            temperature=self.temperature,
        )

    def check_steps(self, diffusion_steps: int) -> None:
        """Refuse steps that a diffusion of so many does not have.

        Raises:
            ValueError: There are too few or too many.
        """
        steps = diffusion_steps if self.steps is None else self.steps
        try:
            self.descent.path(diffusion_steps, steps)
        except ValueError as error:
            raise ValueError(f"sampling.{error}") from None


class References(NamedTuple):
    """What drawn molecules are compared with.

    Attributes:
        known: Every training molecule as it would be written.
        test: At most 5,000 test molecules.
        train: As many training molecules.
    """

    known: frozenset[str | None]
    test: MoleculeSet
    train: MoleculeSet


def references(pooled: SiteMolecules) -> References:
    """The molecules of all sites, as drawn ones are written."""
    test, train = (
        [
            smiles
            for block in part.blocks()
            for smiles in canonical_smiles(*part.rows(block), part.vocabulary)
        ]
        for part in (pooled.test, pooled.train)
    )
    chosen = MoleculeSet(_some(test, _MOST_REFERENCES))
    return References(frozenset(train), chosen, MoleculeSet(_some(train, len(chosen))))


def sample(
    networks: Networks, sampling: DigressSampling, seed: int, molecules: Callable[[], SiteMolecules]
) -> Sampled:
    """Draw molecules as ``sampling`` says; the graphs are on the CPU.

    Args:
        networks: The model.
        sampling: How many and how.
        seed: Of the draws.
        molecules: Gives molecules with labels, asked for by a selection only: it must know how far
            the regressor errs.

    Raises:
        ValueError: There are no labels for a selection.
    """
    device = networks.denoiser.process.atom_limit.device
    guidance = _guidance(networks, sampling, molecules)
    steps = networks.denoiser.config.diffusion_steps if sampling.steps is None else sampling.steps
    frames = min(sampling.chain_frames, steps)
    with in_precision(sampling.precision, device):
        sampled = networks.denoiser.sample(
            sampling.num,
            torch.Generator(device).manual_seed(derived_seed(seed, "samples")),
            steps=steps,
            keep_chain=1 if frames else 0,
            chain_frames=frames,
            guidance=guidance,
            batch_size=sampling.batch_size,
            descent=sampling.descent,
        )
    return Sampled(sampled.graphs.to("cpu"), sampled.chain)


def _guidance(
    networks: Networks, sampling: DigressSampling, molecules: Callable[[], SiteMolecules]
) -> Guidance | Selection | None:
    if sampling.target is None:
        return None
    wanted = [math.nan if value is None else value for value in sampling.target]
    target = torch.tensor(wanted, device=networks.denoiser.process.atom_limit.device)
    if sampling.guidance == "gradient":
        return Guidance(regressor=networks.regressor, target=target, strength=sampling.strength)
    selection = Selection(
        regressor=networks.regressor,
        target=target,
        variance=regressor_variance(networks, molecules()),
        strength=sampling.strength,
        candidates=sampling.candidates,
    )
    if not selection.informed.any():
        warnings.warn(
            f"sampling.target={list(sampling.target)} has no effect: the regressor is no better on "
            "clean graphs than on noise; train it for longer or on more labels",
            stacklevel=2,
        )
    return selection


def judge_and_write(
    sampled: Sampled, vocabulary: Sequence[str], against: References, folder: Path
) -> Means:
    """Write ``samples.csv`` and, where there is one, ``chain.npz``; measure the molecules."""
    quality, smiles = evaluate_molecules(*_arrays(sampled.graphs), vocabulary, against.known)
    rows = [(s or "", int(s is not None), int(s not in against.known)) for s in smiles]
    _write_csv(folder / "samples.csv", ("smiles", "relaxed_valid", "novel"), rows)
    if sampled.chain is not None:
        _write_chain(sampled.chain, vocabulary, folder)
    measured = compare(MoleculeSet(smiles), against.test, against.train)
    # A measure of a whole set is no mean over its molecules: its count is this one set.
    return {**_shares(quality), **{name: Mean(value, 1) for name, value in measured.items()}}


def _shares(quality: MoleculeQuality) -> Means:
    return {
        "validity": Mean(quality.num_valid, quality.num_generated),
        "connected": Mean(quality.num_connected, quality.num_generated),
        "relaxed_validity": Mean(quality.num_relaxed_valid, quality.num_generated),
        "uniqueness": Mean(quality.num_unique, quality.num_relaxed_valid),
        "novelty": Mean(quality.num_novel, quality.num_unique),
    }


def _some(smiles: Sequence[str | None], num: int) -> list[str | None]:
    """At most ``num`` of them, always the same."""
    chosen = np.random.default_rng(derived_seed("references")).permutation(len(smiles))[:num]
    return [smiles[i] for i in sorted(chosen)]


def _arrays(graphs: Graphs) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    return graphs.atoms.numpy().astype(np.int8), graphs.bonds.numpy().astype(np.int8)


def _write_chain(chain: list[Graphs], vocabulary: Sequence[str], folder: Path) -> None:
    frames = [_arrays(frame.rows(slice(0, 1)).to("cpu")) for frame in chain]
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        atoms=np.concatenate([atoms for atoms, _ in frames]),
        bonds=np.concatenate([bonds for _, bonds in frames]),
        vocabulary=np.array(vocabulary),
    )
    write_atomically(folder / "chain.npz", buffer.getvalue())


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple[str, int, int]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
