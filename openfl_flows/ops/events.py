"""TensorBoard event files: one curve per site and one for the global model, in one plot each."""

from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from openfl_flows.ops.run import RoundRecord


class EventFiles:
    """Event files of a run: ``tensorboard --logdir RUN/tensorboard`` overlays sites and global.

    Args:
        folder: Parent of one folder per site and one named ``global``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, SummaryWriter] = {}

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
            self._writers[name] = SummaryWriter(str(self._folder / name))
        for metric, value in metrics.items():
            self._writers[name].add_scalar(metric, value, round_)
        self._writers[name].flush()
