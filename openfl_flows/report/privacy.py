"""What hides the sites' updates in a run, what it has cost of the budget, and what it weighs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from openfl_flows.learners.base import Table
from openfl_flows.privacy.ledger import LEDGER
from openfl_flows.report.metric_names import duration, number, size
from openfl_flows.report.series import sites


class Section(NamedTuple):
    """A run's privacy as it is shown."""

    sentences: Sequence[str]
    table: Table | None


def read_privacy(record: Mapping[str, Any], folder: Path) -> Section | None:
    """The section of a run; None where its updates are sent as they are.

    Args:
        record: The run's record.
        folder: The run directory. In that of a simulation are the sites' own ledgers; a real
            aggregator never sees what they say of norms.

    Raises:
        ValueError: A ledger is not readable.
    """
    config = record["config"]
    privacy = config.get("privacy") or {"name": "none"}
    summed = bool(config.get("federation", {}).get("secure_aggregation"))
    if not record["rounds"] or (privacy["name"] == "none" and not summed):
        return None
    sentences = _summed(record) if summed else []
    if privacy["name"] == "none":
        return Section(sentences, None)
    sentences = [
        f"Each site clipped its updates to norm {number(privacy['clip_norm'])} and added noise of "
        f"{number(privacy['noise_multiplier'])} times that to every value. ε, at "
        f"δ = {number(privacy.get('delta', 1e-5))}, is for the site’s data set as a whole, against "
        "whoever sees its updates; metrics are not part of it.",
        *sentences,
    ]
    rows = [_row(record, site, folder / "sites" / site / LEDGER) for site in sites(record)]
    columns = ("site", "releases", "ε spent", "clipped [%]", "norm before clipping, median")
    return Section(sentences, Table(columns=columns, rows=tuple(rows)))


def _summed(record: Mapping[str, Any]) -> list[str]:
    parts = [part for entry in record["rounds"] for part in entry["sites"].values()]
    sent = statistics.median(entry["bytes_up"] / len(entry["sites"]) for entry in record["rounds"])
    encode = statistics.median(part["seconds"].get("encode", 0.0) for part in parts)
    join = statistics.median(entry.get("join_seconds", 0.0) for entry in record["rounds"])
    return [
        "The aggregator got the sum of the updates as integers of 64 bits, twice the bytes of "
        f"float32: {size(sent)} a site and round. Making them took a site {duration(encode)}, "
        f"summing and joining them {duration(join)} (medians)."
    ]


def _row(record: Mapping[str, Any], site: str, ledger: Path) -> tuple[Any, ...]:
    spent = [
        entry["sites"][site]["metrics"]["epsilon"]
        for entry in record["rounds"]
        if "epsilon" in entry["sites"].get(site, {}).get("metrics", {})
    ]
    epsilon = max(spent, default="")
    if not ledger.is_file():
        return site, len(spent), epsilon, "", ""
    try:
        releases = json.loads(ledger.read_text())["releases"]
        clipped = statistics.mean(bool(made["clipped"]) for made in releases)
        norm = statistics.median(made["norm"] for made in releases)
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{ledger}: not readable, expected the releases of {site!r}") from None
    return site, len(releases), epsilon, 100 * clipped, norm
