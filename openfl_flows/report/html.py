"""A run as one HTML file that needs nothing else: no network, no other files.

It has scripts only where there are structures to turn, and its policy allows no others.
"""

import base64
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from openfl_flows.atomic import write_atomically
from openfl_flows.metrics.class_scores import rate_of
from openfl_flows.ops.run import RunDirectory
from openfl_flows.ops.spans import task_seconds
from openfl_flows.report import curves, metric_names, series
from openfl_flows.report.attestation import read_attestation
from openfl_flows.report.classification import find_test_sets, rate_table, read_sections
from openfl_flows.report.privacy import read_privacy
from openfl_flows.report.round_time import read_section

_PICTURES = {
    "grid.png": ("image/png", "Sampled molecules"),
    "chain.gif": ("image/gif", "One molecule on its way out of noise"),
    "filmstrip.png": ("image/png", "The same way in steps"),
}
_PARTITION_COUNTS = ("site", "train", "val", "test")
_LISTED_SAMPLES = 200


class Table(NamedTuple):
    """A table as it is shown: ``rows`` of ``total`` in all."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    total: int
    note: str = ""
    facts: Sequence[str] = ()


class Picture(NamedTuple):
    """An image as a ``data:`` URI, with what it shows."""

    name: str
    caption: str
    uri: str


def write_report(run: Path) -> Path:
    """Write ``report.html`` of a run, finished or not, into its directory.

    What the run does not have (a partition, samples) is not in the report either.

    Args:
        run: The run directory.

    Returns:
        The file written.

    Raises:
        ValueError: The directory has no readable ``run.json``, or one of its other files cannot
            be read as what it should be.
    """
    record = RunDirectory.open(run).record
    site_colors = curves.colors(series.sites(record))
    partition, skew = _read_partition(run / "partition.json")
    page = (
        page_environment()
        .get_template("run.html.j2")
        .render(
            record=record,
            config=record["config"],
            name=record["config"].get("name", run.name),
            join=_in_words(record["config"].get("join")) if record["kind"] == "federated" else (),
            final=_final(record["metrics"]),
            tested=record.get("tested"),
            rates=rate_table(record["metrics"], find_test_sets(run / "samples")),
            classification=read_sections(run / "samples"),
            sites=series.sites(record),
            tasks=series.tasks(record),
            legend=curves.site_legend(record),
            metric_charts=[curves.metric_chart(s, site_colors) for s in series.series(record)],
            time_charts=_time_charts(record, site_colors),
            round_time=read_section(record),
            privacy=read_privacy(record, run),
            attestation=read_attestation(record),
            partition=partition,
            skew=skew,
            partition_chart=_partition_chart(partition),
            pictures=_read_pictures(run / "samples"),
            samples=_read_samples(run / "samples" / "samples.csv"),
            **_structures(run / "samples"),
            settings=list(_flatten(record["config"])),
        )
    )
    target = run / "report.html"
    write_atomically(target, page.encode())
    return target


def _final(metrics: Mapping[str, float]) -> list[tuple[metric_names.Metric, float]]:
    """The final metrics but for those of single classes, which have tables of their own."""
    return [
        (metric_names.metric(name), value)
        for name, value in metrics.items()
        if rate_of(name) is None
    ]


def page_environment() -> jinja2.Environment:
    """Where the templates of all pages are, with how they show numbers."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("openfl_flows", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": metric_names.number,
        "size": metric_names.size,
        "duration": metric_names.duration,
        "task_seconds": task_seconds,
        # The only markup that is not escaped: what matplotlib wrote, with its text escaped.
        "svg": Markup,
    }
    return environment


def _time_charts(
    record: Mapping[str, Any], site_colors: Mapping[str, str]
) -> tuple[curves.Chart, ...]:
    if not record["rounds"]:
        return ()
    charts = (curves.round_seconds_chart(record, site_colors),)
    return (*charts, curves.task_seconds_chart(record)) if series.tasks(record) else charts


def _read_partition(file: Path) -> tuple[Table | None, Table | None]:
    """How the data lie at the sites, and how skewed they are."""
    if not file.is_file():
        return None, None
    try:
        document = json.loads(file.read_text())
        tables = [
            Table(
                part["columns"],
                part["rows"],
                len(part["rows"]),
                part.get("note", ""),
                part.get("facts", ()),
            )
            for part in (document, document.get("skew"))
            if part is not None
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: expected JSON with columns and rows, got {error!r}") from None
    for table in tables:
        _check_site_table(file, table)
    return tables[0], tables[1] if len(tables) > 1 else None


def _check_site_table(file: Path, table: Table) -> None:
    expected = len(table.columns)
    for index, row in enumerate(table.rows):
        if not isinstance(row, list) or len(row) != expected:
            raise ValueError(f"{file}: row {index + 1} is {row}, expected {expected} values")
        for column, value in zip(table.columns, row, strict=True):
            if column not in ("site", *table.facts) and not isinstance(value, int | float):
                raise ValueError(
                    f"{file}: row {index + 1}, {column} is {value!r}, expected a number"
                )


def _partition_chart(partition: Table | None) -> curves.Chart | None:
    """Items of each class at each site; of each split where there are no classes."""
    if partition is None or "site" not in partition.columns:
        return None
    by_column = {
        column: [row[i] for row in partition.rows] for i, column in enumerate(partition.columns)
    }
    names = [str(site) for site in by_column.pop("site")]
    for fact in partition.facts:
        del by_column[fact]
    classes = {k: v for k, v in by_column.items() if k not in _PARTITION_COUNTS}
    parts, title = (classes, "Classes by site") if classes else (by_column, "Items by site")
    return curves.stacked_chart(title, names, parts, unit="items") if parts else None


def _read_pictures(folder: Path) -> list[Picture]:
    return [
        Picture(name, caption, f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}")
        for name, (kind, caption) in _PICTURES.items()
        if (file := folder / name).is_file()
    ]


def _structures(folder: Path) -> dict[str, Any]:
    """Predicted structures with the scripts that turn them; neither where there are none."""
    if not any(folder.glob("*.cif")):
        return {"structures": (), "num_structures": 0, "scripts": (), "policy": ""}
    from openfl_flows.report.structures import TRUE, read_views, script_policy, viewer_scripts

    scripts = viewer_scripts()
    return {
        "structures": read_views(folder),
        "num_structures": sum(not file.stem.endswith(TRUE) for file in folder.glob("*.cif")),
        "scripts": scripts,
        "policy": script_policy(scripts),
    }


def _read_samples(file: Path) -> Table | None:
    if not file.is_file():
        return None
    with file.open(newline="") as lines:
        rows = list(csv.reader(lines))
    if not rows:
        raise ValueError(f"{file}: is empty, expected a line of column names")
    return Table(rows[0], rows[1 : _LISTED_SAMPLES + 1], len(rows) - 1)


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Any:
    """Settings as (dotted key, value as JSON) in order."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{prefix}{key}", shown


def _in_words(join: Any) -> tuple[str, str]:
    """A join's configuration as its name and its settings."""
    if not isinstance(join, Mapping):
        return ("" if join is None else str(join)), ""
    settings = [
        f"{key} {value}" for key, value in join.items() if key != "name" and value is not None
    ]
    return str(join.get("name", "")), ", ".join(settings)
