"""Where a round's time goes: measured, site by site, and beside it what links and bytes predict."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from openfl_flows.experiment import traffic_of
from openfl_flows.learners.base import Table
from openfl_flows.ops.link import site_links
from openfl_flows.ops.round_time import RoundTime, SiteWork, predicted_round
from openfl_flows.ops.spans import TRAVEL, path, task_seconds
from openfl_flows.report import curves
from openfl_flows.report.metric_names import duration, number
from openfl_flows.report.series import sites
from openfl_flows.state import BUCKET_BYTES

PARTS = ("download", "decode", "compute", "encode", "upload", "join", "wait")
"""What a round consists of, in the order in which it happens."""

_PREDICTED = ", predicted"
_TELLING = 0.05
"""Share of a round from which on a site is worth a sentence."""


class Section(NamedTuple):
    """A run's round time as it is shown."""

    sentences: Sequence[str]
    table: Table
    chart: curves.Chart


def read_section(record: Mapping[str, Any]) -> Section | None:
    """The section of a run; None where its sites measured nothing of the kind.

    Raises:
        ValueError: The run's ``federation.link`` cannot be read.
    """
    parts = [part for entry in record["rounds"] for part in entry["sites"].values()]
    if not any(TRAVEL & part["seconds"].keys() for part in parts):
        return None
    # The sites of a simulation take turns, and nothing travels: no round is as slow as one of them.
    travelled = any("upload" in part["seconds"] for part in parts)
    predicted = predictions(record) if travelled else []
    rows = {}
    for site in sites(record):
        rows[site] = site_parts(record, site)
        if predicted:
            rows[f"{site}{_PREDICTED}"] = _predicted_parts(predicted, site)
    rows["the aggregator"] = {
        "join": _median(entry.get("join_seconds", 0.0) for entry in record["rounds"]),
        "wait": _median(e["seconds"] - e.get("join_seconds", 0.0) for e in record["rounds"]),
    }
    return Section(
        sentences=[*_compared(record, predicted), *(slowest_site(record) if travelled else ())],
        table=Table(
            columns=("site", *(f"{part} [s]" for part in PARTS)),
            rows=tuple(
                (name, *(_cell(parts, part) for part in PARTS)) for name, parts in rows.items()
            ),
        ),
        chart=curves.stacked_chart(
            "Round time, median over rounds [s]",
            # Below the site's own bar, and short enough to be read beside it.
            ["predicted" if name.endswith(_PREDICTED) else name for name in rows],
            {part: [parts.get(part, 0.0) for parts in rows.values()] for part in PARTS},
            unit="s",
        ),
    )


def site_parts(record: Mapping[str, Any], site: str) -> dict[str, float]:
    """Median seconds over the rounds of each part that a site measured."""
    parts = [entry["sites"][site] for entry in record["rounds"] if site in entry["sites"]]
    found = {"compute": _median(task_seconds(part) for part in parts)}
    for name in TRAVEL:
        spent = [part["seconds"][name] for part in parts if name in part["seconds"]]
        if spent:
            found[name] = _median(spent)
    return found


def predictions(record: Mapping[str, Any]) -> list[RoundTime]:
    """What the plan's links predict of each round, from its bytes, computation and codec.

    Nothing where the plan names no link.

    Raises:
        ValueError: The run's ``federation.link`` cannot be read.
    """
    federation = record["config"].get("federation", {})
    links = site_links(federation.get("link"), sites(record))
    if not links:
        return []
    return [
        predicted_round(
            {site: _work(part, delay_of(record)) for site, part in entry["sites"].items()},
            links,
            join=entry.get("join_seconds", 0.0),
        )
        for entry in record["rounds"]
        if entry["sites"]
    ]


def delay_of(record: Mapping[str, Any]) -> int:
    """Steps that sites take while bytes travel, as the run's plan says."""
    return traffic_of(record["config"])[1].delay


def slowest_site(record: Mapping[str, Any]) -> list[str]:
    """One sentence on the site that all others wait for, where it costs more than a little."""
    busy = {site: _busy(record, site) for site in sites(record)}
    ordered = sorted(busy, key=lambda site: (-busy[site], site))
    if len(ordered) < 2:
        return []
    first, second = ordered[:2]
    more = busy[first] - busy[second]
    if more < _TELLING * _median(entry["seconds"] for entry in record["rounds"]):
        return []
    mine, theirs = site_parts(record, first), site_parts(record, second)
    part = max(PARTS[:-2], key=lambda part: mine.get(part, 0.0) - theirs.get(part, 0.0))
    doing = "computation" if part == "compute" else part
    return [
        f"{first} makes every round {duration(more)} longer than the next slowest would: its "
        f"{doing} takes {duration(mine[part])}, that of {second} {duration(theirs.get(part, 0.0))}."
    ]


def _busy(record: Mapping[str, Any], site: str) -> float:
    """Seconds until a site's update is with the aggregator, less what goes on at once."""
    entries = [entry["sites"][site] for entry in record["rounds"] if site in entry["sites"]]
    return _median(path(part, delay_of(record)) for part in entries)


def _work(part: Mapping[str, Any], delay: int) -> SiteWork:
    seconds = part["seconds"]
    down = part.get("bytes_down", 0)
    return SiteWork(
        bytes_down=down,
        bytes_up=part.get("bytes_up", 0),
        compute=task_seconds(part),
        decode=seconds.get("decode", 0.0),
        encode=seconds.get("encode", 0.0),
        hidden=delay * _step(part),
        requests=max(1, math.ceil(down / BUCKET_BYTES)),
    )


def _step(part: Mapping[str, Any]) -> float:
    """Seconds of one of a site's steps."""
    return float(part["seconds"].get("train", 0.0)) / max(1, int(part["num_steps"]))


def _predicted_parts(rounds: Sequence[RoundTime], site: str) -> dict[str, float]:
    times = [round_.sites[site] for round_ in rounds if site in round_.sites]
    names = [part for part in PARTS if part != "join"]
    return {name: _median(getattr(time, name) for time in times) for name in names}


def _compared(record: Mapping[str, Any], predicted: Sequence[RoundTime]) -> list[str]:
    took = [entry["seconds"] for entry in record["rounds"] if entry["sites"]]
    said = f"A round takes {duration(_median(took))}, the median of {len(took)}"
    if not predicted:
        return [f"{said}."]
    expected = [round_.total for round_ in predicted]
    ratio = _median(mine / theirs for mine, theirs in zip(took, expected, strict=True) if theirs)
    return [
        f"{said}; its bytes over the links of the plan, with computation, codec and join as "
        f"measured, predict {duration(_median(expected))}: measured / predicted {number(ratio)}."
    ]


def _cell(parts: Mapping[str, float], part: str) -> float | str:
    return float(parts[part]) if part in parts else ""


def _median(values: Iterable[float]) -> float:
    found = [float(value) for value in values]
    return statistics.median(found) if found else math.nan
