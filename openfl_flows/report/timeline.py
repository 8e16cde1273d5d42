"""What sites did, round by round, and what their processes held: the pictures of the dashboard."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from openfl_flows.codecs.exchange import AGGREGATOR
from openfl_flows.ops.spans import PARTS, spans
from openfl_flows.report import curves

SHOWN_ROUNDS = 12
"""The last rounds, of which the timeline shows every part."""

SPANS = (*PARTS, "wait")
"""The parts of a site's round, in order."""

_WAIT = "#b8bec7"
_COLORS = dict(zip(SPANS, ("#d55e00", "#56b4e9", "#cc79a7", "#009e73", "#e69f00", "#0072b2", _WAIT),
                   strict=True))  # fmt: skip


def timeline(rounds: Sequence[Mapping[str, Any]], delay: int = 0) -> curves.Chart:
    """What each site did in the last rounds: one row a site, rounds one after another.

    The parts of a round are drawn in the order in which they happen; what a site waited comes last.

    Args:
        rounds: As ``run.json`` has them; at least one.
        delay: Steps that sites take while bytes travel.
    """
    shown = rounds[-SHOWN_ROUNDS:]
    sites = sorted({site for entry in shown for site in entry["sites"]})
    first, last = shown[0]["round"], shown[-1]["round"]
    with matplotlib.rc_context(curves.STYLE):
        figure, axes = _figure(max(1.5, 0.9 + 0.33 * len(sites)))
        began = 0.0
        for entry in shown:
            axes.axvline(began, color=curves.FOREGROUND, linewidth=0.6, alpha=0.4)
            for row, site in enumerate(sites):
                _bar(axes, row, began, entry["sites"].get(site), delay)
            began += entry["seconds"]
        axes.set_yticks(range(len(sites)), [curves.short(site) for site in sites])
        axes.set_xlim(0, began or 1.0)
        axes.invert_yaxis()
        axes.set_xlabel(f"s since the beginning of round {first}")
        legend = tuple(curves.Key(part, color) for part, color in _COLORS.items())
        title = f"Rounds {first} to {last}" if last > first else f"Round {first}"
        return curves.Chart(title, curves.svg(figure), legend)


def memory_chart(
    rounds: Sequence[Mapping[str, Any]], colors: Mapping[str, str]
) -> curves.Chart | None:
    """What each process held after each round; the aggregator thick. None in runs of before."""
    held = {
        site: {
            entry["round"]: entry["sites"][site].get("rss_bytes", 0) / 2**20
            for entry in rounds
            if site in entry["sites"]
        }
        for site in colors
    }
    own = {entry["round"]: entry.get("rss_bytes", 0) / 2**20 for entry in rounds}
    if not any(own.values()):
        return None
    with matplotlib.rc_context(curves.STYLE):
        figure, axes = _figure(2.6)
        for site, points in held.items():
            axes.plot(*_columns(points), color=colors[site], linewidth=1.2)
        axes.plot(*_columns(own), color=curves.FOREGROUND, linewidth=2.2, label=AGGREGATOR)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="y")
        axes.set_xlabel("round")
        axes.set_ylabel("MiB")
        return curves.Chart("Memory after each round [MiB]", curves.svg(figure))


def _bar(axes: Axes, row: int, began: float, part: Mapping[str, Any] | None, delay: int) -> None:
    if part is None:
        return
    at = began
    for name, spent in {**spans(part, delay), "wait": part["seconds"].get("wait", 0.0)}.items():
        axes.barh(row, spent, left=at, height=0.66, color=_COLORS[name])
        at += spent


def _columns(points: Mapping[int, float]) -> tuple[list[int], list[float]]:
    return list(points), list(points.values())


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.4, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes
