"""Numbered training samples: sample n of a site is always the same crop of the same structure.

OpenFold3's own sampler repeats an epoch unless it is told otherwise, and its datasets draw from the
process's generators. Here every sample is drawn from a seed of its own, so that any process, or any
number of loading processes, makes the same one, and a step counter is all there is to remember.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from openfold3.core.data.framework.data_module import openfold_batch_collator
from openfold3.core.data.framework.single_datasets.dataset_utils import check_invalid_feature_dict
from openfold3.core.data.framework.single_datasets.pdb import WeightedPDBDataset
from openfold3.projects.of3_all_atom.config.dataset_configs import DATASET_CONFIG_REGISTRY
from pydantic import ConfigDict
from torch.utils.data import DataLoader, Dataset

from openfl_flows.data.structures.set import StructureSet
from openfl_flows.models.openfold3.randomness import seeded
from openfl_flows.seeds import derived_seed

logger = logging.getLogger(__name__)

Batch = dict[str, Any]
"""OpenFold3's features of one crop, collated: (1, ...) tensors, and what it keeps beside them."""

_ATTEMPTS = 10
"""Draws in place of one sample that cannot be made, before the data are called unusable."""


@dataclass(frozen=True, kw_only=True)
class Crops:
    """How structures are cropped, and which chains and interfaces are drawn how often.

    Attributes:
        tokens: Tokens of a crop. A list of (first optimizer step, tokens) is a curriculum: with H
            steps a round, round r begins at step (r - 1) H.
        contiguous: Share of crops along the chains.
        spatial: Share of crops around a token.
        interface: Share of crops around a token at an interface.
        chains: Most chains of a structure that a crop is taken from; None for all.
        protein: Weight of a protein chain (AlphaFold 3, supplement 2.5.1: 3).
        nucleic: Weight of a nucleic chain (3).
        ligand: Weight of a ligand (1); above 1 for sites that care for ligands.
        chain: Weight of drawing a single chain (0.5).
        pair: Weight of drawing an interface (1).
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    tokens: int | tuple[tuple[int, int], ...] = 384
    contiguous: float = 0.2
    spatial: float = 0.4
    interface: float = 0.4
    chains: int | None = 20
    protein: float = 3.0
    nucleic: float = 3.0
    ligand: float = 1.0
    chain: float = 0.5
    pair: float = 1.0

    def __post_init__(self) -> None:
        """Refuse crops that cannot be drawn."""
        shares = (self.contiguous, self.spatial, self.interface)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(
                f"crops: contiguous, spatial, interface = {shares}, expected shares that sum to 1"
            )
        weights = (self.protein, self.nucleic, self.ligand, self.chain, self.pair)
        if min(weights) < 0 or max(weights[:3]) == 0 or max(weights[3:]) == 0:
            raise ValueError(f"crops: weights {weights}, expected 0 or more, and not all 0")
        if self.chains is not None and self.chains < 1:
            raise ValueError(f"crops.chains={self.chains}, expected at least 1")
        stages = self.tokens if isinstance(self.tokens, tuple) else ((0, self.tokens),)
        starts = [start for start, _ in stages]
        if not stages or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"crops.tokens={self.tokens}, expected steps that begin at 0 and rise")
        if min(tokens for _, tokens in stages) < 4:
            raise ValueError(f"crops.tokens={self.tokens}, expected at least 4")

    def tokens_at(self, step: int) -> int:
        """Tokens of a crop at an optimizer step, counted from 0."""
        if isinstance(self.tokens, int):
            return self.tokens
        return [tokens for start, tokens in self.tokens if start <= step][-1]


class Sample(NamedTuple):
    """One training sample, and what was drawn before it in vain."""

    number: int
    batch: Batch
    failures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Where samples come from.

    Attributes:
        structures: The set.
        ids: Those of its structures that are drawn from.
        crops: How they are cropped.
        seed: Of all samples.
        per_step: Samples of an optimizer step, which places a sample in the curriculum.
        loss: OpenFold3's loss weights, where they are not its own.
    """

    structures: StructureSet
    ids: Sequence[str]
    crops: Crops
    seed: int
    per_step: int = 1
    loss: Mapping[str, Any] = field(default_factory=dict)


class NumberedSamples(Dataset[Sample]):
    """Samples by number, without end.

    Args:
        sampling: Where they come from.

    Raises:
        ValueError: OpenFold3 cannot read the set.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        with tempfile.TemporaryDirectory(prefix="openfl-flows-") as folder:
            cache = Path(folder) / "cache.json"
            sampling.structures.write_cache(sampling.ids, cache)
            self._dataset = WeightedPDBDataset(_dataset_config(sampling, cache))
        weights = self._dataset.datapoint_cache["datapoint_probabilities"].to_numpy(np.float64)
        if not weights.sum() > 0:
            raise ValueError(
                f"{sampling.structures.folder}: nothing to draw: the weights of all "
                "chains and interfaces are 0"
            )
        self._cumulative = np.cumsum(weights / weights.sum())

    @property
    def num_datapoints(self) -> int:
        """Chains and interfaces that samples are drawn from."""
        return len(self._dataset.datapoint_cache)

    def __getitem__(self, number: int) -> Sample:
        """Draw sample ``number``; one that cannot be made is replaced by another, and named.

        Raises:
            ValueError: Ten in a row cannot be made.
        """
        sampling = self._sampling
        tokens = sampling.crops.tokens_at(number // sampling.per_step)
        self._dataset.crop["token_crop"]["token_budget"] = tokens
        failures: list[str] = []
        for attempt in range(_ATTEMPTS):
            seed = derived_seed(sampling.seed, "sample", number, attempt)
            index = self._drawn(seed)
            # OpenFold3 raises whatever its libraries do; every kind of it means the same here.
            try:
                with seeded(seed):
                    features = self._dataset[index]
                check_invalid_feature_dict(features)
            except Exception as error:  # noqa: BLE001
                failures.append(self._failure(index, error))
                continue
            return Sample(number, openfold_batch_collator([features]), tuple(failures))
        raise ValueError(
            f"{sampling.structures.folder}: {_ATTEMPTS} samples in a row cannot be made; "
            f"the last: {failures[-1]}"
        )

    def numbers(self, numbers: Sequence[int], *, workers: int = 0) -> Iterator[Sample]:
        """Draw samples in the order of ``numbers``, ahead of time where there are ``workers``."""
        loader: DataLoader[Sample] = DataLoader(
            self,
            batch_size=None,
            sampler=list(numbers),
            num_workers=workers,
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=_one_thread if workers else None,
        )
        yield from loader

    def _drawn(self, seed: int) -> int:
        drawn = np.random.default_rng(derived_seed(seed, "datapoint")).random()
        return min(int(np.searchsorted(self._cumulative, drawn, side="right")),
                   len(self._cumulative) - 1)  # fmt: skip

    def _failure(self, index: int, error: Exception) -> str:
        datapoint = self._dataset.datapoint_cache.iloc[index]
        reason = str(error).partition("\n")[0]
        message = (
            f"{datapoint['pdb_id']} {datapoint['preferred_chain_or_interface']}: "
            f"{type(error).__name__}: {reason}"
        )
        logger.warning("sample cannot be made: %s", message)
        return message


def _dataset_config(sampling: Sampling, cache: Path) -> Any:
    crops = sampling.crops
    chain_crop = {"enabled": crops.chains is not None, "n_chains": crops.chains or 20}
    weights = {
        "a_prot": crops.protein, "a_nuc": crops.nucleic, "a_ligand": crops.ligand,
        "w_chain": crops.chain, "w_interface": crops.pair,
    }  # fmt: skip
    shares = {
        "contiguous": crops.contiguous,
        "spatial": crops.spatial,
        "spatial_interface": crops.interface,
    }
    # Its name in the module is None: the decorator that registers it returns nothing.
    return DATASET_CONFIG_REGISTRY.get("WeightedPDBDataset").model_validate(
        {
            "name": sampling.structures.folder.name,
            "dataset_paths": sampling.structures.paths(cache),
            "crop": {
                "token_crop": {"token_budget": crops.tokens_at(0), "crop_weights": shares},
                "chain_crop": chain_crop,
            },
            "sample_weights": weights,
            "loss": dict(sampling.loss),
        }
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
