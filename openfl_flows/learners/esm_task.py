"""The ESM-2 task: proteins at sites, their learners, and predictions of the test sets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from scipy import stats
from torch import nn
from transformers import EsmModel

from openfl_flows.cache_folder import cache_folder
from openfl_flows.data.blind.config import RANDOM, SplitConfig
from openfl_flows.data.blind.split import open_split
from openfl_flows.data.embedding_store import EmbeddingStore
from openfl_flows.data.proteins.fasta import write_fasta
from openfl_flows.data.proteins.rejections import write_rejections
from openfl_flows.data.proteins.sites import (
    ProteinPartition,
    SiteProteins,
    composition_table,
    deal,
    missing_classes,
    pool,
    skew_table,
    with_parts,
)
from openfl_flows.data.proteins.source import (
    SITE_FILE,
    Proteins,
    ProteinSource,
    site_source,
)
from openfl_flows.data.skew import NOTE as SKEW_NOTE
from openfl_flows.learners.base import Table, check_site
from openfl_flows.learners.checkpoint import SUFFIX, checked, load_own, load_torch, save_torch
from openfl_flows.learners.esm import EsmLearner, Features
from openfl_flows.learners.esm_training import EsmTraining, ProteinTarget
from openfl_flows.learners.module import load_tensors, tensors_state
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.metrics.predictions import Predictions
from openfl_flows.models.esm.config import EsmModelConfig
from openfl_flows.models.esm.embeddings import embed_sequences
from openfl_flows.models.esm.network import (
    ProteinModel,
    build,
    build_encoder,
    encoder_digest,
    merged_encoder,
    model_spec,
    outline,
    trained_tensors,
)
from openfl_flows.seeds import derived_seed
from openfl_flows.state import State

ENCODER, HEAD, TRAINED = "encoder", "head", "trained"
"""Parts of a saved model: ESM-2 as transformers loads it, the head, and what travels."""


@dataclass(frozen=True, kw_only=True)
class ValueScale:
    """Mean and standard deviation of the values that are learned, constants of the plan."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot divide."""
        if not self.std > 0:
            raise ValueError(f"value.std={self.std}, expected above 0")


@dataclass(frozen=True, kw_only=True)
class EsmTask:
    """ESM-2 on proteins that are dealt to sites.

    Attributes:
        SCHEMA: Name of the schema that its data can be held against.
        sites: Names of the sites.
        seed: Of partition, model, order and dropout.
        network: The encoder and its head.
        training: How sites train and measure.
        data: Where the proteins come from, what is learned of them, and the map of classes.
        partition: How they are dealt.
        split: How training, validation and test are told apart.
        value: Scale of the values, for ``sequence_to_value``.
        encoder_digest: Of the encoder's weights, where these do not travel: what the parties agree
            on, so that no site trains on another encoder. None to take what is there.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    SCHEMA: ClassVar[str] = "proteins_v1"

    sites: tuple[str, ...]
    seed: int = 0
    network: EsmModelConfig = field(default_factory=EsmModelConfig)
    training: EsmTraining = field(default_factory=EsmTraining)
    data: ProteinSource
    partition: ProteinPartition = field(default_factory=ProteinPartition)
    split: SplitConfig = RANDOM
    value: ValueScale = field(default_factory=ValueScale)
    encoder_digest: str | None = None

    def initial_state(self) -> State:
        """What trains, as it begins: random weights from the seed, or those of the encoder."""
        return tensors_state(trained_tensors(self._model()))

    def learner(self, site: str) -> EsmLearner:
        """The learner of one site."""
        check_site(site, self.sites)
        return self._learner(self._dealt[site], site)

    def pooled_learner(self) -> EsmLearner:
        """The learner of the centralized baseline, which stands where the first site stood."""
        return self._learner(self._pooled, min(self.sites))

    def composition(self) -> Table:
        """What each site holds, by part and by class."""
        classes, kind = self.data.classes, self.data.kind
        columns, rows = composition_table(self._dealt, classes, kind)
        skew_columns, skew_rows = skew_table(self._dealt, classes, kind)
        skew = Table(columns=skew_columns, rows=skew_rows, note=SKEW_NOTE)
        absent = missing_classes(self._dealt, classes) if self.data.kind != _VALUE else {}
        lacks = [f"{site} trains on no {', '.join(names)}" for site, names in absent.items()]
        note = "; ".join([self._read.note(), *lacks])
        tests = {name for own in self._dealt.values() for name in own.tests}
        facts = tuple(name for name in columns if name in tests - {"test"})
        return Table(columns=columns, rows=rows, note=note, facts=facts, skew=skew)

    def write_rejected(self, folder: Path) -> int:
        """List the records that were left out in ``rejected.csv``."""
        rejections = self._read.rejections
        if rejections:
            write_rejections(folder / "rejected.csv", rejections)
        return len(rejections)

    def evaluate(self, state: State, folder: Path) -> Means:
        """Write what the model predicts of each test set; correlations, where it is a value."""
        found: dict[str, Mean] = {}
        learner = self.pooled_learner()
        learner.receive(state)
        for name, proteins in self._pooled.tests.items():
            outputs = learner.outputs([protein.sequence for protein in proteins])
            if self.data.kind == "sequence_to_class":
                predictions = Predictions(
                    names=tuple(protein.name for protein in proteins),
                    true=self._target.tensor(proteins).numpy(),
                    probabilities=outputs.softmax(1).numpy(),
                    classes=self.data.classes,
                )
                folder.mkdir(parents=True, exist_ok=True)
                predictions.write(folder / f"predictions_{name}.csv")
            elif self.data.kind == _VALUE:
                true, predicted = self._target.tensor(proteins).numpy(), outputs.squeeze(1).numpy()
                for measure in (stats.spearmanr, stats.pearsonr):
                    value = float(measure(true, predicted).statistic)
                    found[f"{name}_{measure.__name__.removesuffix('r')}"] = Mean(value, 1)
        return found

    @property
    def best_metric(self) -> tuple[str, Literal["min", "max"]]:
        """Accuracy; the mean squared error of a value."""
        return ("mse", "min") if self.data.kind == _VALUE else ("accuracy", "max")

    def agreement(self) -> Mapping[str, Any]:
        """The digest of an encoder whose weights do not travel."""
        if self.network.mode == "full":
            return {}
        return {"encoder_digest": self._encoder_digest}

    def at_site(self, site: str, folder: Path) -> "EsmTask":
        """This task on the proteins of one site's own file.

        Raises:
            ValueError: The site is unknown, there is no file, or it is not said which encoder.
        """
        check_site(site, self.sites)
        if self.network.mode != "full" and self.encoder_digest is None:
            raise ValueError(
                "model.encoder_digest=null, expected the digest that the parties agree on: with "
                f"network.mode={self.network.mode} the encoder does not travel"
            )
        partition = replace(self.partition, name="iid", fractions=None, alpha=None)
        source = site_source(folder, self.data)
        return replace(self, sites=(site,), data=source, partition=partition)

    def write_site_data(self, site: str, folder: Path) -> None:
        """Write the site's share of the proteins as a file of its own.

        Raises:
            ValueError: The site is unknown.
        """
        check_site(site, self.sites)
        own = self._dealt[site]
        parts = (own.train, own.val, *own.tests.values())
        folder.mkdir(parents=True, exist_ok=True)
        write_fasta(folder / SITE_FILE, (protein.record for part in parts for protein in part))

    def load_checkpoint(self, path: Path) -> State:
        """A model of this package, or what :meth:`save_native` wrote.

        Raises:
            ValueError: It is none, or of another model; the message names file and tensor.
        """
        # Not the initial model: an encoder would be read for the names of its tensors.
        target = self._target
        outlined = outline(
            self.network, num_outputs=target.num_outputs, per_residue=target.per_residue
        )
        spec = model_spec(outlined)
        if path.suffix == SUFFIX:
            return load_own(path, spec)
        tensors = load_torch(path).get(TRAINED)
        if not isinstance(tensors, Mapping) or not all(
            isinstance(tensor, torch.Tensor) for tensor in tensors.values()
        ):
            raise ValueError(
                f"{path}: holds no tensors {TRAINED!r}, expected a model of this package"
            )
        return checked(path, tensors_state(tensors), spec)

    def save_native(self, state: State, path: Path) -> None:
        """Write encoder and head for use without this package.

        The file holds ``encoder``, with adapters merged into it, for ``EsmModel`` of transformers;
        ``head``; ``config`` of the encoder; ``classes``; and ``trained``, what travels.
        """
        model = self.model(state)
        encoder = merged_encoder(model.encoder or self._encoder())
        content = {
            ENCODER: encoder,
            HEAD: model.head.state_dict(),
            "config": self.network.settings().to_dict(),
            "pooling": self.network.pooling,
            "classes": list(self.data.classes),
            TRAINED: {name: t.detach().clone() for name, t in trained_tensors(model).items()},
        }
        save_torch(path, content)

    def model(self, state: State) -> ProteinModel:
        """The model with the weights of ``state``; without an encoder where that is frozen."""
        model = self._model()
        load_tensors(trained_tensors(model), state)
        return model

    def predict(self, state: State, sequences: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """What a model says of sequences, one after the other; few of them are in memory at once.

        Args:
            state: The model.
            sequences: As :meth:`~openfl_flows.data.proteins.source.ProteinSource.as_seen` gives.

        Yields:
            For each sequence (C,) probabilities of the classes, or (1,) its value; for
            ``residue_to_class`` (L, C).

        Raises:
            ValueError: A prediction is not finite.
        """
        model = self.model(state)
        for start in range(0, len(sequences), _AT_ONCE):
            block = sequences[start : start + _AT_ONCE]
            learner = self._on(model, SiteProteins((), (), {}), min(self.sites))
            outputs = learner.outputs(block)
            if self.data.kind == _VALUE:
                outputs = outputs * self.value.std + self.value.mean
            else:
                outputs = outputs.softmax(1)
            if not outputs.isfinite().all():
                raise ValueError("predictions are not finite: the model diverged")
            if self._target.per_residue:
                rows = torch.split(outputs, [len(sequence) for sequence in block])
            else:
                rows = outputs.unbind()
            for row in rows:
                yield row.numpy()

    def __getstate__(self) -> dict[str, Any]:
        """Send the configuration, not the data, to other processes: they read the data again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @cached_property
    def _target(self) -> ProteinTarget:
        return ProteinTarget(
            kind=self.data.kind,
            classes=self.data.classes,
            mean=self.value.mean,
            std=self.value.std,
        )

    @cached_property
    def _read(self) -> Proteins:
        return self.data.read()

    @cached_property
    def _dealt(self) -> Mapping[str, SiteProteins]:
        proteins, data = self._read.proteins, self.data
        if (blind := open_split(self.split)) is not None:
            proteins = with_parts(proteins, blind)
        cache = cache_folder()
        return deal(proteins, self.sites, self.partition, data.kind, self.seed, cache=cache)

    @cached_property
    def _pooled(self) -> SiteProteins:
        return pool(list(self._dealt.values()))

    def _model(self) -> ProteinModel:
        target = self._target
        model = build(
            self.network,
            num_outputs=target.num_outputs,
            per_residue=target.per_residue,
            seed=derived_seed(self.seed, "initial"),
        )
        if self.network.mode == "lora":
            self._check_encoder(model.encoder)
        return model

    def _learner(self, proteins: SiteProteins, site: str) -> EsmLearner:
        return self._on(self._model(), proteins, site)

    def _on(self, model: ProteinModel, proteins: SiteProteins, site: str) -> EsmLearner:
        return EsmLearner(
            model,
            self._target,
            self.training,
            proteins,
            features=self._features() if model.encoder is None else None,
            seed=derived_seed(self.seed, "site", site),
        )

    def _features(self) -> Features:
        training = self.training
        store = None
        if training.cache is not None:
            auto = training.cache == "auto"
            file = cache_folder() / "embeddings.sqlite" if auto else Path(training.cache)
            store = EmbeddingStore(file.expanduser(), self.network.shape.width)
        return partial(
            embed_sequences,
            encoder=self._encoder,
            digest=self._encoder_digest,
            pooling=None if self._target.per_residue else self.network.pooling,
            max_tokens=training.micro_tokens,
            precision=training.precision,
            device=training.device,
            store=store,
        )

    def _encoder(self) -> EsmModel:
        """The frozen encoder.

        Raises:
            ValueError: It is another than the parties agreed on.
        """
        encoder = _frozen_encoder(self.network, derived_seed(self.seed, "initial"))
        self._check_encoder(encoder)
        return encoder

    @cached_property
    def _encoder_digest(self) -> str:
        """What the parties agreed on, or that of the encoder that is there."""
        return self.encoder_digest or encoder_digest(self._encoder())

    def _check_encoder(self, encoder: nn.Module | None) -> None:
        if encoder is None or self.encoder_digest is None:
            return
        found = encoder_digest(encoder)
        if found != self.encoder_digest:
            raise ValueError(
                f"network.weights={self.network.weights} has digest {found}, expected "
                f"{self.encoder_digest} as model.encoder_digest says"
            )


_VALUE = "sequence_to_value"
_AT_ONCE = 256
"""Sequences that are predicted at once: their residues' embeddings are in memory together."""


@lru_cache(maxsize=1)
def _frozen_encoder(network: EsmModelConfig, seed: int) -> EsmModel:
    """One for all sites of a process."""
    with torch.random.fork_rng():
        return build_encoder(network, seed=seed)
