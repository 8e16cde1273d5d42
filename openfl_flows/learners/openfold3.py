"""The OpenFold3 learner: H optimizer steps of G accumulated samples in a round, at one site."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain, islice
from typing import Literal

import torch
from pydantic import ConfigDict

from openfl_flows.data.structures.set import StructureSet
from openfl_flows.learners.base import Budget, LocalState, Progress, TrainReport
from openfl_flows.metrics.mean import Mean, Means, merge
from openfl_flows.models.openfold3.config import OpenFold3Config
from openfl_flows.models.openfold3.network import build, load_network, network_spec, network_state
from openfl_flows.models.openfold3.rollout import open_validation, validate
from openfl_flows.models.openfold3.samples import (
    Batch,
    Crops,
    NumberedSamples,
    Sample,
    Sampling,
)
from openfl_flows.models.openfold3.trainer import LossesOffError, OpenFold3Trainer, Optimization
from openfl_flows.models.ranks import ALONE, Ranks
from openfl_flows.seeds import derived_seed
from openfl_flows.state import Spec, State


@dataclass(frozen=True, kw_only=True)
class OpenFold3Training:
    """How a site trains and measures OpenFold3.

    Attributes:
        accumulate: Samples of an optimizer step (G), over all processes of the site.
        optimization: OpenFold3's optimizer.
        crops: How samples are cropped and drawn.
        loss_weights: OpenFold3's weights of its loss terms where others are wanted, such as
            ``{bond: 4.0, smooth_lddt: 0.0}`` for late fine-tuning.
        max_failures: Samples of a round that may be left out because they cannot be made, or
            because OpenFold3 turned off their losses; one more is an error.
        validation_crops: Crops of validation structures, always the same, that the loss is measured
            on; kept in memory.
        validation_interval: Optimizer steps between validations: a round that begins or ends in
            between measures nothing. 1 measures at the beginning and the end of every round.
        validation_rollouts: Validation structures that are predicted whole in each round, for
            lDDT and ligand RMSD; the first by name.
        test_rollouts: Test structures that the finished model predicts; None for all.
        workers: Processes that make samples ahead of time.
        device: Where to train, as torch names it.
        precision: ``bfloat16`` is OpenFold3's mixed precision, which a GPU alone has.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    accumulate: int = 8
    optimization: Optimization = field(default_factory=Optimization)
    crops: Crops = field(default_factory=Crops)
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    max_failures: int = 0
    validation_crops: int = 8
    validation_interval: int = 1
    validation_rollouts: int = 0
    test_rollouts: int | None = None
    workers: int = 0
    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        for name, least in (
            ("accumulate", 1), ("max_failures", 0), ("validation_crops", 1), ("workers", 0),
            ("validation_interval", 1), ("validation_rollouts", 0), ("test_rollouts", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"training.{name}={value}, expected at least {least}")
        if self.precision == "bfloat16" and torch.device(self.device).type != "cuda":
            raise ValueError(
                f"training.precision=bfloat16 on device={self.device}, expected float32: OpenFold3 "
                "keeps the parts that need it in float32 on a GPU only"
            )


@dataclass(frozen=True, kw_only=True)
class OpenFold3Data:
    """One site's structures.

    Attributes:
        structures: The set that holds them.
        train: Ids of those that train.
        val: Ids of those that each round is validated on.
        test: Ids of those that the finished model is measured on.
    """

    structures: StructureSet
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


class OpenFold3Learner:
    """Trains OpenFold3's own module with OpenFold3's own optimization.

    Samples, crops, recycles, noise and dropout of a step are drawn from the seed and the step's
    number alone, so the optimizer's counter is all of the random state.

    Args:
        config: The network.
        training: How to train and measure.
        data: The site's structures.
        seed: Of samples and noise; another one at every site.
        ranks: The processes of the site that train together: each does its share of a step's
            samples, which are the same ones however many there are.

    Raises:
        ValueError: The samples of a step cannot be shared evenly.
    """

    def __init__(
        self,
        config: OpenFold3Config,
        training: OpenFold3Training,
        data: OpenFold3Data,
        *,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        if training.accumulate % ranks.size:
            raise ValueError(
                f"training.accumulate={training.accumulate} with {ranks.size} processes, expected "
                "a multiple of their number"
            )
        self._training = training
        self._data = data
        self._seed = seed
        self._ranks = ranks
        self._module = build(config).to(ranks.device(training.device))
        self._trainer = OpenFold3Trainer(
            self._module,
            training.optimization,
            accumulate=training.accumulate // ranks.size,
            bfloat16=training.precision == "bfloat16",
            ranks=ranks,
        )
        self._samples = self._numbered(data.train, seed)

    @property
    def spec(self) -> Spec:
        """Names, shapes and element types of what travels."""
        return network_spec(self._module.model)

    def receive(self, state: State) -> None:
        """Make ``state`` the model.

        Raises:
            ValueError: It is the state of another model.
        """
        load_network(self._module.model, state)

    def send(self) -> State:
        """A copy of the unique parameters."""
        return network_state(self._module.model)

    def local_state(self) -> LocalState:
        """Adam's moments and the step, which places samples, noise and learning rate."""
        return self._trainer.local_state()

    def restore(self, local_state: LocalState) -> None:
        """Take back what :meth:`local_state` gave."""
        self._trainer.restore(local_state)

    def train(self, budget: Budget, progress: Progress) -> TrainReport:
        """Take optimizer steps.

        Raises:
            ValueError: More samples failed than may, or a loss is not finite.
        """
        accumulate = self._training.accumulate
        num_steps = budget.num_steps(-(-self._samples.num_datapoints // accumulate))
        first = self._trainer.step * accumulate
        numbers = range(first, first + num_steps * accumulate)
        share = self._ranks.share(numbers)
        samples = self._samples.numbers(share, workers=self._training.workers)
        failures: list[str] = []
        terms: list[Mapping[str, float]] = []
        for step in range(1, num_steps + 1):
            in_vain: list[tuple[str, ...]] = []
            ours = islice(samples, len(share) // num_steps)
            results = self._trainer.take_step(self._drawn(ours, in_vain))
            failures += chain(*self._ranks.in_order(partial(list, in_vain)))
            failures += [str(result) for result in results if isinstance(result, LossesOffError)]
            terms += [result for result in results if not isinstance(result, LossesOffError)]
            self._check(failures)
            progress(step, num_steps, terms[-1]["loss"] if terms else float("nan"))
        self._trainer.release_gradients()
        metrics = _means(terms, "train_")
        metrics["failed_samples"] = Mean(len(failures), len(numbers))
        return TrainReport(metrics=metrics, num_samples=len(terms), num_steps=num_steps)

    def validate(self) -> Means:
        """The training loss by term on fixed crops, and metrics of structures predicted whole.

        Nothing between two validations (``validation_interval``).
        """
        if self._trainer.step % self._training.validation_interval:
            return {}
        whole = self._data.val[: self._training.validation_rollouts]
        return {**self._measure(self._validation), **self._roll_out(whole)}

    def test(self) -> Means:
        """The same on the test structures."""
        whole = self._data.test[: self._training.test_rollouts]
        means = {**self._measure(self._fixed(self._data.test)), **self._roll_out(whole)}
        return {f"test_{name}": mean for name, mean in means.items()}

    @cached_property
    def _validation(self) -> Sequence[Sample]:
        return self._fixed(self._data.val)

    def _fixed(self, ids: tuple[str, ...]) -> Sequence[Sample]:
        """Crops that are the same whenever they are asked for, whatever the run's seed."""
        samples = self._numbered(ids, derived_seed("validation"))
        return list(samples.numbers(self._ranks.share(range(self._training.validation_crops))))

    def _measure(self, samples: Iterable[Sample]) -> Means:
        terms = self._ranks.in_order(
            lambda: [
                self._trainer.measure(sample.batch, derived_seed("validation", sample.number))
                for sample in samples
            ]
        )
        return _means(terms, "")

    def _roll_out(self, ids: tuple[str, ...]) -> Means:
        if not ids:
            return {}
        dataset = open_validation(self._data.structures, ids)
        seed = derived_seed("validation")
        return validate(self._module, dataset, seed=seed, ranks=self._ranks)

    def _numbered(self, ids: tuple[str, ...], seed: int) -> NumberedSamples:
        training = self._training
        loss = {"loss_weights": dict(training.loss_weights)} if training.loss_weights else {}
        return NumberedSamples(
            Sampling(
                structures=self._data.structures,
                ids=ids,
                crops=training.crops,
                seed=seed,
                per_step=training.accumulate,
                loss=loss,
            )
        )

    def _drawn(
        self, samples: Iterable[Sample], in_vain: list[tuple[str, ...]]
    ) -> Iterator[tuple[Batch, int]]:
        """Batches with the seeds of their noise; what was drawn in vain before each is listed."""
        for sample in samples:
            in_vain.append(sample.failures)
            yield sample.batch, derived_seed(self._seed, "noise", sample.number)

    def _check(self, failures: Sequence[str]) -> None:
        if len(failures) > self._training.max_failures:
            raise ValueError(
                f"{len(failures)} samples failed in this round, expected at most "
                f"training.max_failures={self._training.max_failures}; the last: {failures[-1]}"
            )


def _means(samples: Iterable[Mapping[str, float]], prefix: str) -> dict[str, Mean]:
    """The mean of every term over the samples that have it."""
    return merge({prefix + name: Mean(value, 1) for name, value in t.items()} for t in samples)
