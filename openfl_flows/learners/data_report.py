"""What a run says of its data before it trains: how they lie at sites, what was rejected."""

import logging
from dataclasses import asdict
from pathlib import Path

from openfl_flows.atomic import write_json
from openfl_flows.learners.base import Table, Task

_log = logging.getLogger(__name__)


def report_data(task: Task, table: Table, out: Path) -> None:
    """Write ``partition.json`` and the list of rejected samples into a run directory, and warn."""
    write_json(out / "partition.json", asdict(table))
    rejected = task.write_rejected(out)
    if rejected:
        _log.warning("%d samples were rejected, listed in %s", rejected, out / "rejected.csv")
