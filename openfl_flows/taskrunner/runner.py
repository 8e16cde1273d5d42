"""The task runner of OpenFL: any learner under ``fx collaborator start``."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openfl.federated.task.runner import TaskRunner
from openfl.utilities import TensorKey

from openfl_flows.experiment import Experiment
from openfl_flows.learners.site import Site
from openfl_flows.metrics.mean import Means
from openfl_flows.ops.memory import peak_rss_bytes
from openfl_flows.state import Array, State
from openfl_flows.taskrunner.loader import SiteData
from openfl_flows.taskrunner.wire import (
    AVERAGE,
    bucket_names,
    from_buckets,
    from_model_tensors,
    mean_array,
    to_buckets,
    to_model_tensors,
)

Tensors = dict[TensorKey, Array]

# What joins the updates is the aggregator's alone; the plan states it with the task that it joins.
# Sites know the moving average where they validate it.
_NO_JOIN = {"join": {"name": "fedavg"}, "ema": {"name": "none"}}


class LearnerTaskRunner(TaskRunner):
    """Drives the learner of one site through the tasks of OpenFL's rounds.

    OpenFL counts rounds from 0, a :class:`Site` from 1. What must survive a restart is on disk
    under ``local_state/`` before a task's result leaves the site.

    Args:
        data_loader: Where the site's data lie.
        experiment: The plan without what the aggregator alone needs, as plain values.

    Raises:
        ValueError: A value of the plan cannot be used; the message names its key.
    """

    def __init__(self, data_loader: SiteData, experiment: Mapping[str, Any], **_: Any) -> None:
        super().__init__(data_loader=data_loader)
        self._experiment = Experiment.from_config({**_NO_JOIN, **experiment})
        torch.set_num_threads(self._experiment.runtime.threads)
        # Of the initial model a site needs only what no round brings.
        initial = self._experiment.initial_state()
        self._spec = initial.spec
        self._frozen = {name: initial[name] for name in initial.frozen}
        self._native: State | None = None
        self._model: tuple[int, State] | None = None
        self._site: Site | None = None
        self._num_samples = self._num_validated = 1

    def prepare(self, name: str, federation: str = "") -> None:
        """Read the data of site ``name`` and build its learner, so that what is wrong is told now.

        Args:
            name: The site.
            federation: Name of the federation, which tells its plan from any other.

        Raises:
            ValueError: The data cannot be used.
        """
        folder = self.data_loader.folder
        if folder is None:
            raise ValueError(f"plan/data.yaml names no folder for {name!r}")
        task = self._experiment.task.at_site(name, folder)
        built = [task.learner(name)]
        task.write_rejected(Path("logs"))
        local = Path("local_state") / name
        for stray in local.glob(".*.tmp"):
            stray.unlink()
        by_average = self._experiment.validate == "average"
        self._site = Site(
            name,
            lambda: built.pop() if built else task.learner(name),
            folder=local,
            budget=self._experiment.budget,
            resident=1,
            plan=federation,
            average=self._experiment.ema if by_average else None,
        )

    def forget_update(self) -> None:
        """Train the round anew when it is asked for again: its update was refused."""
        assert self._site is not None
        self._site.forget_completed()

    def aggregated_model_validation(
        self, col_name: str, round_num: int, input_tensor_dict: Mapping[str, Array], **_: Any
    ) -> tuple[Tensors, Tensors]:
        """Validate the global model on the site's data."""
        began = time.monotonic()
        means = self._of(col_name).validate(
            self._received(round_num, input_tensor_dict), round_num + 1
        )
        return self._result("aggregated_model_validation", col_name, round_num, means, began)

    def train(
        self, col_name: str, round_num: int, input_tensor_dict: Mapping[str, Array], **_: Any
    ) -> tuple[Tensors, Tensors]:
        """Train the global model on the site's data and send it."""
        began = time.monotonic()
        model = self._received(round_num, input_tensor_dict)
        report, update = self._of(col_name).complete_round(model, round_num + 1)
        self._num_samples = report.num_samples
        result, local = self._result("train", col_name, round_num, report.metrics, began)
        facts = {
            "num_samples": np.int64(report.num_samples),
            "num_steps": np.int64(report.num_steps),
            # The aggregator refuses what was trained from another model than it sent.
            "trained_from": np.frombuffer(bytes.fromhex(model.digest()), np.uint8),
        }
        result |= {
            TensorKey(name, col_name, round_num, False, ("fact", "train")): np.asarray(fact)
            for name, fact in facts.items()
        }
        result |= {
            TensorKey(name, col_name, round_num, False, ("trained",)): bucket
            for name, bucket in to_buckets(update).items()
        }
        return result, local

    def locally_tuned_model_validation(
        self, col_name: str, round_num: int, input_tensor_dict: Mapping[str, Array], **_: Any
    ) -> tuple[Tensors, Tensors]:
        """Validate the locally trained model on the site's data."""
        began = time.monotonic()
        means = self._of(col_name).validate_completed(round_num + 1)
        return self._result("locally_tuned_model_validation", col_name, round_num, means, began)

    def final_model_validation(
        self, col_name: str, round_num: int, input_tensor_dict: Mapping[str, Array], **_: Any
    ) -> tuple[Tensors, Tensors]:
        """Measure the finished model on the site's validation and test data."""
        model = self._received(round_num, input_tensor_dict)
        return self._measure("final_model_validation", col_name, round_num, model)

    def final_average_validation(
        self, col_name: str, round_num: int, input_tensor_dict: Mapping[str, Array], **_: Any
    ) -> tuple[Tensors, Tensors]:
        """Measure the moving average on the site's validation and test data."""
        average = from_buckets(input_tensor_dict, self._spec, self._frozen, AVERAGE)
        return self._measure("final_average_validation", col_name, round_num, average)

    def get_required_tensorkeys_for_function(self, func_name: str, **_: Any) -> list[TensorKey]:
        """What a task needs of the aggregator: the round's model, or its moving average."""
        if func_name == "locally_tuned_model_validation":
            return []
        prefix = AVERAGE if func_name == "final_average_validation" else ""
        names = bucket_names(self._spec, prefix)
        return [TensorKey(name, "GLOBAL", 0, False, ("model",)) for name in names]

    def initialize_tensorkeys_for_functions(self, with_opt_vars: bool = False) -> None:
        """Nothing to do: what a task needs follows from the model's spec."""

    def get_tensor_dict(self, with_opt_vars: bool = False) -> dict[str, Array]:
        """The model that ``fx plan initialize`` writes, whole."""
        return to_model_tensors(self._whole())

    def set_tensor_dict(
        self, tensor_dict: Mapping[str, Array], with_opt_vars: bool = False
    ) -> None:
        """Take the model of a file, for :meth:`save_native`."""
        self._native = from_model_tensors(tensor_dict)

    def save_native(self, filepath: Path | str, **_: Any) -> None:
        """Write the model in its native format: what ``fx model save`` calls."""
        self._experiment.task.save_native(self._whole(), Path(filepath))

    def load_native(self, filepath: Path | str, **_: Any) -> None:
        """Start from a checkpoint: what ``fx plan initialize -i FILE`` calls.

        Raises:
            ValueError: The file cannot be read or is of another model.
        """
        self._native = self._experiment.task.load_checkpoint(Path(filepath))

    def get_train_data_size(self) -> int:
        """Training samples seen in the last round."""
        return self._num_samples

    def get_valid_data_size(self) -> int:
        """Samples behind the last validation: OpenFL's own means are weighted by them."""
        return self._num_validated

    def _whole(self) -> State:
        """The model of the file that was loaded, or the one that the federation starts from."""
        return self._native or self._experiment.initial_state()

    def _of(self, name: str) -> Site:
        if self._site is None:
            self.prepare(name)
        assert self._site is not None
        assert self._site.name == name
        return self._site

    def _received(self, round_num: int, buckets: Mapping[str, Array]) -> State:
        """The global model of the round, put together once for all its tasks."""
        if self._model is None or self._model[0] != round_num:
            self._model = None
            self._model = round_num, from_buckets(buckets, self._spec, self._frozen)
        return self._model[1]

    def _measure(
        self, task: str, name: str, round_num: int, model: State
    ) -> tuple[Tensors, Tensors]:
        began = time.monotonic()
        validated, tested = self._of(name).measure(model, round_num + 1)
        result, local = self._result(task, name, round_num, validated, began)
        result |= {
            TensorKey(metric, name, round_num, False, ("test", task)): mean_array(mean)
            for metric, mean in tested.items()
        }
        return result, local

    def _result(
        self, task: str, name: str, round_num: int, means: Means, began: float
    ) -> tuple[Tensors, Tensors]:
        """Metrics as OpenFL shows them, and as sums with counts, which pool exactly."""
        self._num_validated = max([1, *(int(mean.count) for mean in means.values())])
        facts = {"seconds": time.monotonic() - began, "peak_rss_bytes": float(peak_rss_bytes())}
        return {
            **{
                TensorKey(metric, name, round_num, True, ("metric", task)): np.asarray(mean.value)
                for metric, mean in means.items()
            },
            **{
                TensorKey(metric, name, round_num, False, ("sums", task)): mean_array(mean)
                for metric, mean in means.items()
            },
            **{
                TensorKey(fact, name, round_num, False, ("fact", task)): np.asarray(value)
                for fact, value in facts.items()
            },
        }, {}
