"""A study's finished runs as tables: results, differences, skew of the data, what it cost."""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from openfl_flows.ops.run import RunDirectory
from openfl_flows.report.compare import DEFAULT_METRICS, Row, compare
from openfl_flows.report.intervals import Summary, summarise
from openfl_flows.report.metric_names import duration, metric, number, size
from openfl_flows.study.jobs import Job
from openfl_flows.study.plan import Cell, Pair, Study

ABSENT = "–"


class Grid(NamedTuple):
    """A table as it is shown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def to_markdown(self) -> str:
        """Title, note and table."""
        lines = (self.columns, ("---",) * len(self.columns), *self.rows)
        body = "".join(
            f"| {' | '.join(c.replace('|', chr(92) + '|') for c in r)} |\n" for r in lines
        )
        note = f"{self.note}\n\n" if self.note else ""
        return f"**{self.title}**\n\n{note}{body}"


class Change(NamedTuple):
    """One cell against its reference: a row for every metric that both have as numbers."""

    cell: Cell
    reference: Cell
    rows: Mapping[str, Row]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What is finished of a study.

    Attributes:
        study: The study.
        runs: Finished runs of each cell, in the order of the seeds; no cell without any.
        metrics: Final metrics that are shown.
    """

    study: Study
    runs: Mapping[str, Sequence[RunDirectory]]
    metrics: tuple[str, ...]

    @classmethod
    def of(cls, study: Study, jobs: Iterable[Job]) -> "Finished":
        """Open all finished runs.

        Raises:
            ValueError: A record cannot be read.
        """
        found: dict[str, list[RunDirectory]] = {}
        for job in jobs:
            run = job.run()
            if run is not None and run.finished:
                found.setdefault(job.cell.name, []).append(run)
        records = [run.record["metrics"] for runs in found.values() for run in runs]
        common = [m for m in (records[0] if records else ()) if all(m in r for r in records)]
        usual = [name for name in DEFAULT_METRICS if name in common]
        return cls(study=study, runs=found, metrics=study.metrics or tuple(usual or common))

    def cells(self) -> Iterator[tuple[Cell, Sequence[RunDirectory]]]:
        """Cells that have a finished run, in the study's order."""
        for cell in self.study.cells():
            if cell.name in self.runs:
                yield cell, self.runs[cell.name]

    def changes(self, pair: Pair) -> tuple[Change, ...]:
        """Every cell of a pair against its reference, where both have finished runs."""
        found = []
        for cell, reference in self.study.compared(pair):
            if cell.name in self.runs and reference.name in self.runs:
                a, b = self.runs[cell.name], self.runs[reference.name]
                shared = [m for m in self.metrics if _values(a, m) and _values(b, m)]
                table = compare([r.path for r in a], [r.path for r in b], shared)
                found.append(Change(cell, reference, {row.metric: row for row in table.rows}))
        return tuple(found)


def results(finished: Finished) -> Grid:
    """Mean and standard deviation over seeds of each cell, published values below."""
    rows: list[tuple[str, ...]] = []
    for cell, runs in finished.cells():
        texts = (_summary_text(_summary(runs, m), metric(m).scale) for m in finished.metrics)
        rows.append((cell.name, str(len(runs)), *texts))
    for run, published in finished.study.published.items():
        known = (
            number(published[m] * metric(m).scale) if m in published else ""
            for m in finished.metrics
        )
        rows.append((f"{run}, published", "", *known))
    columns = ("cell", "seeds", *(metric(name).title for name in finished.metrics))
    return Grid("Results", columns, tuple(rows), "Mean ± standard deviation over seeds.")


def differences(finished: Finished, pair: Pair) -> Grid:
    """Each cell of a pair against its reference, in percent of the reference."""
    limits = finished.study.limits
    rows = [
        (
            change.cell.name,
            change.reference.name,
            *(_change_text(change.rows.get(m), limits.get(m)) for m in finished.metrics),
        )
        for change in finished.changes(pair)
    ]
    columns = ("cell", "against", *(metric(name).title for name in finished.metrics))
    note = (
        "Difference of the means in percent of the second one’s, with the 95 % interval (Student's "
        "t, paired by seed where both have the same ones)."
    )
    return Grid(pair.title[0].upper() + pair.title[1:], columns, tuple(rows), note)


def skew(finished: Finished) -> Grid | None:
    """How unlike the sites' data are, mean over sites and seeds; None where no run says."""
    rows: dict[str, dict[str, float]] = {}
    note = ""
    for cell, runs in finished.cells():
        tables = [table for run in runs if (table := _skew_of(run)) is not None]
        values: dict[str, list[float]] = {}
        for table in tables:
            note = table["note"]
            for row in table["rows"]:
                for column, value in zip(table["columns"][1:], row[1:], strict=True):
                    values.setdefault(column, []).append(value)
        if tables:
            rows[cell.name] = {c: statistics.fmean(v) for c, v in values.items()}
    columns = tuple(dict.fromkeys(column for row in rows.values() for column in row))
    if not columns:
        return None
    shown = tuple(
        (name, *(number(row.get(column, math.nan)) for column in columns))
        for name, row in rows.items()
    )
    return Grid("Skew of the sites’ data", ("cell", *columns), shown, f"{note}. Mean over sites.")


def costs(finished: Finished) -> Grid:
    """What each cell took, mean over seeds."""
    columns = (
        "cell", "rounds", "samples, all sites", "steps, all sites", "steps, one site at most",
        "time in rounds", "sent by sites", "sent to sites", "memory of a process",
        "norm of the weights", "drift of the sites",
    )  # fmt: skip
    rows = []
    for cell, runs in finished.cells():
        rounds = [run.record["rounds"] for run in runs]
        sites = [[list(entry["sites"].values()) for entry in entries] for entries in rounds]
        counts = (
            [sum(site["num_samples"] for entry in run for site in entry) for run in sites],
            [sum(site["num_steps"] for entry in run for site in entry) for run in sites],
            [sum(max(site["num_steps"] for site in entry) for entry in run) for run in sites],
        )
        seconds, up, down = (
            statistics.fmean(sum(entry[key] for entry in entries) for entries in rounds)
            for key in ("seconds", "bytes_up", "bytes_down")
        )
        rows.append(
            (
                cell.name,
                str(max(len(entries) for entries in rounds)),
                *(f"{statistics.fmean(count):,.0f}" for count in counts),
                duration(seconds),
                size(up),
                size(down),
                size(max(run.record["peak_rss_bytes"] for run in runs)),
                *(number(norm) for norm in _norms(rounds)),
            )
        )
    note = (
        "Mean over seeds. The norm is that of the last round's model; the drift, how far the "
        "sites' models are from their mean, is the mean over rounds."
    )
    return Grid("What it cost", columns, tuple(rows), note)


def _norms(rounds: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[float, float]:
    """Norm of the weights in the last round, and mean drift, over runs; NaN in older records."""
    moved = [[entry["movement"] for entry in run if entry.get("movement")] for run in rounds]
    known = [run for run in moved if run]
    if not known:
        return math.nan, math.nan
    last = statistics.fmean(run[-1]["weight_norm"] for run in known)
    return last, statistics.fmean(statistics.fmean(m["drift"] for m in run) for run in known)


def to_csv(finished: Finished) -> str:
    """All results and differences, one line each, at full precision and in recorded units."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["kind", "cell", "reference", "metric", "n", "mean", "sd", "low", "high", "published",
         "change", "change low", "change high", "paired", "limit", "within"]
    )  # fmt: skip
    for cell, runs in finished.cells():
        published = finished.study.published.get(cell.run, {})
        for name in finished.metrics:
            summary = _summary(runs, name)
            if summary is not None:
                numbers = (summary.n, summary.mean, summary.sd, *(summary.interval or (None, None)))
                writer.writerow(["cell", cell.name, "", name, *numbers, published.get(name)])
    for pair in finished.study.compare:
        for change in finished.changes(pair):
            names = (change.cell.name, change.reference.name)
            for name, row in change.rows.items():
                limit = finished.study.limits.get(name)
                ends = row.change_interval or (None, None)
                tail = (row.change, *ends, row.paired, limit, _within(row, limit))
                writer.writerow(["difference", *names, name, row.a.n, *[None] * 5, *tail])
    return buffer.getvalue()


def _values(runs: Sequence[RunDirectory], name: str) -> list[float]:
    """A metric of all runs; nothing where one of them lacks it as a number."""
    values = [float(run.record["metrics"].get(name, math.nan)) for run in runs]
    return values if all(map(math.isfinite, values)) else []


def _summary(runs: Sequence[RunDirectory], name: str) -> Summary | None:
    values = _values(runs, name)
    return summarise(values) if values else None


def _summary_text(summary: Summary | None, scale: float) -> str:
    if summary is None:
        return ABSENT
    spread = "" if summary.sd is None else f" ± {number(summary.sd * scale)}"
    return number(summary.mean * scale) + spread


def _change_text(row: Row | None, limit: float | None) -> str:
    if row is None or row.change is None:
        return ABSENT
    text = f"{row.change:+.2f} %"
    if row.change_interval is not None:
        low, high = row.change_interval
        text += f" ({low:+.2f} to {high:+.2f})"
    within = _within(row, limit)
    return text if within is None else f"{text}; within {limit} %: {'yes' if within else 'no'}"


def _within(row: Row, limit: float | None) -> bool | None:
    return None if limit is None or row.percent is None else row.percent <= limit


def _skew_of(run: RunDirectory) -> dict[str, Any] | None:
    file = run.path / "partition.json"
    if run.record["kind"] != "federated" or not file.is_file():
        return None
    found: dict[str, Any] | None = json.loads(file.read_text()).get("skew")
    return found
