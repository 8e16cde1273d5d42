"""Two groups of finished runs side by side, as in the paper's table: federated, centralized."""

import csv
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openfl_flows.ops.run import RunDirectory
from openfl_flows.report.intervals import (
    Interval,
    Summary,
    fold,
    half_width,
    summarise,
    welch_half_width,
)
from openfl_flows.report.metric_names import metric, number

DEFAULT_METRICS = (
    "test_nll", "test_elbo", "test_mae", "validity", "uniqueness",
    "test_accuracy", "test_balanced_accuracy", "test_mcc", "test_macro_f1",
)  # fmt: skip
"""Metrics of the published tables: DiGress's, then a classifier's."""

PAPER_LIMITS: Mapping[str, float] = {"nll": 3.1, "mae": 1.4, "validity": 0.5, "uniqueness": 0.5}
"""Largest absolute difference in percent that was published for federated DiGress."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric compared.

    Attributes:
        metric: The metric as recorded.
        a: The first group.
        b: The second group, the reference.
        change: ``100 (mean a - mean b) / |mean b|``; None where mean b is 0.
        change_interval: The 95 % interval of ``change``; None where a group has one run.
        paired: Whether the interval is that of the differences of runs with equal seeds.
        limit: The paper's largest ``percent``; None where it has none for this metric.
    """

    metric: str
    a: Summary
    b: Summary
    change: float | None
    change_interval: Interval | None
    paired: bool
    limit: float | None

    @property
    def percent(self) -> float | None:
        """The absolute value of ``change``."""
        return None if self.change is None else abs(self.change)

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval of ``percent``."""
        return None if self.change_interval is None else fold(*self.change_interval)

    @property
    def within(self) -> bool | None:
        """Whether ``percent`` keeps the paper's limit; None without either."""
        if self.limit is None or self.percent is None:
            return None
        return self.percent <= self.limit


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two groups of runs compared, one row per metric."""

    a: str
    b: str
    rows: tuple[Row, ...]

    def to_markdown(self) -> str:
        """A Markdown table, rounded for reading."""
        head, *body = ([cell.replace("|", "\\|") for cell in line] for line in self._cells())
        lines = [head, ["---"] * len(head), *body]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def to_html(self) -> str:
        """An HTML table element, rounded for reading, everything escaped."""
        head, *body = ([html.escape(cell) for cell in line] for line in self._cells())
        top = "".join(f"<th>{cell}</th>" for cell in head)
        rows = "\n".join(
            "<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in body
        )
        return f"<table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n"

    def to_csv(self) -> str:
        """A CSV table for machines: full precision, recorded units, empty where there is none."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        columns = ("mean", "sd", "n", "low", "high")
        groups = [f"{name} {column}" for name in (self.a, self.b) for column in columns]
        difference = ("percent", "percent low", "percent high", "paired", "paper limit", "within")
        writer.writerow(["metric", *groups, *difference])
        for row in self.rows:
            values = [v for s in (row.a, row.b) for v in (s.mean, s.sd, s.n, *_ends(s.interval))]
            end = (row.percent, *_ends(row.interval), row.paired, row.limit, row.within)
            writer.writerow([row.metric, *values, *end])
        return buffer.getvalue()

    def _cells(self) -> list[list[str]]:
        head = ["metric", self.a, self.b, "absolute difference", "paper"]
        body = []
        for row in self.rows:
            info = metric(row.metric)
            groups = [_summary_text(summary, info.scale) for summary in (row.a, row.b)]
            body.append([info.title, *groups, _difference_text(row), _paper_text(row)])
        return [head, *body]


def compare(
    a: Sequence[Path], b: Sequence[Path], metrics: Sequence[str] | None = None
) -> Comparison:
    """Compare the final metrics of two groups of finished runs, ``b`` being the reference.

    Where both groups have the same seeds, at least two, the interval of the difference is that of
    the mean of the paired differences; otherwise it is Welch's. It is divided by ``|mean b|``,
    taken as exact, and folded at zero like the difference itself.

    Args:
        a: Run directories, for example one per seed of the federated run.
        b: Run directories, for example one per seed of the centralized run.
        metrics: Names of final metrics; by default those of the paper's table that any run has.

    Raises:
        ValueError: A group is empty; a run is not finished, or lacks a metric that is compared.
    """
    groups = [_open(group, side) for group, side in ((a, "first"), (b, "second"))]
    chosen = list(metrics) if metrics is not None else _present(groups)
    values = [{name: [_value(run, name) for run in group] for name in chosen} for group in groups]
    seeds = [[run.record["config"].get("seed") for run in group] for group in groups]
    order = _pairing(*seeds)
    name_a, name_b = (_group_name(group) for group in groups)
    if name_a == name_b:
        name_a, name_b = (", ".join(run.path.name for run in group) for group in groups)
    return Comparison(
        a=name_a,
        b=name_b,
        rows=tuple(_row(name, values[0][name], values[1][name], order) for name in chosen),
    )


def _open(group: Sequence[Path], side: str) -> list[RunDirectory]:
    if not group:
        raise ValueError(f"the {side} group has no run, expected at least one run directory")
    runs = [RunDirectory.open(path) for path in group]
    for run in runs:
        if not run.finished:
            raise ValueError(
                f"{run.path}: status is {run.record['status']!r}, expected a finished run"
            )
    return runs


def _present(groups: Sequence[Sequence[RunDirectory]]) -> list[str]:
    found = {name for group in groups for run in group for name in run.record["metrics"]}
    chosen = [name for name in DEFAULT_METRICS if name in found]
    if not chosen:
        raise ValueError(f"no run has any of {', '.join(DEFAULT_METRICS)}: name the metrics")
    return chosen


def _value(run: RunDirectory, name: str) -> float:
    recorded = run.record["metrics"]
    if name not in recorded:
        raise ValueError(f"{run.path}: no metric {name!r}, it has {', '.join(sorted(recorded))}")
    if not math.isfinite(recorded[name]):
        raise ValueError(f"{run.path}: metric {name!r} is {recorded[name]}, expected a number")
    return float(recorded[name])


def _group_name(group: Sequence[RunDirectory]) -> str:
    names = {str(run.record["config"].get("name", run.path.name)) for run in group}
    return names.pop() if len(names) == 1 else ", ".join(run.path.name for run in group)


def _pairing(a: Sequence[Any], b: Sequence[Any]) -> list[int] | None:
    """For each run of ``a`` the place in ``b`` of the run with its seed; None if not one to one."""
    distinct = len(set(a)) == len(a) and set(a) == set(b) and len(a) == len(b)
    return [b.index(seed) for seed in a] if distinct and None not in a and len(a) > 1 else None


def _row(name: str, a: Sequence[float], b: Sequence[float], order: list[int] | None) -> Row:
    first, second = summarise(a), summarise(b)
    if order is not None:
        half = half_width([x - b[j] for x, j in zip(a, order, strict=True)])
    else:
        half = welch_half_width(first, second)
    difference, reference = first.mean - second.mean, abs(second.mean)
    interval = None
    if half is not None and reference:
        interval = (
            100 * (difference - half) / reference,
            100 * (difference + half) / reference,
        )
    return Row(
        metric=name,
        a=first,
        b=second,
        change=100 * difference / reference if reference else None,
        change_interval=interval,
        paired=order is not None,
        limit=PAPER_LIMITS.get(name.removeprefix("test_")),
    )


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return interval or (None, None)


def _summary_text(summary: Summary, scale: float) -> str:
    mean = number(summary.mean * scale)
    if summary.sd is None or summary.interval is None:
        return f"{mean} (n=1: no interval)"
    low, high = (number(end * scale) for end in summary.interval)
    return f"{mean} ± {number(summary.sd * scale)} (n={summary.n}, 95 % CI {low} to {high})"


def _difference_text(row: Row) -> str:
    if row.percent is None:
        return "not defined: the reference is 0"
    text = f"{row.percent:.2f} %"
    if row.interval is None:
        return f"{text} (n=1: no interval)"
    kind = "paired by seed" if row.paired else "Welch"
    return f"{text} (95 % CI {row.interval[0]:.2f} to {row.interval[1]:.2f}, {kind})"


def _paper_text(row: Row) -> str:
    if row.limit is None or row.within is None:
        return ""
    return f"≤ {row.limit} %: {'yes' if row.within else 'no'}"
