"""TensorBoard event files: one curve per site and one for the global model, in one plot each."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from openfl_flows.ops.rounds import RoundRecord


class EventFiles:
    """Event files of a run: ``tensorboard --logdir RUN/tensorboard`` overlays sites and global.

    Args:
        folder: Parent of one folder per site and one named ``global``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, EventFileWriter] = {}

    def write_global(self, round_: int, metrics: Mapping[str, float]) -> None:
        """Write the global model's metrics after ``round_`` (0: the initial model)."""
        self._write("global", round_, metrics)

    def write_sites(self, record: RoundRecord) -> None:
        """Write every site's training and local validation of a round, and its seconds."""
        for site, part in record.sites.items():
            seconds = {f"seconds/{task}": value for task, value in part.seconds.items()}
            self._write(site, record.round, {**part.metrics, **seconds})

    def _write(self, name: str, round_: int, metrics: Mapping[str, float]) -> None:
        if name not in self._writers:
            # torch's writer would do, but an aggregator has no torch.
            self._writers[name] = EventFileWriter(str(self._folder / name))
        rows = [Summary.Value(tag=metric, simple_value=v) for metric, v in metrics.items()]
        event = Event(wall_time=time.time(), step=round_, summary=Summary(value=rows))
        self._writers[name].add_event(event)
        self._writers[name].flush()
