"""The DiGress task: molecules at sites, their learners, and molecules drawn from the result."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Discriminator, Tag

from openfl_flows.data.blind.config import RANDOM, SplitConfig
from openfl_flows.data.blind.split import open_split
from openfl_flows.data.molecule_sites import (
    PartitionConfig,
    SiteMolecules,
    composition_table,
    deal,
    pool,
    shares,
    skew_table,
)
from openfl_flows.data.molecule_table import MoleculeTable
from openfl_flows.data.molecules import Rejection, write_rejections
from openfl_flows.data.skew import NOTE as SKEW_NOTE
from openfl_flows.data.source import MoleculeSource, site_source, write_site_table
from openfl_flows.learners.base import Table, check_site
from openfl_flows.learners.digress import DigressLearner, DigressTraining
from openfl_flows.learners.digress_counts import plain_statistics
from openfl_flows.learners.digress_samples import (
    DigressSampling,
    References,
    judge_and_write,
    references,
    sample,
)
from openfl_flows.learners.digress_state import (
    Networks,
    load_networks,
    save_networks,
    statistics_of,
)
from openfl_flows.metrics.mean import Means
from openfl_flows.models.digress import (
    QM9_PUBLISHED,
    DigressConfig,
    GraphStatistics,
    count_statistics,
    merge_counts,
    statistics_from_counts,
)
from openfl_flows.models.digress.process import NoiseProcess
from openfl_flows.seeds import derived_seed
from openfl_flows.state import State

Statistics = Annotated[
    Annotated[Literal["counted", "qm9"], Tag("name")]
    | Annotated[GraphStatistics, Tag("constants")],
    Discriminator(lambda value: "name" if isinstance(value, str) else "constants"),
]


@dataclass(frozen=True, kw_only=True)
class DigressTask:
    """DiGress on molecules that are dealt to sites.

    Attributes:
        SCHEMA: Name of the schema that its data can be held against.
        sites: Names of the sites.
        seed: Of partition, model, order and noise.
        network: The denoiser and its diffusion; the regressor's follows from it.
        training: How sites train and measure.
        data: Where the molecules come from.
        partition: How they are dealt.
        split: How training, validation and test are told apart.
        statistics: ``counted`` at the sites, whose counts are summed once before round 1 and which
            never pool data; ``qm9``, the published constants; or constants of the parties' own.
        sampling: How the finished model is sampled.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    SCHEMA: ClassVar[str] = "molecules_v1"

    sites: tuple[str, ...]
    seed: int = 0
    network: DigressConfig = field(default_factory=DigressConfig.small)
    training: DigressTraining = field(default_factory=DigressTraining)
    data: MoleculeSource = field(default_factory=MoleculeSource)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    split: SplitConfig = RANDOM
    statistics: Statistics = "counted"
    sampling: DigressSampling = field(default_factory=DigressSampling)

    def __post_init__(self) -> None:
        """Refuse constants and sampling that do not fit the network."""
        self.sampling.check_steps(self.network.diffusion_steps)
        if isinstance(self.statistics, GraphStatistics):
            try:
                NoiseProcess(self.network, self.statistics)
            except ValueError as error:
                raise ValueError(f"statistics.{error}") from None
        if self.training.kernels == "native" and not self.network.corrected:
            raise ValueError(
                "training.kernels=native, expected torch: they compute corrected numerics only"
            )
        if self.training.micro_pairs is not None and not self.network.corrected:
            raise ValueError(
                f"training.micro_pairs={self.training.micro_pairs}, expected null: "
                "published numerics depend on padding"
            )

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
        return self._learner(self.pooled_molecules(), min(self.sites))

    def pooled_molecules(self) -> SiteMolecules:
        """All sites' molecules, each in the part of the split that its site put it in."""
        return pool(list(self._dealt.values()))

    def composition(self) -> Table:
        """What each site holds."""
        columns, rows = composition_table(self._dealt, self.partition)
        molecules, rejections = self._read
        note = (
            f"{len(molecules):,} molecules; {len(rejections):,} rejected; "
            f"{molecules.num_charged:,} lost a formal charge, which the model has no class for"
        )
        skew = _skew(self._dealt, self.partition)
        return Table(columns=columns, rows=rows, note=note, skew=skew)

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

    def networks(self, state: State) -> Networks:
        """Both networks with the weights of ``state``, on the device of training."""
        networks = Networks(self.network, statistics_of(state), self.training.kernels)
        networks = networks.to(self.training.device)
        networks.load(state)
        return networks

    def draw(self, state: State, folder: Path, sampling: DigressSampling, *, seed: int) -> Means:
        """Draw molecules into ``samples.csv``, one denoising chain into ``chain.npz``; judge them.

        Args:
            state: The model.
            folder: Where to write.
            sampling: How many and how.
            seed: Of the draws.

        Raises:
            ValueError: The diffusion does not have the steps of ``sampling``, or a selection has no
                labels to judge the regressor by.
        """
        sampling.check_steps(self.network.diffusion_steps)
        sampled = sample(self.networks(state), sampling, seed, self.pooled_molecules)
        return judge_and_write(sampled, self.network.vocabulary, self._references, folder)

    @cached_property
    def graph_statistics(self) -> GraphStatistics:
        """Sizes, marginals and target scale: the sites' training counts summed, or QM9's own."""
        if isinstance(self.statistics, GraphStatistics):
            return self.statistics
        if self.statistics == "qm9":
            return QM9_PUBLISHED
        counts = merge_counts(self._counts())
        if self.training.regressor and not counts["target_counts"].any():
            raise ValueError(
                "training.regressor=true, expected false: no training molecule has a label"
            )
        return statistics_from_counts(counts)

    def _counts(self) -> list[dict[str, np.ndarray]]:
        num_classes = len(self.network.vocabulary)
        return [_count(own.train, num_classes) for own in self._dealt.values()]

    def _on_table(self, site: str, folder: Path) -> "DigressTask":
        check_site(site, self.sites)
        return replace(
            self,
            sites=(site,),
            data=site_source(
                folder,
                limit=self.data.limit,
                storage=self.data.storage,
                workers=self.data.workers,
            ),
            partition=replace(self.partition, name="iid", fractions=None, alpha=None),
        )

    @cached_property
    def _read(self) -> tuple[MoleculeTable, Collection[Rejection]]:
        return self.data.read(self.network.vocabulary, self.network.max_atoms)

    @property
    def _shares(self) -> Mapping[str, MoleculeTable]:
        return shares(self._read[0], self.sites, self.partition, self.seed)

    @cached_property
    def _dealt(self) -> Mapping[str, SiteMolecules]:
        blind = open_split(self.split)
        return deal(self._read[0], self.sites, self.partition, self.seed, blind)

    @cached_property
    def _references(self) -> References:
        return references(self.pooled_molecules())

    def __getstate__(self) -> dict[str, Any]:
        """Send the configuration, not the data, to other processes: they read the data again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _learner(self, molecules: SiteMolecules, site: str) -> DigressLearner:
        seed = derived_seed(self.seed, "site", site)
        return DigressLearner(
            self.network, self.training, self.graph_statistics, molecules, seed=seed
        )


def _count(molecules: MoleculeTable, num_classes: int) -> dict[str, np.ndarray]:
    width, targets = molecules.max_atoms, molecules.targets
    counts = [
        count_statistics(*molecules.rows(block, width), targets[block], num_classes)
        for block in molecules.blocks()
    ]
    return merge_counts(counts)


def _skew(dealt: Mapping[str, SiteMolecules], partition: PartitionConfig) -> Table:
    columns, rows = skew_table(dealt, partition)
    return Table(columns=columns, rows=rows, note=SKEW_NOTE)
