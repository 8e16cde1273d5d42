"""The DiGress learner: denoiser and property regressor trained concurrently on one site's data."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from openfl_flows.data.molecule_sites import SiteMolecules
from openfl_flows.data.molecule_table import MoleculeTable
from openfl_flows.learners.base import Budget, LocalState, Progress, TrainReport
from openfl_flows.learners.digress_state import Networks
from openfl_flows.learners.micro_batches import DeviceMolecules, Indices, Part, micro_batches
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.models.digress import (
    DigressConfig,
    GraphStatistics,
    Noisy,
    stratified_timesteps,
)
from openfl_flows.models.precision import Kernels, Precision, in_precision
from openfl_flows.seeds import derived_seed
from openfl_flows.state import Spec, State


@dataclass(frozen=True, kw_only=True)
class DigressTraining:
    """How a site trains and measures DiGress; defaults are the published ones.

    Attributes:
        batch_size: Graphs per optimizer step.
        micro_batch: Graphs per forward pass; gradients of a batch are accumulated over them, with
            the same result up to rounding, in less memory and, on a CPU, faster.
        micro_pairs: Pairs of nodes (n * n, padding included) per forward pass, beside
            ``micro_batch``: a batch is then sorted by size and each of its parts padded to its own
            largest graph only, with the same result up to rounding; what large molecules of
            different sizes need. None to take graphs as they come, padded to ``max_atoms``.
        lr: Learning rate of both AdamW optimizers (amsgrad).
        weight_decay: Weight decay of both.
        regressor: Train the property regressor beside the denoiser.
        regressor_lr_decay: Factor on the regressor's learning rate after each of its epochs.
        validation_passes: Noise levels drawn per graph in validation.
        test_passes: Noise levels drawn per graph in the final test. One draw of the published
            likelihood varies by about 100 nats from graph to graph, so a table needs many.
        validation_limit: Validate on at most this many graphs of each site, evenly spread.
        device: Where to train, as torch names it.
        proximal: Factor ``mu`` of FedProx's term, ``mu / 2 |theta - theta_global|^2`` over both
            networks, that holds a site near the model it received; 0 for none (Li et al. 2020,
            arXiv:1812.06127, equation 2). Reported losses are without it.
        precision: Of the matrix products of training. With ``bfloat16`` weights, optimizer and
            losses stay float32, and so does all that is measured.
        kernels: ``native`` compiles kernels for the processor on first use, which needs a C++
            compiler and ninja, and makes a CPU several times faster; results differ in rounding.
            For sampling and measuring too. Best with a ``micro_batch`` of 256.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    batch_size: int = 512
    micro_batch: int = 128
    micro_pairs: int | None = None
    lr: float = 2e-4
    weight_decay: float = 1e-12
    regressor: bool = True
    regressor_lr_decay: float = 0.99
    validation_passes: int = 1
    test_passes: int = 10
    validation_limit: int | None = None
    device: str = "cpu"
    proximal: float = 0.0
    precision: Precision = "float32"
    kernels: Kernels = "torch"

    def __post_init__(self) -> None:
        """Refuse what cannot train."""
        for name in ("batch_size", "micro_batch", "validation_passes", "test_passes"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"training.{name}={value}, expected at least 1")
        for name in ("validation_limit", "micro_pairs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"training.{name}={value}, expected 1 or more")
        if self.lr <= 0:
            raise ValueError(f"training.lr={self.lr}, expected above 0")
        if self.kernels == "native" and torch.device(self.device).type != "cpu":
            raise ValueError(f"training.kernels=native on device={self.device}, expected cpu")
        if not 0 <= self.proximal < math.inf:
            raise ValueError(f"training.proximal={self.proximal}, expected 0 or more")


class DigressLearner:
    """Trains denoiser and regressor, a step of each in turn, each with its own optimizer.

    Noise and order of every step are drawn from the seed and the step's number alone, so the step
    counter is all of the random state.

    Args:
        config: The network and its diffusion.
        training: How to train and measure.
        statistics: What defines the forward process; equal at all sites.
        molecules: The site's data.
        seed: Of order and noise; another one at every site.
    """

    def __init__(
        self,
        config: DigressConfig,
        training: DigressTraining,
        statistics: GraphStatistics,
        molecules: SiteMolecules,
        *,
        seed: int,
    ) -> None:
        self._training = training
        self._molecules = molecules
        self._seed = seed
        self._step = 0
        self._orders: dict[str, tuple[int, Indices]] = {}
        self._networks = Networks(config, statistics, training.kernels).to(training.device)
        self._optimizers = {
            "denoiser": self._optimizer(self._networks.denoiser),
            "regressor": self._optimizer(self._networks.regressor),
        }
        self._anchor = self._parameters() if training.proximal else {}
        self._max_atoms = config.max_atoms
        self._data = DeviceMolecules(molecules.train, training.device)
        labelled = ~np.isnan(molecules.train.targets).all(axis=1)
        self._all = np.arange(len(molecules.train))
        self._labelled = np.flatnonzero(labelled) if training.regressor else self._all[:0]

    @property
    def spec(self) -> Spec:
        """Names, shapes and element types of what travels."""
        return self.send().spec

    def receive(self, state: State) -> None:
        """Make ``state`` the model.

        Raises:
            ValueError: It is the state of another model, or was made with other statistics.
        """
        self._networks.load(state)
        self._anchor = self._parameters() if self._training.proximal else {}

    def send(self) -> State:
        """A copy of the model."""
        return self._networks.state()

    def local_state(self) -> LocalState:
        """Both optimizers and the step counter, which places order, noise and learning rate."""
        states = {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}
        return {"step": self._step, "optimizers": states}

    def restore(self, local_state: LocalState) -> None:
        """Take back what :meth:`local_state` gave."""
        self._step = local_state["step"]
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(local_state["optimizers"][name])

    def train(self, budget: Budget, progress: Progress) -> TrainReport:
        """Take one step of the denoiser and one of the regressor for each step of the budget."""
        num_steps = budget.num_steps(self._steps_per_epoch(self._all))
        losses = torch.zeros(2, device=self._training.device, dtype=torch.float64)
        num_samples = num_labelled = 0
        self._networks.train()
        # Dropout draws from torch's global generator, which belongs to the caller.
        with torch.random.fork_rng():
            for step in range(1, num_steps + 1):
                torch.manual_seed(self._stream("dropout"))
                batch = self._batch("denoiser", self._all)
                loss = self._train_denoiser(batch)
                losses[0] += loss * len(batch)
                num_samples += len(batch)
                if len(self._labelled):
                    batch = self._batch("regressor", self._labelled)
                    losses[1] += self._train_regressor(batch) * len(batch)
                    num_labelled += len(batch)
                self._step += 1
                if step % 10 == 0 or step == num_steps:
                    progress(step, num_steps, loss.item())
        self._networks.zero_grad()
        totals = losses.tolist()
        metrics = {"train_loss": Mean(totals[0], num_samples)}
        if num_labelled:
            metrics["train_regressor_loss"] = Mean(totals[1], num_labelled)
        return TrainReport(metrics=metrics, num_samples=num_samples, num_steps=num_steps)

    def validate(self) -> Means:
        """Both bounds of the likelihood, in nats, and the errors of the regressor."""
        training, val = self._training, self._molecules.val
        limit = training.validation_limit
        if limit is not None and limit < len(val):
            # Tables are often sorted by size: the first ones would not be like the rest.
            val = val.subset(np.arange(limit) * len(val) // limit)
        return self._measure(val, training.validation_passes, "")

    def test(self) -> Means:
        """The same on the test data, all of it."""
        return self._measure(self._molecules.test, self._training.test_passes, "test_")

    def _train_denoiser(self, batch: Indices) -> Tensor:
        denoiser = self._networks.denoiser
        clean = self._data.graphs(batch)
        noisy = denoiser.corrupt(clean, self._generator("denoiser"))
        num_atoms = self._data.num_atoms[batch]
        totals = {
            "num_nodes": int(num_atoms.sum()),
            "num_pairs": max(1, int((num_atoms * (num_atoms - 1)).sum())),
        }
        losses = (
            self._lowered(denoiser.loss, _part(noisy, part), part.of(clean), **totals)
            for part in self._parts(num_atoms)
        )
        return self._descend("denoiser", losses)

    def _train_regressor(self, batch: Indices) -> Tensor:
        regressor = self._networks.regressor
        noisy = regressor.corrupt(self._data.graphs(batch), self._generator("regressor"))
        targets = self._data.targets[torch.from_numpy(batch)]
        num_targets = int((~np.isnan(self._molecules.train.targets[batch])).sum())
        epoch = self._step // self._steps_per_epoch(self._labelled)
        for group in self._optimizers["regressor"].param_groups:
            group["lr"] = self._training.lr * self._training.regressor_lr_decay**epoch
        losses = (
            self._lowered(
                regressor.loss, _part(noisy, part), targets[part.chosen], num_targets=num_targets
            )
            for part in self._parts(self._data.num_atoms[batch])
        )
        return self._descend("regressor", losses)

    def _lowered(self, loss: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """A loss in the precision of training."""
        with in_precision(self._training.precision, self._training.device):
            return loss(*args, **kwargs)

    def _descend(self, name: str, losses: Iterator[Tensor]) -> Tensor:
        """Accumulate the gradients of a batch's parts, take a step, return the batch's loss."""
        optimizer = self._optimizers[name]
        optimizer.zero_grad()
        total = torch.zeros((), device=self._training.device)
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self._pull_back(name)
        optimizer.step()
        return total

    def _pull_back(self, name: str) -> None:
        """Add the gradient of the proximal term, ``mu (theta - theta_global)``, to the data's."""
        if not self._training.proximal:
            return
        network = getattr(self._networks, name)
        for parameter, received in zip(network.parameters(), self._anchor[name], strict=True):
            # Without a gradient it has not moved.
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - received, alpha=self._training.proximal)

    def _parameters(self) -> dict[str, list[Tensor]]:
        """A copy of each network's parameters."""
        networks = {name: getattr(self._networks, name) for name in self._optimizers}
        return {n: [p.detach().clone() for p in m.parameters()] for n, m in networks.items()}

    def _measure(self, molecules: MoleculeTable, passes: int, prefix: str) -> Means:
        """Noise is drawn from a fixed seed, so models are compared under the same noise."""
        networks, device, num = self._networks, self._training.device, len(molecules)
        data = DeviceMolecules(molecules, device)
        parts_of_all = list(self._parts(data.num_atoms))
        generator = torch.Generator(device).manual_seed(derived_seed("validation"))
        sums: dict[str, Mean] = {}
        steps = networks.denoiser.config.diffusion_steps
        for _ in range(passes):
            levels = stratified_timesteps(num, steps, generator)
            for part in parts_of_all:
                clean = data.graphs(part.positions(num)).trimmed(part.width)
                t = levels[part.chosen]
                bounds = networks.denoiser.bounds(clean, generator, t=t)
                parts = {"nll": bounds.nll, "elbo": bounds.elbo}
                if self._training.regressor:
                    error = networks.regressor.absolute_error(
                        clean, data.targets[part.chosen], generator, t=t
                    )
                    parts |= {"mae": error.mean(1), "mae_mu": error[:, 0], "mae_homo": error[:, 1]}
                for name, values in parts.items():
                    known = values[~values.isnan()].double()
                    mean = Mean(float(known.sum()), len(known))
                    sums[prefix + name] = sums.get(prefix + name, Mean(0.0, 0)) + mean
        return sums

    def _batch(self, stream: str, pool: Indices) -> Indices:
        """The samples of the current step: the next part of the current epoch's permutation."""
        epoch, position = divmod(self._step, self._steps_per_epoch(pool))
        if self._orders.get(stream, (-1, pool))[0] != epoch:
            generator = np.random.default_rng(derived_seed(self._seed, stream, epoch))
            self._orders[stream] = epoch, generator.permutation(pool)
        order = self._orders[stream][1]
        size = self._training.batch_size
        return order[position * size : (position + 1) * size]

    def _steps_per_epoch(self, pool: Indices) -> int:
        return -(-len(pool) // self._training.batch_size)

    def _parts(self, num_atoms: Indices) -> Iterator[Part]:
        training = self._training
        return micro_batches(
            num_atoms,
            size=training.micro_batch,
            pairs=training.micro_pairs,
            width=self._max_atoms,
        )

    def _stream(self, name: str) -> int:
        return derived_seed(self._seed, name, "step", self._step)

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator(self._training.device).manual_seed(self._stream(name))

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            network.parameters(),
            lr=self._training.lr,
            weight_decay=self._training.weight_decay,
            amsgrad=True,
            fused=True,
        )


def _part(noisy: Noisy, part: Part) -> Noisy:
    return Noisy(part.of(noisy.graphs), noisy.t[part.chosen])
