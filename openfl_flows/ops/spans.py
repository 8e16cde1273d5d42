"""Where a site's round goes, part by part, and when its update was with the aggregator.

A round ends with the slowest site's path, so only what is on a path can make a round longer::

    path_i  = absent_i + download_i + decode_i + compute_i + encode_i + upload_i
    round   = max_i(path_i) + join

in seconds. ``absent`` is the time in which an awaited site did none of the others: it had not been
started, had crashed, or was cut off. With streaming, download and upload count as far as the steps
that a site takes meanwhile do not hide them, as in :mod:`openfl_flows.ops.round_time`.
"""

from collections.abc import Mapping
from typing import Any

PARTS = ("absent", "download", "decode", "compute", "encode", "upload")
"""The parts of a path, in the order in which they happen."""

TRAVEL = frozenset({"download", "decode", "encode", "upload", "wait", "absent"})
"""What is timed of a site beside its tasks."""

Spans = dict[str, float]
"""Seconds by part."""


def task_seconds(part: Mapping[str, Any]) -> float:
    """Seconds of all tasks of one site's part in a round, as ``run.json`` has it."""
    return float(sum(s for task, s in part["seconds"].items() if task not in TRAVEL))


def spans(part: Mapping[str, Any], delay: int = 0) -> Spans:
    """The parts of a site's path through a round.

    Args:
        part: The site's part in the round, as ``run.json`` has it.
        delay: Steps that the site takes while bytes travel.
    """
    seconds: Mapping[str, float] = part["seconds"]
    found = {name: float(seconds.get(name, 0.0)) for name in PARTS}
    found["compute"] = task_seconds(part)
    travel = found["download"] + found["upload"]
    if delay and travel:
        step = float(seconds.get("train", 0.0)) / max(1, int(part["num_steps"]))
        exposed = max(0.0, travel - delay * step) / travel
        found["download"] *= exposed
        found["upload"] *= exposed
    return found


def path(part: Mapping[str, Any], delay: int = 0) -> float:
    """Seconds of a site's path; see :func:`spans`."""
    return sum(spans(part, delay).values())


def travelled(entry: Mapping[str, Any]) -> bool:
    """Whether a round's updates came over a link: else its sites took turns in one process."""
    sites = entry["sites"].values()
    return bool(sites) and all("upload" in part["seconds"] for part in sites)


def turn_seconds(
    part: Mapping[str, Any], *, arrived: float, polled: float, last: float, least: float
) -> Spans:
    """What only the aggregator sees of a site's round: for how long it was absent, and waited.

    Args:
        part: The site's part in the round.
        arrived: Seconds from the round's beginning until the site's last result was there.
        polled: Of these, what passed before the site asked for its tasks, as far as it had been
            told to ask no sooner.
        last: ``arrived`` of the site that came last.
        least: Silence that is no absence: calls take time, and a site asks only now and then.

    Returns:
        Seconds by ``absent`` and ``wait``.
    """
    silent = arrived - polled - path(part)
    return {"absent": silent if silent > least else 0.0, "wait": last - arrived + polled}
