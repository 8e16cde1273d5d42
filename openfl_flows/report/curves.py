"""A run's numbers as inline SVG that takes its text colour from the page around it."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from openfl_flows.ops.spans import task_seconds
from openfl_flows.report.intervals import Interval
from openfl_flows.report.metric_names import metric
from openfl_flows.report.series import Points, Series, sites, tasks

# Okabe and Ito's colours for all kinds of colour vision, without black and yellow.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
FOREGROUND = "#010203"  # stands for the page's text colour until the SVG is written
_MAX_MARKED_ROUNDS = 30
_MAX_TICK_LABEL = 22
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "openfl-flows",
    # A site's name is text, also where it has dollar signs in it.
    "text.parse_math": False,
    "font.size": 9,
    "text.color": FOREGROUND,
    "axes.labelcolor": FOREGROUND,
    "axes.edgecolor": FOREGROUND,
    "xtick.color": FOREGROUND,
    "ytick.color": FOREGROUND,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.15,
    "grid.color": FOREGROUND,
}
"""How all charts look."""


class Key(NamedTuple):
    """One entry of a legend."""

    label: str
    color: str


class Chart(NamedTuple):
    """One picture: its title, its SVG and, where it has one of its own, its legend."""

    title: str
    svg: str
    legend: tuple[Key, ...] = ()


def colors(names: Sequence[str]) -> dict[str, str]:
    """One colour per name: the palette, or as many hues as there are names beyond it."""
    if len(names) <= len(PALETTE):
        return dict(zip(names, PALETTE, strict=False))
    hues = matplotlib.colormaps["turbo"]
    steps = (0.08 + 0.84 * i / (len(names) - 1) for i in range(len(names)))
    hexes = (matplotlib.colors.to_hex(hues(step)) for step in steps)
    return dict(zip(names, hexes, strict=True))


def site_legend(record: Mapping[str, Any]) -> tuple[Key, ...]:
    """The legend that all metric curves of a run share."""
    return tuple(Key(name, color) for name, color in colors(sites(record)).items())


def metric_chart(series: Series, site_colors: Mapping[str, str]) -> Chart:
    """One metric over rounds: the global model thick, sites thin.

    A site's solid line is its own model after training, its dashed line the global model on its
    data.
    """
    info = metric(series.name)
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure()
        for site, points in series.local.items():
            _line(axes, points, info.scale, color=site_colors[site], linewidth=1.2)
        for site, points in series.received.items():
            style = {"linewidth": 1.0, "linestyle": (0, (3, 2)), "alpha": 0.8}
            _line(axes, points, info.scale, color=site_colors[site], **style)
        _line(axes, series.pooled, info.scale, color=FOREGROUND, linewidth=2.2)
        _round_axis(axes)
        axes.set_ylabel(info.unit)
        _focus_on_training(axes, series, info.scale)
        return Chart(info.title, svg(figure))


def runs_chart(name: str, lines: Mapping[str, Sequence[Points]], *, axis: str = "round") -> Chart:
    """One metric over rounds, or what else counts up, a line for each run.

    Args:
        name: The metric.
        lines: By group, whose runs share a colour: what each of its runs measured.
        axis: What the points are numbered by.
    """
    info, palette = metric(name), colors(tuple(lines))
    pooled = Series(
        name=name, local={f"{g} {i}": p for g, ps in lines.items() for i, p in enumerate(ps)}
    )
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure()
        for group, runs in lines.items():
            for points in runs:
                _line(axes, points, info.scale, color=palette[group], linewidth=1.2)
        _round_axis(axes, axis)
        axes.set_ylabel(info.unit)
        _focus_on_training(axes, pooled, info.scale)
        return Chart(info.title, svg(figure))


def changes_chart(title: str, rows: Sequence[tuple[str, float, Interval | None]]) -> Chart:
    """Differences in percent with their intervals, one line each, and a line at zero.

    Args:
        title: What differs from what.
        rows: Label, difference and its interval, None where there is none.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(height=max(1.3, 0.75 + 0.24 * len(rows)))
        axes.axvline(0, color=FOREGROUND, linewidth=0.8, alpha=0.5)
        for place, (_, change, interval) in enumerate(rows):
            if interval is not None:
                axes.plot(interval, (place, place), color=PALETTE[0], linewidth=1.6, alpha=0.5)
            axes.plot(change, place, marker="o", markersize=5, color=PALETTE[0])
        axes.set_yticks(range(len(rows)), [short(label) for label, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        axes.set_xlabel("%")
        return Chart(title, svg(figure))


def round_seconds_chart(record: Mapping[str, Any], site_colors: Mapping[str, str]) -> Chart:
    """Wall seconds of each round (thick), and of each site's tasks in it (thin)."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure()
        for site, color in site_colors.items():
            spent = {
                entry["round"]: task_seconds(entry["sites"][site])
                for entry in record["rounds"]
                if site in entry["sites"]
            }
            _line(axes, spent, 1.0, color=color, linewidth=1.2)
        whole = {entry["round"]: entry["seconds"] for entry in record["rounds"]}
        _line(axes, whole, 1.0, color=FOREGROUND, linewidth=2.2)
        _round_axis(axes)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("s")
        return Chart("Wall time by round [s]", svg(figure))


def task_seconds_chart(record: Mapping[str, Any]) -> Chart:
    """Seconds that each site spent over the whole run, by task."""
    names, kinds = sites(record), tasks(record)
    spent = {
        task: [
            sum(e["sites"][name]["seconds"].get(task, 0.0) for e in record["rounds"]
                if name in e["sites"])
            for name in names
        ]
        for task in kinds
    }  # fmt: skip
    return stacked_chart("Time by site and task [s]", names, spent, unit="s")


def stacked_chart(
    title: str, rows: Sequence[str], parts: Mapping[str, Sequence[float]], *, unit: str
) -> Chart:
    """Horizontal bars, one per row, stacked of ``parts`` (each one value per row)."""
    palette = colors(tuple(parts))
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(height=max(1.3, 0.75 + 0.33 * len(rows)))
        left = [0.0] * len(rows)
        for part, values in parts.items():
            axes.barh(range(len(rows)), values, left=left, color=palette[part], height=0.7)
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes.set_yticks(range(len(rows)), [short(row) for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel(unit)
        return Chart(title, svg(figure), tuple(Key(*item) for item in palette.items()))


def _figure(height: float = 2.7) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _line(axes: Axes, points: Points, scale: float, **style: Any) -> None:
    ordered = sorted(points.items())
    marked = len(ordered) <= _MAX_MARKED_ROUNDS
    axes.plot(
        [round_ for round_, _ in ordered],
        [value * scale for _, value in ordered],
        marker="o" if marked else "",
        markersize=style["linewidth"] + 1.3,
        **style,
    )


def _focus_on_training(axes: Axes, series: Series, scale: float) -> None:
    """Let an untrained model far above all others leave the frame, and say where it is."""
    lines = (series.pooled, *series.local.values(), *series.received.values())
    initial = [value * scale for points in lines for r, value in points.items() if r == 0]
    trained = [value * scale for points in lines for r, value in points.items() if r > 0]
    if not initial or not trained or not all(math.isfinite(value) for value in trained):
        return
    low, high = min(trained), max(trained)
    margin = 0.1 * (high - low) or abs(high)
    if len(trained) > 2 and min(initial) > high + 2 * (high - low):
        axes.set_ylim(low - margin, high + 3 * margin)
        label = f"round 0: {min(initial):.4g}"
        axes.annotate(
            label, (0.98, 0.93), xycoords="axes fraction", ha="right", fontsize=8, alpha=0.7
        )


def _round_axis(axes: Axes, label: str = "round") -> None:
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")


def short(label: str) -> str:
    """``label`` as far as there is room for it beside an axis."""
    return label if len(label) <= _MAX_TICK_LABEL else label[: _MAX_TICK_LABEL - 1] + "…"


def svg(figure: Figure) -> str:
    """The figure as an ``<svg>`` element for HTML: no prolog, metadata, comments or namespaces."""
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    # Without a fixed size the page decides how wide a picture is.
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    return re.sub(r"\n\s*", "\n", text.replace(FOREGROUND, "currentColor"))
