"""OpenFold3's own optimization, step by step and without Lightning's trainer.

The same module, losses, optimizer, schedule and per-sample clipping, in the same order, so that the
weights after any number of steps are those of OpenFold3's trainer to the last bit. What is left out
is what a federation does otherwise: the moving average of every step, logging and checkpoints.
"""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from openfold3.core.utils.tensor_utils import tensor_tree_map
from openfold3.projects.of3_all_atom.runner import OpenFold3AllAtom
from pydantic import ConfigDict
from torch import Tensor

from openfl_flows.models.openfold3.randomness import seeded
from openfl_flows.models.openfold3.samples import Batch
from openfl_flows.models.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """OpenFold3's optimizer, for fine-tuning.

    Attributes:
        lr: Learning rate after warm-up. OpenFold3's own, 1.8e-3, is that of training from random
            weights with 256 samples a step; at a site with 8 to 32 it would undo the checkpoint. By
            the square root of the number of samples, 1.8e-3 (8 / 256)^0.5 = 3.2e-4; half of that is
            the default, since weights that begin near an optimum have less far to go.
        warmup_steps: Optimizer steps to get there, the first of which has a learning rate of 0.
            Adam's second moments, of beta2 = 0.95, are known after some tens of steps; 500 leave
            time for the heads to follow a new distribution.
        decay_after: Steps after which the rate begins to fall.
        decay_every: Steps between falls.
        decay_factor: Factor of a fall.
        clip: Norm to which the gradient of every sample is clipped; None to leave it.
        betas: Of Adam.
        eps: Of Adam.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    lr: float = 1.6e-4
    warmup_steps: int = 500
    decay_after: int = 50_000
    decay_every: int = 50_000
    decay_factor: float = 0.95
    clip: float | None = 10.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        """Refuse what OpenFold3's schedule cannot do."""
        if not self.lr > 0:
            raise ValueError(f"optimization.lr={self.lr}, expected above 0")
        if not 1 <= self.warmup_steps <= self.decay_after:
            raise ValueError(
                f"optimization.warmup_steps={self.warmup_steps}, expected 1 to "
                f"decay_after={self.decay_after}"
            )
        if self.decay_every < 1 or (self.clip is not None and not self.clip > 0):
            raise ValueError(
                f"optimization.decay_every={self.decay_every}, clip={self.clip}, expected above 0"
            )

    def applied_to(self, settings: Any) -> None:
        """Write this into OpenFold3's settings, from which its module makes its optimizer."""
        optimizer, schedule = settings.optimizer, settings.lr_scheduler
        optimizer.learning_rate, optimizer.eps = self.lr, self.eps
        optimizer.beta1, optimizer.beta2 = self.betas
        schedule.warmup_no_steps = self.warmup_steps
        schedule.start_decay_after_n_steps = self.decay_after
        schedule.decay_every_n_steps = self.decay_every
        schedule.decay_factor = self.decay_factor


class LossesOffError(ValueError):
    """OpenFold3 could not align prediction and truth and silently turned off all losses."""


class OpenFold3Trainer:
    """Optimizer steps of a module that lives as long as the site does.

    In memory beside the module: Adam's two moments, and the accumulator of gradients, each the size
    of what trains. OpenFold3's moving average is never made.

    Args:
        module: What is trained, on its device.
        optimization: How.
        accumulate: Samples that this process contributes to an optimizer step.
        bfloat16: Autocast on a GPU, as Lightning's ``bf16-mixed``.
        ranks: The processes that take each step together. They hold equal modules, and no buckets
            beside them: what is summed between them is the accumulators.
    """

    def __init__(
        self,
        module: OpenFold3AllAtom,
        optimization: Optimization,
        *,
        accumulate: int,
        bfloat16: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        if module.grad_manager is None:
            raise ValueError("network.custom turns off per-sample clipping, expected it on")
        optimization.applied_to(module.config.settings)
        made = module.configure_optimizers()
        self._module, self._bfloat16, self._ranks = module, bfloat16, ranks
        self._optimizer = made["optimizer"]
        self._schedule = made["lr_scheduler"]["scheduler"]
        self._gradients = module.grad_manager
        self._gradients.max_grad_norm = optimization.clip
        self._gradients.accumulate_grad_batches = accumulate
        self._gradients.setup(model=module.model, trainer=_Lead(self, ranks), logger=None)
        module._identify_confidence_params()
        losses = module.config.architecture.loss_module
        structure = [*losses.diffusion_loss_names, "distogram"]
        self._terms = [
            *losses.confidence_loss_names,
            *([] if losses.train_confidence_only else structure),
        ]

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return int(self._schedule.last_epoch)

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def local_state(self) -> dict[str, Any]:
        """Adam's moments and the place in the schedule."""
        return {
            "optimizer": self._optimizer.state_dict(), "schedule": self._schedule.state_dict(),
        }  # fmt: skip

    def restore(self, local_state: Mapping[str, Any]) -> None:
        """Take back what :meth:`local_state` gave."""
        self._optimizer.load_state_dict(local_state["optimizer"])
        self._schedule.load_state_dict(local_state["schedule"])

    def take_step(
        self, batches: Iterable[tuple[Batch, int]]
    ) -> list[dict[str, float] | LossesOffError]:
        """One optimizer step on samples, each with the seed of its recycles, noise and dropout.

        Args:
            batches: This process's samples, as many as it accumulates: its share of the step's.

        Returns:
            Every sample's loss by term, of all processes in the order of samples; the error of a
            sample that took no part, because OpenFold3 turned off all its losses.

        Raises:
            ValueError: A loss is not finite.
        """
        self._module.train()
        try:
            results = self._ranks.in_order(
                lambda: [self._accumulated(batch, seed) for batch, seed in batches]
            )
            self._average()
            self._optimizer.step()
            self._schedule.step()
        finally:
            self._gradients.reset_accumulator()
        return results

    def _accumulated(self, batch: Batch, seed: int) -> dict[str, float] | LossesOffError:
        self._optimizer.zero_grad()
        try:
            loss, terms, weights = self.loss(batch, seed)
        except LossesOffError as error:
            return error
        loss.backward()  # type: ignore[no-untyped-call]
        disabled = self._module._get_sample_disabled_param_names(weights)
        self._gradients.clip_and_accumulate(disabled_params=disabled)
        return terms

    @torch.no_grad()
    def _average(self) -> None:
        """Make the mean of each parameter's gradients its gradient.

        OpenFold3's own way makes two copies more, to sum over ranks. Of one process, the sums are
        divided where they are, with the same result to the last bit.
        """
        gradients = self._gradients
        if self._ranks.size > 1:
            with self._ranks.summing():
                gradients.sync_and_average_grads()
            return
        for name, parameter in gradients._params_to_update.items():
            parameter.grad = gradients.grad_accumulator[name]
            count = gradients.parameter_participation_counts.get(name, 0)
            if count > 1:
                # A number that is not a tensor would be multiplied by its reciprocal on a GPU.
                parameter.grad.div_(torch.tensor(count, device=parameter.device))

    @torch.no_grad()
    def measure(self, batch: Batch, seed: int) -> dict[str, float]:
        """The training loss of one sample by term, without dropout.

        Raises:
            ValueError: As :meth:`loss`.
        """
        self._module.train()
        for layer in self._module.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.eval()
        return self.loss(batch, seed)[1]

    def release_gradients(self) -> None:
        """Give back the memory of the gradients until the next step."""
        self._optimizer.zero_grad()

    def loss(self, batch: Batch, seed: int) -> tuple[Tensor, dict[str, float], dict[str, Tensor]]:
        """The training loss of one sample: in all, by term, and what its terms are weighted with.

        Raises:
            LossesOffError: OpenFold3 turned off all losses.
            ValueError: The loss is not finite.
        """
        module, name = self._module, ", ".join(batch["pdb_id"])
        device = next(module.model.parameters()).device
        # A copy: the forward pass takes a key out of its batch.
        moved = tensor_tree_map(lambda t: t.to(device), dict(batch), strict_type=False)
        with seeded(seed, module.model), self._precision():
            aligned, output = module.model(moved)
            loss, terms = module.loss(aligned, output, _return_breakdown=True)
        if not any(bool(aligned["loss_weights"][term].any()) for term in self._terms):
            raise LossesOffError(
                f"structure {name}, {batch['preferred_chain_or_interface']}: OpenFold3 turned off "
                "all its losses, expected prediction and structure to be alignable"
            )
        if not torch.isfinite(loss):
            raise ValueError(f"structure {name}: the loss is {loss.item()}, expected a number")
        return loss, {key: float(value) for key, value in terms.items()}, aligned["loss_weights"]

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if not self._bfloat16:
            return contextlib.nullcontext()
        return torch.autocast("cuda", dtype=torch.bfloat16, cache_enabled=False)


class _Lead:
    """What OpenFold3's gradients ask of a Lightning trainer: the step, and sums over ranks."""

    global_rank = 0

    def __init__(self, trainer: OpenFold3Trainer, ranks: Ranks) -> None:
        self._trainer = trainer
        self.strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: ranks.summed(tensor))

    @property
    def global_step(self) -> int:
        return self._trainer.step
