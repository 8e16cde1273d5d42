"""A federation as its files tell it, while it runs and afterwards: for status and dashboard."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from openfl_flows.ops.monitor import losses_of, monitored
from openfl_flows.ops.run import RunDirectory
from openfl_flows.report.attestation import read_attestation
from openfl_flows.report.round_time import delay_of

RUN = Path("local_state") / "run"
"""The run directory in the aggregator's workspace."""

_PLACES = (Path(), RUN, Path("aggregator") / RUN)


class Watched(NamedTuple):
    """What is known of a federation.

    Attributes:
        name: Of the plan.
        record: Content of ``run.json``; empty before there is one.
        document: Content of ``status.json``, and what follows from the record: ``expected``,
            ``spans``, ``throughput``, ``losses``, ``costs``, ``alerts``, ``memory``.
    """

    name: str
    record: Mapping[str, Any]
    document: Mapping[str, Any]

    @property
    def rounds(self) -> Sequence[Mapping[str, Any]]:
        """The finished rounds."""
        found: Sequence[Mapping[str, Any]] = self.record.get("rounds", ())
        return found

    @property
    def warning(self) -> str:
        """What everybody has to know: that nobody proved what runs there; empty for nothing."""
        found = read_attestation(self.record) if self.rounds else None
        return found.warning if found else ""

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.document["state"] == "finished")


def read_federation(folder: Path) -> Watched:
    """Read what is to be watched in a folder.

    Args:
        folder: The aggregator's workspace, the folder of a rehearsal, or a run directory.

    Raises:
        ValueError: It is none of these, or of a federation that has not begun.
    """
    run = next(
        (folder / place for place in _PLACES if (folder / place / "run.json").is_file()), None
    )
    states = [run.resolve().parent] if run else [folder / place.parent for place in _PLACES[1:]]
    file = next((s for state in states if (s := state / "status.json").is_file()), None)
    if run is None and file is None:
        raise ValueError(
            f"{folder}: no run.json and no status.json, expected the aggregator's workspace, the "
            "folder of a rehearsal or a run directory; a site has no view of the federation"
        )
    status = _status(file) if file else {}
    if run is None:
        return Watched(folder.resolve().name, {}, {"state": "waiting", "seconds": [], **status})
    record = RunDirectory.open(run).record
    planned = status.get("rounds") or _planned(record)
    document = {
        "round": min(len(record["rounds"]) + 1, planned),
        "rounds": planned,
        "state": record["status"],
        "seconds": [entry["seconds"] for entry in record["rounds"]],
        "sites": {},
        **status,
    }
    # The aggregator has looked at its rounds already, and five hundred of them take seconds.
    if "expected" not in status or len(status["seconds"]) != len(record["rounds"]):
        monitor = monitored(
            record["rounds"], planned=planned, losses=losses_of(record), delay=delay_of(record)
        )
        document |= monitor.document()
    return Watched(record["config"].get("name", folder.resolve().name), record, document)


def seconds_left(document: Mapping[str, Any], now: float | None = None) -> float | None:
    """Seconds until the last round is expected to end; None where nothing tells.

    Args:
        document: Of :class:`Watched`.
        now: Unix time; that of the system by default.
    """
    expected = document.get("expected", {})
    if expected.get("left_seconds") is None:
        return None
    spent = (time.time() if now is None else now) - document.get("since", float("inf"))
    # A round that takes longer than usual is no reason to expect less of the others.
    usual = float(expected["round_seconds"] or 0.0)
    current: float = min(max(0.0, spent), usual)
    return float(expected["left_seconds"]) - current


def _status(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not readable as JSON: {error}") from None
    if not isinstance(found, dict) or "state" not in found:
        raise ValueError(f"{file}: 'state' is missing, expected an aggregator's status")
    return found


def _planned(record: Mapping[str, Any]) -> int:
    return int(record["config"].get("federation", {}).get("rounds", len(record["rounds"])))
