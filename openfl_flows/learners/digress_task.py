"""The DiGress task: molecules at sites, their learners, and molecules drawn from the result."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Discriminator, Tag

from openfl_flows.data.molecule_sites import (
    PartitionConfig,
    SiteMolecules,
    composition_table,
    deal,
    pool,
    shares,
)
from openfl_flows.data.molecules import Molecules, Rejection, write_rejections
from openfl_flows.data.source import MoleculeSource, site_source, write_site_table
from openfl_flows.learners.base import Table, check_site
from openfl_flows.learners.digress import DigressLearner, DigressTraining
from openfl_flows.learners.digress_counts import plain_statistics
from openfl_flows.learners.digress_state import (
    Networks,
    load_networks,
    save_networks,
    statistics_of,
)
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.metrics.molecules import canonical_smiles, evaluate_molecules
from openfl_flows.models.digress import (
    QM9_PUBLISHED,
    DigressConfig,
    Graphs,
    GraphStatistics,
    Guidance,
    Sampled,
    count_statistics,
    merge_counts,
    statistics_from_counts,
)
from openfl_flows.models.digress.process import NoiseProcess
from openfl_flows.ops.atomic import write_atomically
from openfl_flows.seeds import derived_seed
from openfl_flows.state import State

Statistics = Annotated[
    Annotated[Literal["counted", "qm9"], Tag("name")]
    | Annotated[GraphStatistics, Tag("constants")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "constants"),
]


@dataclass(frozen=True, kw_only=True)
class DigressSampling:
    """How molecules are drawn from a finished model.

    Attributes:
        num: Molecules to draw; 0 to draw none.
        steps: Denoising steps, all of the diffusion's where None; fewer are faster and less exact.
        batch_size: Graphs denoised at once.
        chain_frames: Moments to keep of the first molecule's denoising.
        target: Dipole in Debye and HOMO in eV to guide toward; None for no guidance.
        strength: Strength of the guidance of each graph.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    num: int = 1000
    steps: int | None = None
    batch_size: int = 256
    chain_frames: int = 50
    target: tuple[float, float] | None = None
    strength: float = 10.0


@dataclass(frozen=True, kw_only=True)
class DigressTask:
    """DiGress on molecules that are dealt to sites.

    Attributes:
        sites: Names of the sites.
        seed: Of partition, model, order and noise.
        network: The denoiser and its diffusion; the regressor's follows from it.
        training: How sites train and measure.
        data: Where the molecules come from.
        partition: How they are dealt.
        statistics: ``counted`` at the sites, whose counts are summed once before round 1 and which
            never pool data; ``qm9``, the published constants; or constants of the parties' own.
        sampling: How the finished model is sampled.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    sites: tuple[str, ...]
    seed: int = 0
    network: DigressConfig = field(default_factory=DigressConfig.small)
    training: DigressTraining = field(default_factory=DigressTraining)
    data: MoleculeSource = field(default_factory=MoleculeSource)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    statistics: Statistics = "counted"
    sampling: DigressSampling = field(default_factory=DigressSampling)

    def __post_init__(self) -> None:
        """Refuse constants that do not fit the network."""
        if isinstance(self.statistics, GraphStatistics):
            try:
                NoiseProcess(self.network, self.statistics)
            except ValueError as error:
                raise ValueError(f"statistics.{error}") from None

    def initial_state(self) -> State:
        """Random weights from the seed, with the statistics of all sites."""
        with torch.random.fork_rng():
            torch.manual_seed(derived_seed(self.seed, "initial"))
            return Networks(self.network, self.graph_statistics).state()

    def learner(self, site: str) -> DigressLearner:
        """The learner of one site."""
        return self._learner(self._dealt[site], site)

    def pooled_learner(self) -> DigressLearner:
        """The learner of the centralized baseline.

        It stands where the first site stood, so that a federation of one site is the same run.
        """
        return self._learner(pool(list(self._dealt.values())), min(self.sites))

    def composition(self) -> Table:
        """What each site holds."""
        columns, rows = composition_table(self._dealt, self.partition)
        molecules, rejections = self._read
        note = (
            f"{len(molecules):,} molecules; {len(rejections):,} rejected; "
            f"{molecules.num_charged:,} lost a formal charge, which the model has no class for"
        )
        return Table(columns=columns, rows=rows, note=note)

    def write_rejected(self, folder: Path) -> int:
        """List the rejected rows in ``rejected.csv``."""
        rejections = self._read[1]
        if rejections:
            write_rejections(folder / "rejected.csv", rejections)
        return len(rejections)

    def evaluate(self, state: State, folder: Path) -> Means:
        """Draw molecules from the finished model as the plan says."""
        return self.draw(state, folder, self.sampling, seed=self.seed) if self.sampling.num else {}

    @property
    def best_metric(self) -> tuple[str, Literal["min", "max"]]:
        """The bound of what the sampler draws.

        Published numerics have none, so they are judged by the published estimate.
        """
        return "elbo" if self.network.corrected else "nll", "min"

    def agreement(self) -> Mapping[str, Any]:
        """The statistics as constants, where they are counted."""
        if self.statistics != "counted":
            return {}
        return {"statistics": plain_statistics(self.graph_statistics)}

    def at_site(self, site: str, folder: Path) -> "DigressTask":
        """This task on the molecules of one site's own table, split as a dealt share is.

        Args:
            site: The site's name.
            folder: Where its table lies, see :mod:`openfl_flows.data.source`.

        Raises:
            ValueError: The site is unknown, there is no table, or the statistics are yet to be
                counted.
        """
        if self.statistics == "counted":
            raise ValueError(
                "model.statistics=counted, expected constants: no site sees all sites' molecules"
            )
        return self._on_table(site, folder)

    def site_counts(self, site: str, folder: Path) -> dict[str, np.ndarray]:
        """Counts of the training molecules in one site's own table.

        Those of all sites, merged in the order of their names, give the constants of a plan.

        Raises:
            ValueError: The site is unknown, or its table cannot be used.
        """
        (counts,) = self._on_table(site, folder)._counts()
        return counts

    def write_site_data(self, site: str, folder: Path) -> None:
        """Write the site's share of the molecules as a table of its own.

        Raises:
            ValueError: The site is unknown.
        """
        check_site(site, self.sites)
        write_site_table(folder, self._shares[site])

    def load_checkpoint(self, path: Path, *, regressor: Path | None = None) -> State:
        """A model of this package, or a published checkpoint of the denoiser.

        Args:
            path: The file: safetensors, or one that torch saved.
            regressor: A published checkpoint of the regressor; where a published denoiser comes
                without, the regressor begins with random weights.

        Raises:
            ValueError: A file is no such model, or of another one; the message names the tensor.
        """
        return load_networks(path, self.network, self.initial_state(), regressor=regressor)

    def save_native(self, state: State, path: Path) -> None:
        """Write both networks under their published names, with configuration and statistics."""
        save_networks(state, self.network, path)

    def draw(self, state: State, folder: Path, sampling: DigressSampling, *, seed: int) -> Means:
        """Draw molecules into ``samples.csv``, one denoising chain into ``chain.npz``; judge them.

        Args:
            state: The model.
            folder: Where to write.
            sampling: How many and how.
            seed: Of the draws.

        Raises:
            ValueError: A count of ``sampling`` is out of range.
        """
        sampled = self._sample(state, sampling, seed)
        quality, smiles = evaluate_molecules(
            *_arrays(sampled.graphs), self.network.vocabulary, self._train_smiles
        )
        known = self._train_smiles
        rows = [(s or "", int(s is not None), int(s not in known)) for s in smiles]
        _write_csv(folder / "samples.csv", ("smiles", "relaxed_valid", "novel"), rows)
        if sampled.chain is not None:
            self._write_chain(sampled.chain, folder)
        return {
            "validity": Mean(quality.num_valid, quality.num_generated),
            "connected": Mean(quality.num_connected, quality.num_generated),
            "relaxed_validity": Mean(quality.num_relaxed_valid, quality.num_generated),
            "uniqueness": Mean(quality.num_unique, quality.num_relaxed_valid),
            "novelty": Mean(quality.num_novel, quality.num_unique),
        }

    def _sample(self, state: State, sampling: DigressSampling, seed: int) -> Sampled:
        device = self.training.device
        networks = Networks(self.network, statistics_of(state)).to(device)
        networks.load(state)
        guidance = None
        if sampling.target is not None:
            target = torch.tensor(sampling.target, device=device)
            guidance = Guidance(
                regressor=networks.regressor, target=target, strength=sampling.strength
            )
        frames = min(sampling.chain_frames, sampling.steps or self.network.diffusion_steps)
        sampled = networks.denoiser.sample(
            sampling.num,
            torch.Generator(device).manual_seed(derived_seed(seed, "samples")),
            steps=sampling.steps,
            keep_chain=1 if frames else 0,
            chain_frames=frames,
            guidance=guidance,
            batch_size=sampling.batch_size,
        )
        return Sampled(sampled.graphs.to("cpu"), sampled.chain)

    @cached_property
    def graph_statistics(self) -> GraphStatistics:
        """Sizes, marginals and target scale: the sites' training counts summed, or QM9's own."""
        if isinstance(self.statistics, GraphStatistics):
            return self.statistics
        if self.statistics == "qm9":
            return QM9_PUBLISHED
        return statistics_from_counts(merge_counts(self._counts()))

    def _counts(self) -> list[dict[str, np.ndarray]]:
        num_classes = len(self.network.vocabulary)
        trains = [own.train for own in self._dealt.values()]
        return [count_statistics(t.atoms, t.bonds, t.targets, num_classes) for t in trains]

    def _on_table(self, site: str, folder: Path) -> "DigressTask":
        check_site(site, self.sites)
        return replace(
            self,
            sites=(site,),
            data=site_source(folder, limit=self.data.limit),
            partition=replace(self.partition, name="iid", fractions=None, alpha=None),
        )

    @cached_property
    def _read(self) -> tuple[Molecules, tuple[Rejection, ...]]:
        return self.data.read(self.network.vocabulary, self.network.max_atoms)

    @property
    def _shares(self) -> Mapping[str, Molecules]:
        return shares(self._read[0], self.sites, self.partition, self.seed)

    @cached_property
    def _dealt(self) -> Mapping[str, SiteMolecules]:
        return deal(self._read[0], self.sites, self.partition, self.seed)

    @cached_property
    def _train_smiles(self) -> frozenset[str | None]:
        train = pool(list(self._dealt.values())).train
        return frozenset(canonical_smiles(train.atoms, train.bonds, train.vocabulary))

    def __getstate__(self) -> dict[str, Any]:
        """Send the configuration, not the data, to other processes: they read the data again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _learner(self, molecules: SiteMolecules, site: str) -> DigressLearner:
        seed = derived_seed(self.seed, "site", site)
        return DigressLearner(
            self.network, self.training, self.graph_statistics, molecules, seed=seed
        )

    def _write_chain(self, chain: list[Graphs], folder: Path) -> None:
        frames = [_arrays(frame.rows(slice(0, 1)).to("cpu")) for frame in chain]
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            atoms=np.concatenate([atoms for atoms, _ in frames]),
            bonds=np.concatenate([bonds for _, bonds in frames]),
            vocabulary=np.array(self.network.vocabulary),
        )
        write_atomically(folder / "chain.npz", buffer.getvalue())


def _arrays(graphs: Graphs) -> tuple[np.ndarray, np.ndarray]:
    return graphs.atoms.numpy().astype(np.int8), graphs.bonds.numpy().astype(np.int8)


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple[str, int, int]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
