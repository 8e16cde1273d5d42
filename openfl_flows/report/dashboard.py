"""A running federation as one HTML file that needs nothing else and loads itself again."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openfl_flows.atomic import write_atomically
from openfl_flows.ops.monitor import losses_of
from openfl_flows.report import curves, series
from openfl_flows.report.html import Table, page_environment
from openfl_flows.report.metric_names import duration, number, size
from openfl_flows.report.monitoring import Watched, seconds_left
from openfl_flows.report.round_time import delay_of
from openfl_flows.report.status_table import doing, lacking
from openfl_flows.report.timeline import SPANS, memory_chart, timeline

_LISTED_ALERTS = 50


def write_dashboard(watched: Watched, file: Path, *, seconds: float | None = None) -> None:
    """Write the page.

    Args:
        watched: The federation.
        file: The page.
        seconds: How often a browser is to load it again; None for never. The page of a finished
            run is not loaded again.
    """
    record, document, rounds = watched.record, watched.document, watched.rounds
    now = time.time()
    left = seconds_left(document, now)
    colors = curves.colors(series.sites(record)) if rounds else {}
    watched_losses = losses_of(record)
    page = (
        page_environment()
        .get_template("dashboard.html.j2")
        .render(
            name=watched.name,
            document=document,
            done=len(rounds),
            at=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)),
            left=None if left is None or watched.finished else max(0.0, left),
            refresh=None if seconds is None or watched.finished else max(1, round(seconds)),
            warning=watched.warning,
            lacking=lacking(document),
            active=document.get("alerts", {}).get("active", ()),
            legend=[curves.Key(site, color) for site, color in colors.items()],
            sites=_sites(document, now, finished=watched.finished),
            timeline=timeline(rounds, delay_of(record)) if rounds else None,
            costs=_costs(document),
            alerts=_alerts(document),
            losses=[
                curves.metric_chart(one, colors)
                for one in (series.series(record) if rounds else ())
                if one.name in watched_losses
            ],
            memory=_memory(document),
            memory_chart=memory_chart(rounds, colors) if rounds else None,
        )
    )
    write_atomically(file, page.encode())


def _sites(document: Mapping[str, Any], now: float, *, finished: bool) -> Table:
    spans, speed = document.get("spans", {}), document.get("throughput", {})
    rows = []
    for site in sorted(document.get("sites", {}).keys() | spans.keys()):
        state = document.get("sites", {}).get(site)
        own, rates = spans.get(site, {}), speed.get(site, {})
        rows.append(
            (
                site,
                "" if finished or not state else doing(state, now),
                *(own.get(part, "") for part in SPANS),
                rates.get("samples_per_second", ""),
                rates.get("upload_bytes_per_second", 0) / 1e6 if rates else "",
                rates.get("download_bytes_per_second", 0) / 1e6 if rates else "",
            )
        )
    columns = (
        *("site", "state"), *(f"{part} [s]" for part in SPANS),
        *("samples/s", "up [MB/s]", "down [MB/s]"),
    )  # fmt: skip
    return Table(columns, rows, len(rows))


def _costs(document: Mapping[str, Any]) -> Table:
    rows = [
        (
            cost["site"],
            duration(cost["seconds"]),
            cost["rounds"],
            cost["seconds"] / cost["rounds"],
            duration(cost["over_median"]),
            cost["cause"],
            cost["sentence"].partition("cause: ")[2],
        )
        for cost in document.get("costs", ())
    ]
    columns = ("site", "cost", "rounds", "each [s]", "against the median site", "cause", "measured")
    return Table(columns, rows, len(rows))


def _alerts(document: Mapping[str, Any]) -> Table:
    found = document.get("alerts", {})
    active = {(a["site"], a["quantity"], a["round"]) for a in found.get("active", ())}
    rows = [
        (
            alert["round"],
            alert["site"],
            alert["quantity"],
            _shown(alert["value"]),
            _shown(alert["median"]),
            _state(alert, active),
        )
        for alert in reversed(found.get("told", ()))
    ]
    columns = ("round", "site", "quantity", "value", "median", "state")
    return Table(columns, rows[:_LISTED_ALERTS], len(rows))


def _state(alert: Mapping[str, Any], active: set[tuple[str, str, int]]) -> str:
    if alert["over"]:
        return "over"
    return "now" if (alert["site"], alert["quantity"], alert["round"]) in active else "began"


def _memory(document: Mapping[str, Any]) -> Table:
    rows = [
        (
            party,
            size(trend["bytes"]),
            trend["slope"] / 1024,
            f"{trend['low'] / 1024:.1f} to {trend['high'] / 1024:.1f}",
            trend["limit"] / 1024,
            trend["rounds"],
            trend["verdict"],
        )
        for party, trend in document.get("memory", {}).items()
    ]
    columns = ("party", "holds", "growth [KiB/round]", "95 %", "limit", "rounds", "verdict")
    return Table(columns, rows, len(rows))


def _shown(value: float | None) -> str:
    return "" if value is None else number(float(value))
