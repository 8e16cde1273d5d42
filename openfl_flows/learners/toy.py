"""A deterministic toy: linear regression by SGD, for tests, dry runs and drills."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict
from torch import nn

from openfl_flows.learners.base import (
    Budget,
    LocalState,
    Progress,
    Table,
    TrainReport,
    check_site,
)
from openfl_flows.learners.checkpoint import SUFFIX, checked, load_own, load_torch, save_torch
from openfl_flows.learners.module import load_module_state, module_state
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.seeds import derived_seed
from openfl_flows.state import Spec, State


class ToyLearner:
    """Linear regression ``y = w·x`` on the site's own samples, by SGD with momentum.

    Args:
        inputs: (N, D) float32.
        targets: (N,) float32.
        seed: Of the order of samples.
        padding: Parameters to add that do nothing, to give the model a size.
        batch_size: Samples per step.
        lr: Learning rate.
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        *,
        seed: int,
        padding: int = 0,
        batch_size: int = 16,
        lr: float = 0.05,
    ) -> None:
        self._inputs, self._targets = inputs, targets
        self._seed, self._batch_size = seed, batch_size
        self._step = 0
        self._model = _model(inputs.shape[1], padding)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=lr, momentum=0.9)

    @property
    def spec(self) -> Spec:
        """Names, shapes and element types of what travels."""
        return self.send().spec

    def receive(self, state: State) -> None:
        """Make ``state`` the model."""
        load_module_state(self._model, state)

    def train(self, budget: Budget, progress: Progress) -> TrainReport:
        """Take SGD steps on batches drawn with replacement."""
        num_steps = budget.num_steps(-(-len(self._inputs) // self._batch_size))
        total = 0.0
        for step in range(1, num_steps + 1):
            generator = torch.Generator().manual_seed(derived_seed(self._seed, self._step))
            batch = torch.randint(len(self._inputs), (self._batch_size,), generator=generator)
            loss = self._loss(self._inputs[batch], self._targets[batch])
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._step += 1
            total += loss.item() * self._batch_size
            progress(step, num_steps, loss.item())
        self._optimizer.zero_grad()
        num_samples = num_steps * self._batch_size
        return TrainReport(
            metrics={"train_loss": Mean(total, num_samples)},
            num_samples=num_samples,
            num_steps=num_steps,
        )

    @torch.no_grad()
    def validate(self) -> Means:
        """Mean squared error over all samples."""
        loss = self._loss(self._inputs, self._targets).item()
        return {"mse": Mean(loss * len(self._inputs), len(self._inputs))}

    def test(self) -> Means:
        """The same, under another name."""
        return {"test_mse": self.validate()["mse"]}

    def send(self) -> State:
        """A copy of the model."""
        return module_state(self._model)

    def local_state(self) -> LocalState:
        """Optimizer and step counter."""
        return {"optimizer": self._optimizer.state_dict(), "step": self._step}

    def restore(self, local_state: LocalState) -> None:
        """Take back optimizer and step counter."""
        self._optimizer.load_state_dict(local_state["optimizer"])
        self._step = local_state["step"]

    def _loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.mse_loss(self._model["linear"](inputs).squeeze(-1), targets)


@dataclass(frozen=True, kw_only=True)
class ToyTask:
    """Sites whose samples follow one linear law, at inputs that differ from site to site.

    Attributes:
        sites: Names of the sites.
        seed: Of data, model and order.
        features: Number of inputs.
        samples: Samples per site.
        padding: Parameters to add that do nothing, to give the model a size.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    sites: tuple[str, ...]
    seed: int = 0
    features: int = 8
    samples: int = 64
    padding: int = 0

    def initial_state(self) -> State:
        """A model of normal random weights."""
        torch.manual_seed(derived_seed(self.seed, "initial"))
        return module_state(_model(self.features, self.padding))

    def learner(self, site: str) -> ToyLearner:
        """The learner of one site."""
        return self._on(self._data(site), site)

    def pooled_learner(self) -> ToyLearner:
        """The learner on all sites' samples."""
        parts = [self._data(site) for site in self.sites]
        pooled = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
        return self._on(pooled, min(self.sites))

    def composition(self) -> Table:
        """Samples per site."""
        return Table(columns=("site", "train"), rows=tuple((s, self.samples) for s in self.sites))

    def write_rejected(self, folder: Path) -> int:
        """Nothing is ever rejected."""
        return 0

    def evaluate(self, state: State, folder: Path) -> Means:
        """Nothing to show beyond the sites' own measures."""
        return {}

    @property
    def best_metric(self) -> tuple[str, Literal["min", "max"]]:
        """The mean squared error."""
        return "mse", "min"

    def agreement(self) -> Mapping[str, Any]:
        """Nothing is measured on data."""
        return {}

    def at_site(self, site: str, folder: Path) -> "ToyTask":
        """The same samples: they come from the seed and the site's name.

        Raises:
            ValueError: The site is unknown.
        """
        check_site(site, self.sites)
        return replace(self, sites=(site,))

    def write_site_data(self, site: str, folder: Path) -> None:
        """Nothing to write."""

    def load_checkpoint(self, path: Path) -> State:
        """A model of this package, or what :meth:`save_native` wrote.

        Raises:
            ValueError: It is none, or of another size.
        """
        spec = self.initial_state().spec
        if path.suffix == SUFFIX:
            return load_own(path, spec)
        found = load_torch(path).items()
        arrays = {name: t.numpy() for name, t in found if isinstance(t, torch.Tensor)}
        return checked(path, State(arrays), spec)

    def save_native(self, state: State, path: Path) -> None:
        """Write the state dict."""
        save_torch(path, {name: torch.from_numpy(array.copy()) for name, array in state.items()})

    def _on(self, data: tuple[torch.Tensor, torch.Tensor], site: str) -> ToyLearner:
        return ToyLearner(*data, seed=derived_seed(self.seed, site), padding=self.padding)

    def _data(self, site: str) -> tuple[torch.Tensor, torch.Tensor]:
        law = torch.randn(
            self.features, generator=torch.Generator().manual_seed(derived_seed(self.seed, "law"))
        )
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "data", site))
        shift = torch.randn(self.features, generator=generator)
        inputs = torch.randn(self.samples, self.features, generator=generator) + shift
        noise = 0.1 * torch.randn(self.samples, generator=generator)
        return inputs, inputs @ law + noise


def _model(features: int, padding: int) -> nn.ModuleDict:
    modules: dict[str, nn.Module] = {"linear": nn.Linear(features, 1, bias=False)}
    if padding:
        modules["padding"] = nn.Linear(padding, 1, bias=False)
    return nn.ModuleDict(modules)
