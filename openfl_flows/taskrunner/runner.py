"""The task runner of OpenFL: any learner under ``fx collaborator start``."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from openfl.federated.task.runner import TaskRunner
from openfl.utilities import TensorKey

from openfl_flows.data.schema.validate import site_card
from openfl_flows.experiment import Experiment
from openfl_flows.learners.site import Site
from openfl_flows.metrics.mean import Means
from openfl_flows.ops.memory import peak_rss_bytes, resident_bytes
from openfl_flows.ops.seen import Memory
from openfl_flows.privacy.masks import Masks
from openfl_flows.state import Array, State
from openfl_flows.taskrunner.announcements import agree
from openfl_flows.taskrunner.broadcast import held_tag
from openfl_flows.taskrunner.evaluation import BENCHMARKED, Benchmark
from openfl_flows.taskrunner.held import HeldModel
from openfl_flows.taskrunner.loader import SiteData
from openfl_flows.taskrunner.site_metrics import SiteMetrics
from openfl_flows.taskrunner.transfers import Transfers
from openfl_flows.taskrunner.wire import (
    AVERAGE,
    bucket_names,
    from_buckets,
    from_model_tensors,
    mean_array,
    to_model_tensors,
    update_due,
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
        self._native: State | None = None
        self._held: HeldModel | None = None
        self._benchmark: Benchmark | None = None
        self._validated: tuple[int, Means, _Seconds] | None = None
        self._metrics: SiteMetrics | None = None
        self.transfers = Transfers()
        self.memory: Memory | None = None
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
        if self._experiment.schema is not None:
            site_card(self._experiment.schema, folder, Path("logs"))
        built = [task.learner(name)]
        task.write_rejected(Path("logs"))
        local = Path("local_state") / name
        for stray in local.glob(".*.tmp"):
            stray.unlink()
        if self._experiment.evaluation is not None:
            self._benchmark = Benchmark(self._experiment.evaluation, task, name, folder)
        self._metrics = SiteMetrics(name, self._experiment.rounds, Path("local_state"))
        by_average = self._experiment.validate == "average"
        self._site = Site(
            name,
            lambda: built.pop() if built else task.learner(name),
            folder=local,
            budget=self._experiment.budget,
            resident=1,
            plan=federation,
            average=self._experiment.ema if by_average else None,
            compression=self._experiment.compression,
            streaming=self._experiment.streaming,
            protection=self._experiment.protection,
            sites=len(self._experiment.task.sites),
        )
        self._held = HeldModel(
            local / "global.safetensors",
            self._experiment.initial_state(),
            codec=self._experiment.compression.codec,
            fragments=self._experiment.streaming.fragments,
        )

    def agree_on_masks(self, client: Any, federation: str) -> None:
        """Agree with the other sites on what hides the updates, if the plan says so.

        Args:
            client: Calls the aggregator.
            federation: Name of the federation.

        Raises:
            ValueError: A key is not of the site that it came for, or a file is not readable.
        """
        if not self._experiment.protection.summed:
            return
        assert self._site is not None
        name, uplink = self._site.name, self._site.uplink
        uplink.masks = Masks(self._site.folder, name, federation)
        agree(
            client,
            uplink.masks,
            workspace=Path(),
            site=name,
            sites=self._experiment.task.sites,
            federation=federation,
        )

    @property
    def untrained(self) -> bool:
        """Whether nothing is here of any round that the site has trained."""
        return self._site is not None and self._site.untrained

    def come_late(self, round_: int) -> None:
        """Begin in a later round than the first: the site has trained in none before."""
        assert self._site is not None
        self._site.begin_at(round_)

    def forget_update(self) -> None:
        """Train the round anew when it is asked for again: its update was refused."""
        assert self._site is not None
        self._site.forget_completed()

    def aggregated_model_validation(
        self, col_name: str, round_num: int, input_tensor_dict: Mapping[str, Array], **_: Any
    ) -> tuple[Tensors, Tensors]:
        """Validate the global model on the site's data."""
        self._of(col_name).await_ahead()
        took = _Seconds()
        model = self._received(col_name, round_num, input_tensor_dict, took)
        means = self._of(col_name).validate(model, round_num + 1)
        return self._result("aggregated_model_validation", col_name, round_num, means, took)

    def train(
        self, col_name: str, round_num: int, input_tensor_dict: Mapping[str, Array], **_: Any
    ) -> tuple[Tensors, Tensors]:
        """Train the global model on the site's data and send it."""
        took = _Seconds()
        model = self._received(col_name, round_num, input_tensor_dict, took)
        site = self._of(col_name)
        report, update = site.complete_round(model, round_num + 1)
        took.add(site.ahead_seconds)
        with took.of("encode"):
            frames = site.uplink.encode(
                update, model, round_num + 1, num_samples=report.num_samples
            ).frames
        self._num_samples = report.num_samples
        metrics = {**report.metrics, **site.uplink.spent()}
        result, local = self._result("train", col_name, round_num, metrics, took)
        facts = {"num_samples": report.num_samples, "num_steps": report.num_steps}
        result |= {
            TensorKey(name, col_name, round_num, False, ("fact", "train")): np.array(count)
            for name, count in facts.items()
        }
        fragments = self._experiment.streaming.fragments
        prefix, spec = update_due(
            model.spec, fragments, round_num + 1, secure=self._experiment.protection.summed
        )
        result |= {
            TensorKey(name, col_name, round_num, False, ("trained",)): frame
            for name, frame in zip(bucket_names(spec, prefix), frames, strict=True)
        }
        if self._experiment.streaming.delay and round_num + 1 < self._experiment.rounds:
            # Now, so that nothing asks for the learner while it trains and the update travels.
            validating = _Seconds()
            means = site.validate_completed(round_num + 1)
            self._validated = round_num, means, validating.stop()
            site.train_ahead(round_num + 2)
        return result, local

    def locally_tuned_model_validation(
        self, col_name: str, round_num: int, input_tensor_dict: Mapping[str, Array], **_: Any
    ) -> tuple[Tensors, Tensors]:
        """Validate the locally trained model on the site's data."""
        if self._validated is not None and self._validated[0] == round_num:
            means, took = self._validated[1:]
        else:
            took = _Seconds()
            means = self._of(col_name).validate_completed(round_num + 1)
        return self._result("locally_tuned_model_validation", col_name, round_num, means, took)

    def final_model_validation(
        self, col_name: str, round_num: int, input_tensor_dict: Mapping[str, Array], **_: Any
    ) -> tuple[Tensors, Tensors]:
        """Measure the finished model on the site's validation and test data."""
        took = _Seconds()
        model = self._received(col_name, round_num, input_tensor_dict, took)
        return self._measure("final_model_validation", col_name, round_num, model, took)

    def final_average_validation(
        self, col_name: str, round_num: int, input_tensor_dict: Mapping[str, Array], **_: Any
    ) -> tuple[Tensors, Tensors]:
        """Measure the moving average on the site's validation and test data."""
        took = _Seconds()
        model = self._global().model
        frozen = {name: model[name] for name in model.frozen}
        average = from_buckets(input_tensor_dict, model.spec, frozen, AVERAGE)
        return self._measure("final_average_validation", col_name, round_num, average, took)

    def benchmark_validation(
        self, col_name: str, round_num: int, input_tensor_dict: Mapping[str, Array], **_: Any
    ) -> tuple[Tensors, Tensors]:
        """Measure the models of a federated evaluation; what may not leave the site stays."""
        took = _Seconds()
        model = self._received(col_name, round_num, input_tensor_dict, took)
        assert self._benchmark is not None, "the plan has no evaluation"
        disclosed = self._benchmark.measure(model, self._of(col_name))
        result, local = self._result(BENCHMARKED, col_name, round_num, {}, took)
        result |= {
            TensorKey(metric, col_name, round_num, False, ("test", BENCHMARKED)): mean_array(mean)
            for metric, mean in disclosed.items()
        }
        return result, local

    def get_required_tensorkeys_for_function(self, func_name: str, **_: Any) -> list[TensorKey]:
        """What a task needs of the aggregator: the round's model, or its moving average.

        Raises:
            ValueError: The plan only measures, and this is another task: a site that agreed to be
                asked for sums does not send an update.
        """
        if self._benchmark is not None and func_name != BENCHMARKED:
            raise ValueError(f"task {func_name} refused: the plan is one of evaluation alone")
        if func_name == "locally_tuned_model_validation":
            return []
        held = self._global()
        if func_name == "final_average_validation":
            names = bucket_names(held.model.spec, AVERAGE)
            return [TensorKey(name, "GLOBAL", 0, False, ("model",)) for name in names]
        tags = ("model", held_tag(held.model.digest()))
        return [TensorKey(name, "GLOBAL", 0, False, tags) for name in held.names]

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

    def _global(self) -> HeldModel:
        assert self._held is not None, "nobody has prepared the site"
        return self._held

    def _received(
        self, name: str, round_num: int, frames: Mapping[str, Array], took: "_Seconds"
    ) -> State:
        """The global model of the round."""
        self._of(name)
        with took.of("decode"):
            model = self._global().take(frames, round_num + 1)
        if self.memory is not None:
            self.memory.see(round_num, model.digest())
        return model

    def _measure(
        self, task: str, name: str, round_num: int, model: State, took: "_Seconds"
    ) -> tuple[Tensors, Tensors]:
        validated, tested = self._of(name).measure(model, round_num + 1)
        result, local = self._result(task, name, round_num, validated, took)
        result |= {
            TensorKey(metric, name, round_num, False, ("test", task)): mean_array(mean)
            for metric, mean in tested.items()
        }
        return result, local

    def _result(
        self, task: str, name: str, round_num: int, means: Means, took: "_Seconds"
    ) -> tuple[Tensors, Tensors]:
        """Metrics as OpenFL shows them, and as sums with counts, which pool exactly."""
        # Downloads are of this task; the last upload was of the task before.
        moved = self.transfers.take()
        self._num_validated = max([1, *(int(mean.count) for mean in means.values())])
        facts = {
            "seconds": took.left(),
            "decode": took.parts["decode"],
            "encode": took.parts["encode"],
            "download": moved.download_seconds,
            "upload": moved.upload_seconds,
            "bytes_down": moved.bytes_down,
            "bytes_up": moved.bytes_up,
            "peak_rss_bytes": peak_rss_bytes(),
            "rss_bytes": resident_bytes(),
        }
        if self._metrics is not None:
            self._metrics.took(task, round_num + 1, facts, means, self._num_samples)
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
                TensorKey(fact, name, round_num, False, ("fact", task)): np.array(value, np.float64)
                for fact, value in facts.items()
            },
        }, {}


class _Seconds:
    """Wall seconds of a task, and of those parts of it that are not its own."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._ended: float | None = None
        self.parts = {"decode": 0.0, "encode": 0.0}

    @contextlib.contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count what happens meanwhile as ``part``."""
        began = time.monotonic()
        yield
        self.parts[part] += time.monotonic() - began

    def add(self, seconds: float) -> None:
        """Count what was done for the task before it was asked for."""
        self._began -= seconds

    def stop(self) -> "_Seconds":
        """End here; without it, the end is where somebody asks."""
        self._ended = time.monotonic()
        return self

    def left(self) -> float:
        """All but the parts."""
        ended = time.monotonic() if self._ended is None else self._ended
        return ended - self._began - sum(self.parts.values())
