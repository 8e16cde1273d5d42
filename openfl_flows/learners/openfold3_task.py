"""The OpenFold3 task: structures at sites, their learners, and what the result predicts."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from openfold3.projects.of3_all_atom.config.dataset_config_components import LossConfig
from pydantic import ConfigDict

from openfl_flows.data.blind.config import RANDOM, SplitConfig
from openfl_flows.data.blind.split import NO_PART, open_split
from openfl_flows.data.blind.structures import structure_parts
from openfl_flows.data.skew import NOTE as SKEW_NOTE
from openfl_flows.data.structures.select import (
    Structure,
    StructureSelection,
    read_structures,
    select,
)
from openfl_flows.data.structures.set import StructureSet
from openfl_flows.data.structures.sites import (
    SiteStructures,
    composition_table,
    deal,
    pool,
    skew_table,
)
from openfl_flows.learners.base import Learner, Table, check_site
from openfl_flows.learners.checkpoint import SUFFIX
from openfl_flows.learners.openfold3 import OpenFold3Data, OpenFold3Learner, OpenFold3Training
from openfl_flows.learners.ranks import led
from openfl_flows.metrics.mean import Means
from openfl_flows.models.openfold3.checkpoint import (
    fitted,
    load_weights,
    save_inference,
    save_training,
)
from openfl_flows.models.openfold3.config import OpenFold3Config
from openfl_flows.models.openfold3.network import build, load_network, network_state
from openfl_flows.models.openfold3.rollout import open_validation, roll_out, write_rollout
from openfl_flows.models.openfold3.trainer import LossesOffError
from openfl_flows.ops.files import load_state
from openfl_flows.seeds import derived_seed
from openfl_flows.state import State

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OpenFold3Task:
    """OpenFold3 on prepared structures that are dealt to sites.

    Attributes:
        SCHEMA: Name of the schema that its data can be held against.
        sites: Names of the sites.
        seed: Of the split, the model, samples and noise.
        network: OpenFold3 and how large it is.
        training: How sites train and measure.
        data: Which structures, and how they are dealt.
        split: How training, validation and test are told apart.
        predictions: Test structures that the finished model's predictions are shown of.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    SCHEMA: ClassVar[str] = "structures_v1"

    sites: tuple[str, ...]
    seed: int = 0
    network: OpenFold3Config = field(default_factory=OpenFold3Config)
    training: OpenFold3Training = field(default_factory=OpenFold3Training)
    data: StructureSelection = field(default_factory=StructureSelection)
    split: SplitConfig = RANDOM
    predictions: int = 2

    def __post_init__(self) -> None:
        """Refuse a negative count."""
        if self.predictions < 0:
            raise ValueError(f"predictions={self.predictions}, expected 0 or more")

    def initial_state(self) -> State:
        """Random weights from the seed: a federation begins with a checkpoint, by ``initial``."""
        seed = derived_seed(self.seed, "initial")
        return network_state(build(self.network, seed=seed).model)

    def learner(self, site: str) -> Learner:
        """The learner of one site."""
        check_site(site, self.sites)
        return self._learner(self._dealt[site], site)

    def pooled_learner(self) -> Learner:
        """The learner of the centralized baseline, which stands where the first site stood."""
        return self._learner(pool(list(self._dealt.values())), min(self.sites))

    def composition(self) -> Table:
        """What each site holds."""
        columns, rows = composition_table(self._dealt, self.data)
        skew_columns, skew_rows = skew_table(self._dealt, self.data)
        skew = Table(columns=skew_columns, rows=skew_rows, note=SKEW_NOTE)
        kept, found = len(self._chosen), len(self._set.structures)
        note = f"{kept:,} of {found:,} structures of {self.data.path}"
        if self._parts is not None and (left := list(self._parts.values()).count(NO_PART)):
            note += f"; {left:,} left out: their chains and ligands are in different parts"
        facts = columns[4:]
        return Table(columns=columns, rows=rows, note=note, facts=facts, skew=skew)

    def write_rejected(self, folder: Path) -> int:
        """Nothing: what cannot be used was refused when the set was prepared."""
        return 0

    def evaluate(self, state: State, folder: Path) -> Means:
        """Write predictions of test structures beside their truth, as mmCIF."""
        ids = self._ids(pool(list(self._dealt.values())).test)[: self.predictions]
        if not ids:
            return {}
        module = build(self.network).to(self.training.device)
        load_network(module.model, state)
        dataset, seed = open_validation(self._set, ids), derived_seed(self.seed, "shown")
        for index in range(len(dataset)):
            try:
                write_rollout(roll_out(module, dataset, index, seed=seed), folder)
            except (LossesOffError, FloatingPointError) as error:
                logger.warning("no prediction is shown: %s", error)
        return {}

    @property
    def best_metric(self) -> tuple[str, Literal["min", "max"]]:
        """The distogram loss, the least noisy of the terms; the confidence loss in its stage."""
        structure = self.network.stage == "structure"
        return "distogram_loss" if structure else "confidence_loss", "min"

    def agreement(self) -> Mapping[str, Any]:
        """Nothing is measured on data."""
        return {}

    def at_site(self, site: str, folder: Path) -> "OpenFold3Task":
        """This task on the prepared set of one site.

        Raises:
            ValueError: The site is unknown, or the folder holds no prepared set.
        """
        check_site(site, self.sites)
        StructureSet.open(folder)
        data = replace(self.data, path=str(folder), deal="iid", fractions=None)
        if data.subset == "mixed":
            # As many from each side of the cut is a property of the whole, not of a share.
            data = replace(data, subset="all", date_cut=None)
        return replace(self, sites=(site,), data=data)

    def write_site_data(self, site: str, folder: Path) -> None:
        """Write the site's share of the structures as a prepared set of its own.

        Raises:
            ValueError: The site is unknown.
        """
        check_site(site, self.sites)
        parts = self._dealt[site]
        self._set.copy([structure.name for part in parts for structure in part], folder)

    def load_checkpoint(self, path: Path) -> State:
        """A model of this package, a public checkpoint of OpenFold3, or one of Lightning.

        Raises:
            ValueError: It is none, or of another size; the message names file and tensor.
        """
        if path.suffix == SUFFIX:
            return fitted(path, load_state(path), self.network)
        return load_weights(path, self.network)

    def save_native(self, state: State, path: Path) -> None:
        """Write the bare state dict that OpenFold3's inference loads."""
        save_inference(state, self.network, path)

    def save_training(self, state: State, average: State | None, path: Path, *, steps: int) -> None:
        """Write a checkpoint that OpenFold3's own trainer goes on with.

        Args:
            state: The model.
            average: Its moving average, if there is one.
            path: The file.
            steps: Optimizer steps that were taken, which place the learning rate.
        """
        save_training(state, average, self.network, path, global_step=steps)

    def __getstate__(self) -> dict[str, Any]:
        """Send the configuration, not the data, to other processes: they read the data again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def _set(self) -> StructureSet:
        return self.data.open()

    @cached_property
    def _chosen(self) -> tuple[Structure, ...]:
        return select(read_structures(self._set), self.data)

    @cached_property
    def _dealt(self) -> Mapping[str, SiteStructures]:
        return deal(self._chosen, self.sites, self.data, self.seed, self._parts)

    @cached_property
    def _parts(self) -> Mapping[str, str] | None:
        blind = open_split(self.split)
        return None if blind is None else structure_parts(blind, self._set, self._chosen)

    def _learner(self, parts: SiteStructures, site: str) -> Learner:
        train, val, test = (self._ids(part) for part in parts)
        for name, ids in (("training", train), ("validation", val)):
            if not ids:
                raise ValueError(
                    f"network.stage=confidence: site {site!r} has no {name} structure with a "
                    "resolution of 0.1 to 4 Å, on which OpenFold3 trains confidence"
                )
        data = OpenFold3Data(structures=self._set, train=train, val=val, test=test)
        seed = derived_seed(self.seed, "site", site)
        return led(partial(OpenFold3Learner, self.network, self.training, data, seed=seed))

    def _ids(self, structures: tuple[Structure, ...]) -> tuple[str, ...]:
        """Names of those that the stage trains on: confidence needs a good resolution."""
        names = tuple(structure.name for structure in structures)
        if self.network.stage == "structure":
            return names
        limits = LossConfig()
        resolutions = {name: self._set.structures[name]["resolution"] for name in names}
        return tuple(
            name
            for name, found in resolutions.items()
            if found is not None and limits.min_resolution <= found <= limits.max_resolution
        )
