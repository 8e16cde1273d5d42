"""How a site trains and measures ESM-2, and what a task asks of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from torch import Tensor
from torch.nn import functional

from openfl_flows.data.proteins.source import Kind, Protein
from openfl_flows.data.proteins.targets import MASKED
from openfl_flows.metrics.classification import class_means
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.models.precision import Precision


@dataclass(frozen=True, kw_only=True)
class EsmTraining:
    """How a site trains and measures; defaults are those of the federated BioNeMo tutorial.

    Attributes:
        batch_size: Sequences per optimizer step.
        micro_tokens: Tokens of a forward pass, padding included: gradients of a batch are
            accumulated over parts of like lengths. A longer sequence is a part of its own, so that
            1 is a sequence at a time without any padding.
        bucket: Batches whose sequences are sorted by length among each other, so that a batch
            holds sequences of like lengths: less padding where ``micro_tokens`` is large. 1 draws
            every batch from all lengths.
        lr: Learning rate of AdamW.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        warmup_steps: Steps over which the learning rate rises from 0.
        clip_norm: Largest norm of a step's gradient; None for any.
        device: Where to train, as torch names it.
        precision: Of matrix products; weights, optimizer and losses stay float32.
        cache: File that embeddings of a frozen encoder are kept in; ``auto`` for one in the user's
            cache, None to compute them anew.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    batch_size: int = 64
    micro_tokens: int = 2048
    bucket: int = 1
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    warmup_steps: int = 0
    clip_norm: float | None = None
    device: str = "cpu"
    precision: Precision = "float32"
    cache: str | None = "auto"

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        for name, least in (
            ("batch_size", 1), ("micro_tokens", 1), ("bucket", 1), ("warmup_steps", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"training.{name}={value}, expected at least {least}")
        try:
            torch.device(self.device)
        except RuntimeError:
            raise ValueError(
                f"training.device={self.device}, expected one that torch knows, such as cpu or cuda"
            ) from None
        if not 0 < self.lr < math.inf:
            raise ValueError(f"training.lr={self.lr}, expected a finite number above 0")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"training.clip_norm={self.clip_norm}, expected above 0")


@dataclass(frozen=True, kw_only=True)
class ProteinTarget:
    """What is learned of proteins.

    Attributes:
        kind: Classes of sequences or of residues, or a value of sequences.
        classes: Their names in the order of their numbers; none for a value.
        mean: Of the values, a constant of the plan: the head learns ``(value - mean) / std``.
        std: Of the values.
    """

    kind: Kind
    classes: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def num_outputs(self) -> int:
        """Of the head."""
        return len(self.classes) or 1

    @property
    def per_residue(self) -> bool:
        """Whether each residue has a target, or each sequence."""
        return self.kind == "residue_to_class"

    def tensor(self, proteins: Sequence[Protein]) -> Tensor:
        """Targets of a batch: (B,) classes or standardised values, or (R,) classes of residues."""
        if self.kind == "residue_to_class":
            return torch.from_numpy(np.concatenate([np.asarray(p.target) for p in proteins]))
        if self.kind == "sequence_to_value":
            values = np.array([p.target for p in proteins], dtype=np.float64)
            return torch.from_numpy(((values - self.mean) / self.std).astype(np.float32))
        return torch.tensor([p.target for p in proteins])

    def count(self, targets: Tensor) -> int:
        """How many of them count."""
        return int((targets != MASKED).sum()) if self.per_residue else len(targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sum over a batch: cross entropy in nats, or squares of standardised errors."""
        if self.kind == "sequence_to_value":
            return functional.mse_loss(outputs.float().squeeze(-1), targets, reduction="sum")
        return functional.cross_entropy(
            outputs.float(), targets, ignore_index=MASKED, reduction="sum"
        )

    def means(self, outputs: Tensor, targets: Tensor) -> Means:
        """What is measured on data: loss with accuracy, or with errors in the values' unit.

        Args:
            outputs: (N, C) of everything that is measured.
            targets: (N,).
        """
        known = (
            targets != MASKED if self.per_residue else torch.ones_like(targets, dtype=torch.bool)
        )
        outputs, targets = outputs[known], targets[known]
        num = len(targets)
        loss = {"loss": Mean(float(self.loss(outputs.double(), _double(targets))), num)}
        if self.kind == "sequence_to_value":
            error = (outputs.squeeze(-1) - targets).double() * self.std
            errors = {"mse": error.square(), "mae": error.abs()}
            return loss | {name: Mean(float(e.sum()), num) for name, e in errors.items()}
        predicted: NDArray[np.int64] = outputs.argmax(1).numpy()
        return loss | dict(class_means(targets.numpy(), predicted, self.classes))


def _double(targets: Tensor) -> Tensor:
    return targets.double() if targets.is_floating_point() else targets
