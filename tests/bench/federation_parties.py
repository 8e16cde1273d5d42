"""Federations of real processes over mTLS, ours and OpenFL's own, with memory seen from outside."""

import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from openfl_flows.cli.plan import compose
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.parties import Party, run_parties
from openfl_flows.taskrunner.rehearsal import RUN, parties_of, prepare
from tests.fx_processes import launch

LOOK_SECONDS = 0.02
_MODULE = "tests.bench.federation_models"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look at a running process.

    Attributes:
        round: Rounds begun, by the aggregator's log.
        rss: Resident bytes.
        anonymous: Those of them that no file backs: what the system cannot drop and read again.
        peak: The most resident bytes so far.
        at: Seconds of a monotonic clock.
    """

    round: int
    rss: int
    anonymous: int
    peak: int
    at: float


@dataclass(kw_only=True)
class Trace:
    """What was seen of a federation while it ran.

    Attributes:
        parties: Samples of each party's process.
        disk: Bytes in the aggregator's folder, by round.
        seconds: Wall seconds of each round, as the run directory has them; none of OpenFL's own.
    """

    parties: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    disk: dict[int, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def peak(self, party: str) -> int:
        """The most resident bytes that a party ever had."""
        return max(sample.peak for sample in self.parties[party])

    def anonymous_peak(self, party: str) -> int:
        """The most anonymous bytes that a party was seen to have."""
        return max(sample.anonymous for sample in self.parties[party])

    def growth(self, party: str, *, after: int = 10) -> tuple[float, float]:
        """Slope of a party's memory in bytes per round, and its standard error.

        Of the median of each whole round after the first ``after``, by least squares.
        """
        by_round = defaultdict(list)
        for sample in self.parties[party]:
            by_round[sample.round].append(sample.rss)
        last = max(by_round)
        return slope({r: float(np.median(s)) for r, s in by_round.items() if after < r < last})

    def disk_growth(self, *, after: int = 10) -> tuple[float, float]:
        """Slope of the aggregator's folder in bytes per round, and its standard error."""
        last = max(self.disk)
        return slope({r: float(size) for r, size in self.disk.items() if after < r < last})


def slope(points: dict[int, float]) -> tuple[float, float]:
    """Least squares slope and its standard error."""
    x, y = np.array(list(points)), np.array(list(points.values()))
    (a, b), covariance = np.polyfit(x, y, 1, cov="unscaled")
    residual = y - (a * x + b)
    return float(a), float(np.sqrt(covariance[0, 0] * (residual @ residual) / (len(x) - 2)))


def export(folder: Path, *, sites: int, rounds: int, join: str, **model: Any) -> None:
    """Export the workspace of a :class:`tests.bench.federation_models.SizedTask`."""
    config = compose(
        ("experiment=toy", f"join={join}", f"federation.sites={sites}",
         f"federation.rounds={rounds}")
    )  # fmt: skip
    config["model"] = {
        "task": f"{_MODULE}:SizedTask",
        "flow": config["model"]["flow"],
        **model,
    }
    export_workspace(config, folder)


def federate(
    kind: str, out: Path, *, sites: int, rounds: int, join: str = "fedavg", **model: Any
) -> Trace:
    """Run a federation of ``kind`` ``ours`` or ``stock`` in ``out`` and watch its processes."""
    export(out / "workspace", sites=sites, rounds=rounds, join=join, **model)
    prepare(out / "workspace", out / "parties", launch=launch)
    parties = parties_of(out / "parties", tuple(f"site-{n}" for n in range(1, sites + 1)))
    if kind == "stock":
        _make_stock(parties, rounds, {"tensors": 10, "openfold3": False, **model})
    trace = Trace()
    with _watching(parties, trace) as launch_known:
        run_parties(parties, launch=launch_known)
    if kind == "ours":
        record = json.loads((out / "parties" / RUN / "run.json").read_text())
        assert record["status"] == "finished"
        trace.seconds = [each["seconds"] for each in record["rounds"]]
    return trace


def _make_stock(parties: tuple[Party, ...], rounds: int, model: dict[str, Any]) -> None:
    """Turn the parties of a prepared federation to OpenFL's own classes."""
    from openfl.pipelines import NoCompressionPipeline
    from openfl.protocols import utils

    from tests.bench.federation_models import StockData, StockRunner
    from tests.bench.federation_scale import STOCK_TASKS

    aggregator = parties[0].folder
    plan = yaml.safe_load((aggregator / "plan" / "plan.yaml").read_text())
    # Its own clients wait for the aggregator only with its own default.
    del plan["network"]["settings"]["resend_data_on_reconnection"]
    group = {"name": "learning", "percentage": 1.0, "tasks": list(STOCK_TASKS)}
    files = {name: f"save/{name[:4]}.pbuf" for name in ("init_state_path", "best_state_path")}
    plan |= {
        "aggregator": {
            "template": f"{_MODULE}.EagerAggregator",
            "settings": {
                **files,
                "last_state_path": "save/last.pbuf",
                "rounds_to_train": rounds,
                "db_store_rounds": 2,
                "persist_checkpoint": True,
                "persistent_db_path": "local_state/tensor.db",
            },
        },
        "assigner": {
            "template": "openfl.component.RandomGroupedAssigner",
            "settings": {"task_groups": [group]},
        },
        "collaborator": {
            "template": "openfl.component.collaborator.Collaborator",
            "settings": {
                "opt_treatment": "CONTINUE_LOCAL", "use_delta_updates": False, "db_store_rounds": 1
            },
        },
        "compression_pipeline": {
            "template": "openfl.pipelines.NoCompressionPipeline", "settings": {}
        },
        "data_loader": {"template": f"{_MODULE}.StockData", "settings": {}},
        "task_runner": {"template": f"{_MODULE}.StockRunner", "settings": model},
        "tasks": STOCK_TASKS,
    }  # fmt: skip
    for party in parties:
        (party.folder / "plan" / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    initial = StockRunner(data_loader=StockData(), **model).get_tensor_dict(False)
    proto = utils.construct_model_proto(initial, 0, NoCompressionPipeline())
    utils.dump_proto(proto, aggregator / "save" / "init.pbuf")


@contextmanager
def _watching(parties: tuple[Party, ...], trace: Trace) -> Iterator[Any]:
    """Give a launch whose processes are looked at until this context ends."""
    aggregator = parties[0]
    processes: dict[str, int] = {}
    ended = threading.Event()

    def launch_known(folder: Path, *rest: Any) -> Any:
        process = launch(folder, *rest)
        processes[folder.name] = process.pid
        return process

    def look() -> None:
        round_ = 0
        with suppress(FileNotFoundError):
            round_ = 1 + aggregator.log.read_text(errors="replace").count("Starting round")
        for name, pid in list(processes.items()):
            # A process that has ended is gone, or has no memory.
            with suppress(FileNotFoundError, ProcessLookupError, KeyError):
                trace.parties[name].append(
                    Sample(round=round_, at=time.monotonic(), **_memory(pid))
                )
        if round_ not in trace.disk:
            trace.disk[round_] = _disk(aggregator.folder)

    def watch() -> None:
        while not ended.wait(LOOK_SECONDS):
            look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield launch_known
    finally:
        ended.set()
        thread.join()


def _memory(pid: int) -> dict[str, int]:
    """Resident bytes of a process: now, without files, and at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    names = {"rss": "VmRSS", "anonymous": "RssAnon", "peak": "VmHWM"}
    return {key: int(found[name].split()[0]) * 1024 for key, name in names.items()}


def _disk(folder: Path) -> int:
    total = 0
    # os.walk passes over a folder that goes while it looks.
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(f"{parent}/{name}").st_size
    return total
