"""The one report of a study: tables, curves of all runs, and how each was made."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from openfl_flows.atomic import write_atomically
from openfl_flows.report import curves, series, sites_table
from openfl_flows.report.html import page_environment
from openfl_flows.report.metric_names import metric
from openfl_flows.report.study_tables import (
    Change,
    Finished,
    Grid,
    costs,
    differences,
    results,
    skew,
    to_csv,
)
from openfl_flows.study.jobs import Job
from openfl_flows.study.plan import Study


class Made(NamedTuple):
    """One run of the list at the end: where it is, what came of it, how it was made."""

    name: str
    status: str
    seed: int
    seconds: float
    digest: str
    link: str
    command: str


class Section(NamedTuple):
    """Differences of one pair: their table, and a chart for each metric."""

    grid: Grid
    charts: tuple[curves.Chart, ...]


def write_study_report(study: Study, jobs: Sequence[Job], out: Path) -> Path | None:
    """Write ``report.html``, ``table.md`` and ``table.csv`` of what is finished.

    Where sites' own models are compared with a federation, ``sites.csv`` has what each site gains.

    Args:
        study: The study.
        jobs: All its runs, finished or not.
        out: Its folder.

    Returns:
        The page, None where no run is finished.

    Raises:
        ValueError: A run's record or its predictions cannot be read, or predictions that are to be
            compared are of other proteins.
    """
    finished = Finished.of(study, jobs)
    if not finished.runs:
        return None
    scored = sites_table.score_groups(finished)
    sites = [sites_table.section(group, finished) for group in scored]
    sections = [_section(finished, index) for index in range(len(study.compare))]
    skewed = skew(finished)
    compared = [grid for part in sites for grid in (part.accuracy, *part.others)]
    grids = [results(finished), *compared, *(section.grid for section in sections)]
    more = [grid for grid in (skewed, costs(finished)) if grid is not None]
    made = [_made(job) for job in jobs]
    text = [f"# {study.title}\n", *([f"{study.note}\n"] if study.note else [])]
    text += [grid.to_markdown() for grid in (*grids, *more) if grid.rows]
    text.append(_listing(made))
    first = next(iter(finished.runs.values()))[0].record
    page = (
        page_environment()
        .get_template("study.html.j2")
        .render(
            study=study,
            missing=[run for run in made if run.status != "finished"],
            made=made,
            results=grids[0],
            sites=sites,
            sections=sections,
            more=more,
            curves=_curves(finished),
            legend=_legend(finished),
            versions=first["versions"],
        )
    )
    write_atomically(out / "table.md", "\n".join(text).encode())
    write_atomically(out / "table.csv", to_csv(finished).encode())
    if scored:
        write_atomically(out / "sites.csv", sites_table.to_csv(scored).encode())
    write_atomically(out / "report.html", page.encode())
    return out / "report.html"


def _section(finished: Finished, index: int) -> Section:
    pair = finished.study.compare[index]
    changes = finished.changes(pair)
    charts = (_change_chart(name, changes) for name in finished.metrics)
    return Section(differences(finished, pair), tuple(c for c in charts if c is not None))


def _change_chart(name: str, changes: Iterable[Change]) -> curves.Chart | None:
    rows = [
        (" ".join(change.cell.at.values()) or change.cell.run, row.change, row.change_interval)
        for change in changes
        if (row := change.rows.get(name)) is not None and row.change is not None
    ]
    return curves.changes_chart(f"Difference: {metric(name).title}", rows) if rows else None


def _curves(finished: Finished) -> tuple[curves.Chart, ...]:
    """Curves over rounds; over samples where the cells' rounds are not alike."""
    lines: dict[str, dict[str, list[series.Points]]] = {}
    lengths = {len(run.record["rounds"]) for _, runs in finished.cells() for run in runs}
    for cell, runs in finished.cells():
        for run in runs:
            samples = series.samples(run.record)
            for line in series.series(run.record, rates=finished.study.curves is not None):
                points = line.pooled
                if len(lengths) > 1:
                    points = {samples[round_]: value for round_, value in points.items()}
                if points:
                    lines.setdefault(line.name, {}).setdefault(cell.name, []).append(points)
    chosen = finished.study.curves or tuple(lines)
    cells = [cell.name for cell, _ in finished.cells()]
    # Every cell in every chart, or its colour would change from chart to chart.
    return tuple(
        curves.runs_chart(
            name,
            {cell: lines[name].get(cell, []) for cell in cells},
            axis="round" if len(lengths) == 1 else "samples, all sites",
        )
        for name in chosen
        if name in lines
    )


def _legend(finished: Finished) -> tuple[curves.Key, ...]:
    names = [cell.name for cell, _ in finished.cells()]
    return tuple(curves.Key(*item) for item in curves.colors(names).items())


def _made(job: Job) -> Made:
    run = job.run()
    link = f"runs/{job.name}/report.html"
    command = shlex.join(("openfl-flows", *job.command[:-1], f"out={job.name}"))
    if run is None:
        return Made(job.name, "not begun", job.seed, 0.0, "", "", command)
    seconds = float(sum(entry["seconds"] for entry in run.record["rounds"]))
    status = str(run.record["status"])
    return Made(job.name, status, job.seed, seconds, run.record["digest"][:12], link, command)


def _listing(made: Sequence[Made]) -> str:
    rows = tuple((m.name, m.status, f"{m.seconds:.0f}", m.digest, f"`{m.command}`") for m in made)
    columns = ("run", "status", "seconds in rounds", "digest", "command")
    return Grid("Runs", columns, rows).to_markdown()
