"""TensorBoard event files: one curve per site and one for the global model, in one plot each."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from openfl_flows.ops.costs import rate, round_cost
from openfl_flows.ops.rounds import RoundRecord, SiteRound


class EventFiles:
    """Event files of a run: ``tensorboard --logdir RUN/tensorboard`` overlays sites and global.

    Args:
        folder: Parent of one folder per site and one each named ``global`` and ``aggregator``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, EventFileWriter] = {}

    def write_global(self, round_: int, metrics: Mapping[str, float]) -> None:
        """Write the global model's metrics after ``round_`` (0: the initial model)."""
        self._write("global", round_, metrics)

    def write_sites(self, record: RoundRecord) -> None:
        """Write every site's training and local validation of a round, and what it took."""
        entry = asdict(record)
        cost = round_cost(entry)
        for site, part in record.sites.items():
            figures = _figures(part, entry["sites"][site])
            if cost is not None:
                figures["seconds/cost"] = cost.seconds if site == cost.site else 0.0
            self._write(site, record.round, {**part.metrics, **figures})
        aggregator = {
            "seconds/round": record.seconds,
            "seconds/join": record.join_seconds,
            **({"memory/bytes": float(record.rss_bytes)} if record.rss_bytes else {}),
        }
        self._write("aggregator", record.round, aggregator)

    def _write(self, name: str, round_: int, metrics: Mapping[str, float]) -> None:
        if name not in self._writers:
            # torch's writer would do, but an aggregator has no torch.
            self._writers[name] = EventFileWriter(str(self._folder / name))
        rows = [Summary.Value(tag=metric, simple_value=v) for metric, v in metrics.items()]
        event = Event(wall_time=time.time(), step=round_, summary=Summary(value=rows))
        self._writers[name].add_event(event)
        self._writers[name].flush()


def _figures(part: SiteRound, entry: Mapping[str, Any]) -> dict[str, float]:
    """A site's seconds by task and part, its speed and its memory, where they were measured."""
    seconds = {f"seconds/{task}": value for task, value in part.seconds.items()}
    speed = {
        f"bytes_per_second/{way}": rate(entry, way)
        for way in ("upload", "download")
        if way in part.seconds
    }
    memory = {"memory/bytes": float(part.rss_bytes)} if part.rss_bytes else {}
    return {**seconds, **speed, **memory}
