"""What guidance gained: a table of errors by source, and a picture of them over strength."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from openfl_flows.learners.digress_guidance import Pull
from openfl_flows.metrics.molecules import MoleculeQuality
from openfl_flows.metrics.oracle import PROPERTIES
from openfl_flows.metrics.target_errors import Errors, Estimate, gain, mean_error
from openfl_flows.report.curves import PALETTE
from openfl_flows.report.judgement import Judge
from openfl_flows.report.molecules import grid_png

UNITS = {"mu": "D", "homo": "eV"}
SOURCES: Mapping[str, str] = {
    "xtb": "calibrated GFN2-xTB",
    "table": "labels of the table",
    "regressor": "the regressor's own opinion",
}
"""Where the properties of drawn molecules come from; the first two know nothing of the model."""

_ROWS, _PER_ROW = 4, 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One set of molecules, drawn under one guidance.

    Attributes:
        pull: The guidance.
        quality: Counts over the set.
        found: Molecules that have a label in the table.
        errors: By source and property, (targets, molecules per target).
    """

    pull: Pull
    quality: MoleculeQuality
    found: int
    errors: Mapping[tuple[str, str], Errors]


def sources(cells: Sequence[Measured]) -> list[str]:
    """The sources that were asked, in the order of `SOURCES`."""
    return [name for name in SOURCES if any(source == name for source, _ in cells[0].errors)]


def markdown(cells: Sequence[Measured]) -> str:
    """A table of each source, the unguided set first; then one of quality."""
    parts = []
    for source in sources(cells):
        head = ["guidance", *(f"MAE {p}, {UNITS[p]}" for p in PROPERTIES)]
        head += [f"gain in {p}" for p in PROPERTIES] + ["molecules with mu"]
        body = [_error_line(cell, cells[0], source) for cell in cells]
        parts.append(f"**Measured by {SOURCES[source]}**\n\n{_lines(head, body)}")
    head = ["guidance", "validity", "connected", "uniqueness", "found in the table"]
    parts.append(f"**Quality**\n\n{_lines(head, [_quality_line(cell) for cell in cells])}")
    return "\n".join(parts)


def table_csv(cells: Sequence[Measured]) -> str:
    """All figures, one row per set and source."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    numbers = ("value", "low", "high")
    columns = [f"{kind}_{p}_{n}" for p in PROPERTIES for kind in ("mae", "gain") for n in numbers]
    counts = ("generated", "valid", "connected", "relaxed_valid", "unique", "found", "measured")
    writer.writerow(["guidance", "way", "aim", "strength", "source", *columns, *counts])
    for cell in cells:
        quality = cell.quality
        shares = (
            *(quality.num_generated, quality.num_valid, quality.num_connected),
            *(quality.num_relaxed_valid, quality.num_unique, cell.found),
        )
        for source in sources(cells):
            pairs = [_estimates(cell, cells[0], source, p) for p in PROPERTIES]
            values = [number for pair in pairs for one in pair for number in one[:3]]
            pull = cell.pull
            start = [pull.name, pull.way, pull.aim, pull.strength, source]
            writer.writerow([*start, *values, *shares, pairs[0][0].num])
    return buffer.getvalue()


def picture(cells: Sequence[Measured]) -> bytes:
    """Errors over strength with intervals, one panel per property, as SVG."""
    source = sources(cells)[0]
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    groups = sorted({(c.pull.way, c.pull.aim) for c in cells if c.pull.way != "none"}, reverse=True)
    for panel, name in enumerate(PROPERTIES):
        axes = figure.add_subplot(1, len(PROPERTIES), panel + 1)
        free = mean_error(cells[0].errors[source, name])
        axes.axhspan(free.low, free.high, color="0.85", linewidth=0)
        axes.axhline(free.value, color="0.4", linewidth=1, label="unguided")
        for color, (way, aim) in zip(PALETTE, groups, strict=False):
            own = [c for c in cells if (c.pull.way, c.pull.aim) == (way, aim)]
            found = [mean_error(c.errors[source, name]) for c in own]
            value = np.array([e.value for e in found])
            ends = np.abs(np.array([(e.low, e.high) for e in found]).T - value)
            strengths = [c.pull.strength for c in own]
            axes.errorbar(
                strengths, value, ends, marker="o", markersize=4, linewidth=1.2, capsize=2,
                color=color, label=f"{way}, {aim}",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlabel("strength")
        axes.set_ylabel(f"MAE {name}, {UNITS[name]}")
        axes.grid(axis="y", alpha=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Distance to the target, by {SOURCES[source]}", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def molecules_png(
    smiles: Sequence[str | None], targets: NDArray[np.float64], judge: Judge
) -> bytes | None:
    """Molecules of a few targets, a row for each, with what they should have and what they have.

    Properties are calibrated xTB's, or the table's without xTB; "?" where there is none.

    Args:
        smiles: All of one target after another; None where not valid.
        targets: (T, 2), NaN where nothing is wanted.
        judge: Knows the properties.

    Returns:
        A PNG; None where no target has enough valid molecules for a row.
    """
    per_target = len(smiles) // len(targets)
    shown: list[str] = []
    legends: list[str] = []
    for i, target in enumerate(targets):
        valid = [s for s in smiles[i * per_target : (i + 1) * per_target] if s is not None]
        if len(valid) >= _PER_ROW and len(shown) < _ROWS * _PER_ROW:
            shown += valid[:_PER_ROW]
            legends += [_legend(judge.properties(s), target) for s in valid[:_PER_ROW]]
    return grid_png(shown, legends, per_row=_PER_ROW) if shown else None


def _legend(found: Sequence[float], target: NDArray[np.float64]) -> str:
    parts = []
    for value, wanted, form in zip(found, target, ("{:.1f}", "{:.2f}"), strict=True):
        text = ["?" if np.isnan(number) else form.format(number) for number in (value, wanted)]
        parts.append(f"{text[0]} ({text[1]})")
    return ", ".join(parts)


def _estimates(cell: Measured, base: Measured, source: str, name: str) -> tuple[Estimate, Estimate]:
    errors = cell.errors[source, name]
    return mean_error(errors), gain(errors, base.errors[source, name])


def _error_line(cell: Measured, base: Measured, source: str) -> list[str]:
    pairs = [_estimates(cell, base, source, name) for name in PROPERTIES]
    errors = [_text(error, "{:.3f}") for error, _ in pairs]
    gains = ["" if cell is base else _text(won, "{:.1%}") for _, won in pairs]
    return [_title(cell.pull), *errors, *gains, str(pairs[0][0].num)]


def _quality_line(cell: Measured) -> list[str]:
    quality = cell.quality
    low, high = quality.validity_interval
    validity = f"{quality.validity:.1%} ({low:.1%} to {high:.1%})"
    found = f"{cell.found / max(1, quality.num_relaxed_valid):.1%}"
    shares = [f"{quality.connected:.1%}", f"{quality.uniqueness:.1%}", found]
    return [_title(cell.pull), validity, *shares]


def _title(pull: Pull) -> str:
    return "none" if pull.way == "none" else f"{pull.way} {pull.strength:g}, {pull.aim}"


def _text(estimate: Estimate, form: str) -> str:
    if not np.isfinite(estimate.value):
        return ""
    value, low, high = (form.format(number) for number in estimate[:3])
    return f"{value} ({low} to {high})"


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
