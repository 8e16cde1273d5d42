"""The present state of a federation as tables for a terminal."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from openfl_flows.report.metric_names import duration, size
from openfl_flows.report.monitoring import Watched, seconds_left
from openfl_flows.report.timeline import SPANS


def status_view(watched: Watched, now: float | None = None) -> Group:
    """All that an operator wants to see at once.

    Args:
        watched: The federation.
        now: Unix time; that of the system by default.
    """
    now = time.time() if now is None else now
    return Group(*_parts(watched, now))


def headline(watched: Watched, now: float) -> str:
    """One line: how far, how long a round takes, and what is left."""
    document = watched.document
    done, seconds = len(watched.rounds), document.get("seconds", [])
    words = [f"{watched.name}: {document['state']}"]
    if "rounds" in document:
        words.append(f"{done} of {document['rounds']} rounds")
    if seconds:
        words.append(f"last round {duration(seconds[-1])}")
    left = seconds_left(document, now)
    if left is not None and not watched.finished:
        words.append(f"about {duration(max(0.0, left))} left")
    return ", ".join(words)


def doing(site: Mapping[str, Any], now: float) -> str:
    """What a site does, as far as the aggregator knows."""
    if site.get("refused"):
        return f"refused: {site['refused']}"
    if sending := site.get("sending"):
        of = f" of {size(sending['of'])}" if sending["of"] else ""
        return f"sends, {size(sending['bytes'])}{of}"
    if site.get("last_heard") is None:
        return "not heard yet"
    return f"heard {duration(max(0.0, now - site['last_heard']))} ago"


def _parts(watched: Watched, now: float) -> Iterator[RenderableType]:
    document = watched.document
    yield Text(headline(watched, now), style="bold")
    if watched.warning:
        yield Text(f"! {watched.warning}", style="bold red")
    yield _spans(document, now, finished=watched.finished)
    yield _figures(document)
    for cost in document.get("costs", ()):
        if cost["seconds"] >= 1:
            yield Text(cost["sentence"])
    for alert in document.get("alerts", {}).get("active", ()):
        yield Text(f"! {alert['sentence']}", style="bold red")
    for line in lacking(document):
        yield Text(f"! {line}", style="bold red")


def lacking(document: Mapping[str, Any]) -> list[str]:
    """What sites lack before a round may begin, where the aggregator says so."""
    found = []
    for site, own in document.get("readiness", {}).get("sites", {}).items():
        for lack in own.get("lacks", ()):
            said = (
                [str(lack[key]) for key in ("probe", "found", "remedy") if lack.get(key)]
                if isinstance(lack, Mapping)
                else [str(lack)]
            )
            found.append(f"{site} is not ready: {'; '.join(said)}")
    return found


def _spans(document: Mapping[str, Any], now: float, *, finished: bool) -> Table:
    table = _table("site", "state", *SPANS)
    spans = document.get("spans", {})
    for site in sorted(document.get("sites", {}).keys() | spans.keys()):
        state, own = document.get("sites", {}).get(site), spans.get(site, {})
        table.add_row(
            Text(site),
            Text("" if finished or not state else doing(state, now)),
            *(_digits(own.get(part), 2) for part in SPANS),
        )
    return table


def _figures(document: Mapping[str, Any]) -> Table:
    table = _table("party", "", "samples/s", "up MB/s", "down MB/s", "memory", "trend")
    memory, speed = document.get("memory", {}), document.get("throughput", {})
    for party in sorted(memory.keys() | speed.keys()):
        rates = speed.get(party, {})
        table.add_row(
            Text(party),
            "",
            _digits(rates.get("samples_per_second"), 0),
            *(
                _digits(rate / 1e6 if (rate := rates.get(f"{way}_bytes_per_second")) else None, 2)
                for way in ("upload", "download")
            ),
            *_memory(memory.get(party)),
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < 2 else "right", no_wrap=number != 1)
    return table


def _digits(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _memory(trend: Mapping[str, Any] | None) -> tuple[str, str]:
    return (size(trend["bytes"]), str(trend["verdict"])) if trend else ("", "")
