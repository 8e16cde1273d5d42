"""Models of a given size that train in no time, for both sides of the comparison.

Ours is a :class:`openfl_flows.learners.base.Task`; OpenFL's is its own task runner of PyTorch. A
site's training adds a constant.
"""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from openfl.component.aggregator import Aggregator
from openfl.federated import PyTorchTaskRunner
from openfl.federated.data.loader import DataLoader
from openfl.utilities import Metric
from pydantic import ConfigDict

from openfl_flows.learners.base import Budget, LocalState, Progress, Table, TrainReport
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.state import Spec, State

OPENFOLD3_TENSORS = 4147
_SHAPES = Path(__file__).with_name("openfold3_shapes.csv")


def openfold3_shapes(tensors: int = OPENFOLD3_TENSORS) -> list[tuple[int, ...]]:
    """The shapes of OpenFold3 0.5.0's parameters, or of so many of them, evenly chosen.

    The counts are of ``named_parameters()`` of its default configuration; names and order are not.
    """
    with _SHAPES.open() as file:
        rows = [(int(row["count"]), row["shape"].split("x")) for row in csv.DictReader(file)]
    shapes = [tuple(map(int, shape)) for count, shape in rows for _ in range(count)]
    return [shapes[i * len(shapes) // tensors] for i in range(tensors)]


def model_shapes(tensors: int, megabytes: float, openfold3: bool) -> dict[str, tuple[int, ...]]:
    """Tensors of about ``megabytes`` million bytes of float32: OpenFold3's, or all of one size."""
    if openfold3:
        shapes = openfold3_shapes(tensors)
        scale = megabytes * 1e6 / 4 / sum(map(math.prod, shapes))
        shapes = [(max(1, round(rows * scale)), *rest) for rows, *rest in shapes]
    else:
        shapes = [(max(1, round(megabytes * 1e6 / 4 / tensors)),)] * tensors
    return {f"layers_{number:04d}": shape for number, shape in enumerate(shapes)}


class SizedLearner:
    """Adds a constant to every weight."""

    def __init__(self, state: State) -> None:
        self._state = state

    @property
    def spec(self) -> Spec:
        return self._state.spec

    def receive(self, state: State) -> None:
        self._state = state

    def train(self, budget: Budget, progress: Progress) -> TrainReport:
        self._state = self._state.map(lambda array: array + array.dtype.type(1e-3))
        return TrainReport(metrics={"loss": Mean(1.0, 1)}, num_samples=1, num_steps=1)

    def validate(self) -> Means:
        return {"mse": Mean(1.0, 1)}

    def test(self) -> Means:
        return {"test_mse": Mean(1.0, 1)}

    def send(self) -> State:
        return self._state

    def local_state(self) -> LocalState:
        return {}

    def restore(self, local_state: LocalState) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class SizedTask:
    """A model of so many tensors and million bytes, without data."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    sites: tuple[str, ...]
    seed: int = 0
    tensors: int = 10
    megabytes: float = 20.0
    openfold3: bool = False

    def initial_state(self) -> State:
        shapes = model_shapes(self.tensors, self.megabytes, self.openfold3)
        return State({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})

    def learner(self, site: str) -> SizedLearner:
        return SizedLearner(self.initial_state())

    def pooled_learner(self) -> SizedLearner:
        return self.learner(self.sites[0])

    def composition(self) -> Table:
        return Table(columns=("site",), rows=tuple((site,) for site in self.sites))

    def write_rejected(self, folder: Path) -> int:
        return 0

    def evaluate(self, state: State, folder: Path) -> Means:
        return {}

    @property
    def best_metric(self) -> tuple[str, Literal["min", "max"]]:
        return "mse", "min"

    def agreement(self) -> Mapping[str, Any]:
        return {}

    def at_site(self, site: str, folder: Path) -> "SizedTask":
        return replace(self, sites=(site,))

    def write_site_data(self, site: str, folder: Path) -> None:
        pass

    def load_checkpoint(self, path: Path) -> State:
        raise ValueError(f"{path}: a model of this kind has no checkpoints")

    def save_native(self, state: State, path: Path) -> None:
        pass


class StockRunner(PyTorchTaskRunner):
    """The same model for OpenFL's own task runner of PyTorch, one tensor per parameter."""

    def __init__(self, tensors: int, megabytes: float, openfold3: bool, **settings: Any) -> None:
        super().__init__(device="cpu", **settings)
        for name, shape in model_shapes(tensors, megabytes, openfold3).items():
            self.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    @torch.no_grad()
    def train_(self, loader: Iterator[Any]) -> Metric:
        for parameter in self.parameters():
            parameter += 1e-3
        return Metric(name="loss", value=np.array(1.0))

    def validate_(self, loader: Iterator[Any]) -> Metric:
        return Metric(name="acc", value=np.array(1.0))


class StockData(DataLoader):
    """No data."""

    def __init__(self, data_path: str | None = None, **_: Any) -> None:
        super().__init__()

    def get_feature_shape(self) -> list[int]:
        return []

    def get_train_loader(self, **_: Any) -> Iterator[Any]:
        return iter(())

    def get_valid_loader(self, **_: Any) -> Iterator[Any]:
        return iter(())

    def get_train_data_size(self) -> int:
        return 1

    def get_valid_data_size(self) -> int:
        return 1


class EagerAggregator(Aggregator):
    """OpenFL's own, whose idle sites ask again after one second, not ten: for short benches."""

    def get_tasks(self, collaborator_name: str) -> tuple[Any, int, int, bool]:
        tasks, round_, sleep, quits = super().get_tasks(collaborator_name)
        return tasks, round_, min(sleep, 1), quits
