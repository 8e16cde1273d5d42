"""The aggregator's own work in one round with OpenFold3's tensors: ours against OpenFL's.

Sites and aggregator are in one process and exchange OpenFL's messages, serialized and in chunks as
over gRPC, without a network. Only what the aggregator's process would do is timed.
"""

import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SITES = tuple(f"site-{number}" for number in range(1, 6))
TASKS = ("aggregated_model_validation", "train", "locally_tuned_model_validation")
STOCK_TASKS = {
    "aggregated_model_validation": {"function": "validate_task", "kwargs": {"apply": "global"}},
    "train": {"function": "train_task", "kwargs": {"epochs": 1}},
    "locally_tuned_model_validation": {"function": "validate_task", "kwargs": {"apply": "local"}},
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What one round costs the aggregator.

    Attributes:
        results_seconds: CPU seconds for taking all results and ending the round.
        serving_seconds: CPU seconds for serving the model to all sites.
        calls: Calls of one site, by name.
        model_bytes: Of the model.
        largest_message: Bytes of the largest message, either way.
        peak_bytes: Peak resident memory of the process, sites included.
    """

    results_seconds: float
    serving_seconds: float
    calls: dict[str, int]
    model_bytes: int
    largest_message: int
    peak_bytes: int


def measure_scale(
    kind: str, tensors: int, megabytes: float, sites: tuple[str, ...] = SITES
) -> Scale:
    """Measure ``ours`` or ``stock`` in a process of its own, with OpenFold3's shapes.

    Ours is measured in its third round; OpenFL's in its first, when its database is smallest.
    """
    arguments = f"{kind!r}, {tensors}, {megabytes}, {sites!r}"
    code = f"from tests.bench.federation_scale import run; run({arguments})"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Scale(**json.loads(done.stdout.splitlines()[-1]))


def full_size_calls() -> int:
    """Calls of one site in one round of OpenFold3 at its real size."""
    from openfl_flows.state import Spec, TensorSpec
    from openfl_flows.taskrunner.wire import bucket_names
    from tests.bench.federation_models import OPENFOLD3_TENSORS, model_shapes, openfold3_shapes

    megabytes = 4e-6 * sum(math.prod(shape) for shape in openfold3_shapes())
    shapes = model_shapes(OPENFOLD3_TENSORS, megabytes, True)
    spec = Spec(
        TensorSpec(name=name, shape=shape, dtype="float32", reduce="mean")
        for name, shape in shapes.items()
    )
    return 1 + len(bucket_names(spec)) + len(TASKS)


def run(kind: str, tensors: int, megabytes: float, names: tuple[str, ...]) -> None:
    """Run some rounds in this process and print what the last one cost."""
    from openfl_flows.ops.memory import peak_rss_bytes

    logging.disable(logging.INFO)
    meter = Meter()
    make = _ours if kind == "ours" else _stock
    model = {"tensors": tensors, "megabytes": megabytes, "openfold3": True}
    rounds = 3 if kind == "ours" else 1
    aggregator, sites = make(model, names, rounds, meter)
    for round_ in range(rounds):
        meter.clear()
        for site in sites:
            tasks, at, *_ = site.client.get_tasks()
            assert at == round_
            for task in tasks:
                site.do_task(task, round_)
    assert aggregator.round_number == rounds
    scale = {
        "results_seconds": meter.seconds["SendLocalTaskResults"],
        "serving_seconds": meter.seconds["GetAggregatedTensor"],
        "calls": {name: count // len(sites) for name, count in meter.calls.items()},
        "model_bytes": meter.model_bytes,
        "largest_message": meter.largest_message,
        "peak_bytes": peak_rss_bytes(),
    }
    sys.stdout.write("\n" + json.dumps(scale) + "\n")


class Meter:
    """Counts and times calls; the stub of a client that talks to a server in the same process."""

    def __init__(self) -> None:
        self.server: Any = None
        self.clear()

    def clear(self) -> None:
        self.calls: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.model_bytes = self.largest_message = 0

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        def call(request: Any) -> Any:
            # A stream is serialized by the site.
            sent = [request]
            if name == "SendLocalTaskResults":
                sent = list(request)
                self.model_bytes = max(self.model_bytes, sum(chunk.size for chunk in sent))
                request = iter(sent)
            began = time.process_time()
            answer = getattr(self.server, name)(request, None)
            if name == "GetAggregatedTensor":
                answer.SerializeToString()
            self.seconds[name] += time.process_time() - began
            self.calls[name] += 1
            largest = max(message.ByteSize() for message in (*sent, answer))
            self.largest_message = max(self.largest_message, largest)
            return answer

        return call


class Shelf:
    """A site's tensors by key: OpenFL's own database would take the sites minutes."""

    def __init__(self) -> None:
        self._arrays: dict[Any, Any] = {}

    def get_tensor_from_cache(self, key: Any) -> Any:
        return self._arrays.get(key)

    def cache_tensor(self, arrays: dict[Any, Any]) -> None:
        self._arrays.update(arrays)


def _ours(
    model: dict[str, Any], names: tuple[str, ...], rounds: int, meter: Meter
) -> tuple[Any, list[Any]]:
    from openfl.federated import Plan

    from openfl_flows.taskrunner.loader import SiteData
    from openfl_flows.taskrunner.pipeline import ExactPipeline
    from openfl_flows.taskrunner.runner import LearnerTaskRunner
    from tests.bench.federation_parties import export

    workspace = Path.cwd() / "workspace"
    export(workspace, sites=len(names), rounds=rounds, join="fedavg", **model)
    os.chdir(workspace)
    plan = Plan.parse(
        plan_config_path=Path("plan/plan.yaml"), cols_config_path=Path("plan/cols.yaml")
    )
    aggregator = plan.get_aggregator()
    experiment = plan.config["task_runner"]["settings"]["experiment"]
    sites = [
        _site(
            meter, aggregator, name,
            LearnerTaskRunner(data_loader=SiteData(f"data/{name}"), experiment=experiment),
            {task: {"function": task, "kwargs": {}} for task in TASKS}, ExactPipeline(),
        )
        for name in names
    ]  # fmt: skip
    return aggregator, sites


def _stock(
    model: dict[str, Any], names: tuple[str, ...], rounds: int, meter: Meter
) -> tuple[Any, list[Any]]:
    from openfl.interface.aggregation_functions import WeightedAverage
    from openfl.pipelines import NoCompressionPipeline

    from tests.bench.federation_models import StockData, StockRunner
    from tests.openfl_own import openfl_aggregator

    runners = [StockRunner(data_loader=StockData(), **model) for _ in names]
    for runner in runners:
        runner.initialize_tensorkeys_for_functions()
    aggregator = openfl_aggregator(
        runners[0].get_tensor_dict(False),
        sites=names,
        tasks=dict.fromkeys(TASKS, WeightedAverage()),
        rounds=rounds,
        pipeline=NoCompressionPipeline(),
        db_store_rounds=2,
    )
    sites = [
        _site(meter, aggregator, name, runner, STOCK_TASKS, NoCompressionPipeline())
        for name, runner in zip(names, runners, strict=True)
    ]
    return aggregator, sites


def _site(
    meter: Meter, aggregator: Any, name: str, runner: Any, tasks: dict[str, Any], pipeline: Any
) -> Any:
    from openfl.component.collaborator import Collaborator
    from openfl.transport.grpc import AggregatorGRPCClient, AggregatorGRPCServer

    if meter.server is None:
        meter.server = AggregatorGRPCServer(aggregator, agg_port=0, use_tls=False)
    client = AggregatorGRPCClient(
        agg_addr="localhost",
        agg_port=0,
        aggregator_uuid=aggregator.uuid,
        federation_uuid=aggregator.federation_uuid,
        collaborator_name=name,
        use_tls=False,
    )
    client.stub = meter
    site = Collaborator(
        collaborator_name=name,
        aggregator_uuid=aggregator.uuid,
        federation_uuid=aggregator.federation_uuid,
        client=client,
        task_runner=runner,
        task_config=tasks,
        opt_treatment="CONTINUE_LOCAL",
        compression_pipeline=pipeline,
        callbacks=[],
    )
    site.tensor_db = Shelf()
    return site
