"""The learner of ESM-2: a head on frozen embeddings, adapters and head, or everything."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openfl_flows.data.proteins.sites import SiteProteins
from openfl_flows.data.proteins.source import Protein
from openfl_flows.learners.base import Budget, LocalState, Progress, TrainReport
from openfl_flows.learners.esm_training import EsmTraining, ProteinTarget
from openfl_flows.learners.module import load_tensors, tensors_state
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.models.esm.network import ProteinModel, model_spec, trained_tensors
from openfl_flows.models.esm.tokens import batches_by_length, tokenize
from openfl_flows.models.precision import check_device, in_precision
from openfl_flows.seeds import derived_seed
from openfl_flows.state import Spec, State

Indices = NDArray[np.int64]

Features = Callable[[Sequence[str]], list[NDArray[np.float32]]]
"""Embeddings of sequences by a frozen encoder."""


class EsmLearner:
    """Trains what of the model is not frozen, by AdamW on batches of one site's sequences.

    Order and dropout of a step are drawn from the seed and the step's number alone, so the
    optimizer and the step counter are all of the local state.

    Args:
        model: The model; with an encoder, or without one for a head on embeddings.
        target: What is learned.
        training: How.
        proteins: The site's data.
        features: Embeds sequences, where the model has no encoder.
        seed: Of order and dropout; another one at every site.

    Raises:
        ValueError: There is no such device here.
    """

    def __init__(
        self,
        model: ProteinModel,
        target: ProteinTarget,
        training: EsmTraining,
        proteins: SiteProteins,
        *,
        features: Features | None,
        seed: int,
    ) -> None:
        check_device("model.training.device", training.device)
        self._model = model.to(training.device)
        self._target = target
        self._training = training
        self._proteins = proteins
        self._features = features
        self._seed = seed
        self._step = 0
        self._order: tuple[int, list[Indices]] = (-1, [])
        self._embedded: dict[str, Tensor] = {}
        self._optimizer = torch.optim.AdamW(
            trained_tensors(model).values(),
            lr=training.lr,
            betas=training.betas,
            weight_decay=training.weight_decay,
            fused=True,
        )

    @property
    def spec(self) -> Spec:
        """Names, shapes and element types of what travels."""
        return model_spec(self._model)

    def receive(self, state: State) -> None:
        """Make ``state`` the model.

        Raises:
            ValueError: It is the state of another model.
        """
        load_tensors(trained_tensors(self._model), state)

    def send(self) -> State:
        """A copy of what trains."""
        return tensors_state(trained_tensors(self._model))

    def local_state(self) -> LocalState:
        """Adam's moments and the step, which places order, dropout and warm-up."""
        return {"step": self._step, "optimizer": self._optimizer.state_dict()}

    def restore(self, local_state: LocalState) -> None:
        """Take back what :meth:`local_state` gave."""
        self._step = local_state["step"]
        self._optimizer.load_state_dict(local_state["optimizer"])

    def train(self, budget: Budget, progress: Progress) -> TrainReport:
        """Take optimizer steps."""
        num_steps = budget.num_steps(self._steps_per_epoch)
        total, num_targets, num_samples = 0.0, 0, 0
        self._embed(_seen(self._proteins.train))
        self._model.train()
        # Dropout draws from torch's global generator, which belongs to the caller.
        with torch.random.fork_rng():
            for step in range(1, num_steps + 1):
                torch.manual_seed(derived_seed(self._seed, "dropout", self._step))
                batch = self._batch()
                loss, count = self._take_step(batch)
                total, num_targets = total + loss, num_targets + count
                num_samples += len(batch)
                self._step += 1
                progress(step, num_steps, loss / count)
        self._optimizer.zero_grad()
        return TrainReport(
            metrics={"train_loss": Mean(total, num_targets)},
            num_samples=num_samples,
            num_steps=num_steps,
        )

    def validate(self) -> Means:
        """Loss and accuracy, or errors, on the site's validation proteins."""
        return self._measure(self._proteins.val)

    def test(self) -> Means:
        """The same on each test set, by its name."""
        return {
            f"{name}_{metric}": mean
            for name, proteins in self._proteins.tests.items()
            for metric, mean in self._measure(proteins).items()
        }

    @torch.no_grad()
    def outputs(self, sequences: Sequence[str]) -> Tensor:
        """What the model gives: (N, C) of sequences, or of all residues, in their order."""
        self._embed(sequences)
        self._model.eval()
        parts: list[Tensor | None] = [None] * len(sequences)
        for part in self._parts(sequences):
            chosen = [sequences[i] for i in part]
            sizes = [len(s) if self._target.per_residue else 1 for s in chosen]
            rows = torch.split(self._forward(chosen).float().cpu(), sizes)
            for i, row in zip(part, rows, strict=True):
                parts[i] = row
        return torch.cat([part for part in parts if part is not None])

    def _measure(self, proteins: Sequence[Protein]) -> Means:
        if not proteins:
            return {}
        return self._target.means(self.outputs(_seen(proteins)), self._target.tensor(proteins))

    def _take_step(self, batch: Sequence[Protein]) -> tuple[float, int]:
        """Descend on one batch; the sum of its losses, and how many targets it has."""
        training = self._training
        for group in self._optimizer.param_groups:
            group["lr"] = training.lr * min(1.0, (self._step + 1) / max(1, training.warmup_steps))
        self._optimizer.zero_grad()
        count = self._target.count(self._target.tensor(batch))
        total = 0.0
        for part in self._parts(_seen(batch)):
            chosen = [batch[i] for i in part]
            targets = self._target.tensor(chosen).to(training.device)
            loss = self._target.loss(self._forward(_seen(chosen)), targets)
            (loss / count).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        if training.clip_norm is not None:
            tensors = list(trained_tensors(self._model).values())
            torch.nn.utils.clip_grad_norm_(tensors, training.clip_norm)
        self._optimizer.step()
        return total, count

    def _forward(self, sequences: Sequence[str]) -> Tensor:
        outputs: Tensor
        with in_precision(self._training.precision, self._training.device):
            if self._features is None:
                outputs = self._model(tokenize(sequences).to(self._training.device))
            else:
                outputs = self._model.head(self._embeddings(sequences))
        return outputs

    def _embeddings(self, sequences: Sequence[str]) -> Tensor:
        """(B, D) of sequences, or (R, D) of their residues."""
        rows = [self._embedded[sequence] for sequence in sequences]
        joined = torch.cat(rows) if self._target.per_residue else torch.stack(rows)
        return joined.to(self._training.device)

    def _embed(self, sequences: Sequence[str]) -> None:
        """Have the embeddings at hand that a frozen encoder gives."""
        if self._features is None:
            return
        ordered = sorted({*sequences} - self._embedded.keys())
        if not ordered:
            return
        for sequence, array in zip(ordered, self._features(ordered), strict=True):
            self._embedded[sequence] = torch.from_numpy(array)

    def _parts(self, sequences: Sequence[str]) -> Iterator[list[int]]:
        """Positions of the sequences of each forward pass."""
        if self._features is not None and not self._target.per_residue:
            return iter([list(range(len(sequences)))])
        lengths = [len(sequence) for sequence in sequences]
        return iter(batches_by_length(lengths, self._training.micro_tokens))

    @property
    def _steps_per_epoch(self) -> int:
        return -(-len(self._proteins.train) // self._training.batch_size)

    def _batch(self) -> list[Protein]:
        """The proteins of the current step: the next batch of the current epoch."""
        epoch, position = divmod(self._step, self._steps_per_epoch)
        if self._order[0] != epoch:
            self._order = epoch, self._epoch(epoch)
        return [self._proteins.train[i] for i in self._order[1][position]]

    def _epoch(self, epoch: int) -> list[Indices]:
        """The batches of an epoch: every protein once."""
        generator = np.random.default_rng(derived_seed(self._seed, "order", epoch))
        order = generator.permutation(len(self._proteins.train))
        size, bucket = self._training.batch_size, self._training.bucket
        if bucket > 1:
            lengths = np.array([len(protein.sequence) for protein in self._proteins.train])
            buckets = [order[i : i + bucket * size] for i in range(0, len(order), bucket * size)]
            order = np.concatenate([b[np.argsort(lengths[b], kind="stable")] for b in buckets])
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        # A bucket's batches are in the order of their lengths.
        return [batches[i] for i in generator.permutation(len(batches))]


def _seen(proteins: Sequence[Protein]) -> list[str]:
    return [protein.sequence for protein in proteins]
