"""A federated evaluation to read: a table on the screen, and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from openfl_flows.atomic import write_atomically
from openfl_flows.report.html import page_environment
from openfl_flows.report.metric_names import Metric, metric, number

PAGE = "evaluation.html"

NO_INTERVAL = "none"
NOTE = (
    "Differences are candidate minus other. An interval is the widest that the sums allow (95 %): "
    "which samples two models share is in none of them. Where sums allow no interval, it says none."
)


class Grid(NamedTuple):
    """A table as it is shown.

    Attributes:
        title: What it is of.
        columns: Heads.
        rows: Cells.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def grids(record: Mapping[str, Any]) -> list[Grid]:
    """All sites together, then each site where the plan has rows of single sites."""
    sites = record["sites"]
    parts = {f"all {sites} sites": record["metrics"], **record["by_site"]}
    return [_grid(title, rows, sites) for title, rows in parts.items()]


def to_text(record: Mapping[str, Any]) -> str:
    """The tables for a screen."""
    return "\n\n".join([*(_text(grid) for grid in grids(record)), NOTE])


def write_page(record: Mapping[str, Any], folder: Path) -> Path:
    """Write the page of an evaluation.

    Args:
        record: As in ``evaluation.json``.
        folder: Where to.

    Returns:
        The file written.
    """
    page = page_environment().get_template("evaluation.html.j2")
    file = folder / PAGE
    write_atomically(file, page.render(record=record, grids=grids(record), note=NOTE).encode())
    return file


def _grid(title: str, rows: Mapping[str, Any], sites: int) -> Grid:
    models = list(next(iter(rows.values()))["models"]) if rows else ["candidate"]
    others = models[1:]
    single = not title.startswith("all ")
    columns = [
        "metric",
        *([] if single else ["sites"]),
        "samples",
        *models,
        *(f"against {model}" for model in others),
    ]
    body = []
    for name, row in rows.items():
        known = metric(name)
        counts = {round(own["count"]) for own in row["models"].values() if "count" in own}
        body.append(
            [
                known.title,
                *([] if single else [f"{row['sites']} of {sites}"]),
                " / ".join(f"{count:,}" for count in sorted(counts)) or "from the classes",
                *(number(row["models"][model]["value"] * known.scale) for model in models),
                *(_difference(known, row["differences"][model]) for model in others),
            ]
        )
    return Grid(title, columns, body)


def _difference(known: Metric, difference: Mapping[str, Any]) -> str:
    value = difference["value"] * known.scale
    better = {"lower": value < 0, "higher": value > 0, "": None}[known.better]
    verdict = "" if better is None or not value else (" better" if better else " worse")
    if difference["interval"] is None:
        return f"{_signed(value)}{verdict} (interval: {NO_INTERVAL})"
    low, high = (_signed(end * known.scale) for end in difference["interval"])
    return f"{_signed(value)}{verdict} ({low} to {high})"


def _signed(value: float) -> str:
    return f"{'−' if value < 0 else '+'}{number(abs(value))}"


def _text(grid: Grid) -> str:
    lines = [tuple(grid.columns), *map(tuple, grid.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(grid.columns))]
    body = [
        "  ".join(
            cell.ljust(width) if not number_ else cell.rjust(width)
            for number_, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([grid.title, *(f"  {line}" for line in body)])
