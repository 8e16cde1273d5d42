"""What a run's classifier does on its test sets: scores with intervals, confusion, every class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from openfl_flows.learners.base import Table
from openfl_flows.metrics.class_scores import CLASS_SCORES, SCORES, rate_of
from openfl_flows.metrics.classification import (
    RESAMPLES,
    Interval,
    bootstrap,
    bootstrap_classes,
    count,
)
from openfl_flows.metrics.predictions import Predictions, predicts_classes
from openfl_flows.report import curves
from openfl_flows.report.metric_names import metric, number

PREFIX = "predictions_"
"""Of the files that a task writes: then comes the name of the test set."""

_MAX_WRITTEN = 15  # classes whose confusion is also written in numbers
_MAX_NAMED = 40  # classes that have a place for their names
_DARK = 0.55  # share from which on a cell's number is white


class Section(NamedTuple):
    """A classifier on one test set.

    Attributes:
        title: The test set.
        scores: A row for each score.
        confusion: The picture.
        classes: A row for each class.
    """

    title: str
    scores: Table
    confusion: curves.Chart
    classes: Table


def find_test_sets(folder: Path) -> tuple[str, ...]:
    """Test sets that a run's ``samples`` have a classifier's predictions for, ``test`` first."""
    files = (f for f in folder.glob(f"{PREFIX}*.csv") if predicts_classes(f))
    names = (file.stem.removeprefix(PREFIX) for file in files)
    return tuple(sorted(names, key=lambda name: (name != "test", name)))


def read_predictions(folder: Path, test_set: str) -> Predictions:
    """A run's predictions for one of its :func:`find_test_sets`.

    Raises:
        ValueError: The file is not as a task writes it; the message names the line.
    """
    return Predictions.read(folder / f"{PREFIX}{test_set}.csv")


def read_sections(folder: Path) -> tuple[Section, ...]:
    """A section for each test set of a run's ``samples``.

    Raises:
        ValueError: A file is not as a task writes it; the message names the line.
    """
    return tuple(section(name, read_predictions(folder, name)) for name in find_test_sets(folder))


def section(test_set: str, predictions: Predictions) -> Section:
    """What there is to say of one test set."""
    return Section(
        title=f"{len(predictions.names):,} proteins of the set “{test_set}”",
        scores=score_table(predictions),
        confusion=confusion_chart(predictions),
        classes=class_table(predictions),
    )


def score_table(predictions: Predictions) -> Table:
    """Scores of all classes together with their intervals."""
    parts = (predictions.true, predictions.predicted, len(predictions.classes))
    counts, intervals = count(*parts), bootstrap(*parts)
    rows = []
    for name, score in SCORES.items():
        info = metric(name)
        low, high = (number(end * info.scale) for end in intervals[name])
        rows.append((info.title, number(float(score(counts)) * info.scale), f"{low} to {high}"))
    note = f"95 % percentile intervals of {RESAMPLES:,} bootstrap samples of the proteins."
    return Table(columns=("score", "value", "95 % interval"), rows=tuple(rows), note=note)


def class_table(predictions: Predictions) -> Table:
    """Number, recall, precision and F1 of each class, in percent with their intervals."""
    parts = (predictions.true, predictions.predicted, len(predictions.classes))
    counts, intervals = count(*parts), bootstrap_classes(*parts)
    columns = [
        [_percent(value, ends) for value, ends in zip(score(counts), intervals[name], strict=True)]
        for name, score in CLASS_SCORES.items()
    ]
    num = counts.true.astype(int).tolist()
    return Table(
        columns=("class", "proteins", "recall, %", "precision, %", "F1, %"),
        rows=tuple(zip(predictions.classes, num, *columns, strict=True)),
    )


def confusion_chart(predictions: Predictions) -> curves.Chart:
    """Share of each true class (rows) that is predicted to be of each class (columns)."""
    classes = predictions.classes
    num = len(classes)
    cells = predictions.true * num + predictions.predicted
    table = np.bincount(cells, minlength=num * num).reshape(num, num)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    with matplotlib.rc_context(curves.STYLE):
        figure = Figure(figsize=(4.6, 4.4), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        # From nothing to the colour, whatever the page's own.
        blue = to_rgba(curves.PALETTE[0])
        ramp = LinearSegmentedColormap.from_list("share", [(*blue[:3], 0.0), blue])
        axes.pcolormesh(shares, cmap=ramp, vmin=0, vmax=1)
        axes.set_ylim(num, 0)
        axes.set_aspect("equal")
        axes.tick_params(length=0)
        places = np.arange(num if num <= _MAX_NAMED else 0) + 0.5
        words = [curves.short(name.replace("_", " ")) for name in classes[: len(places)]]
        axes.set_xticks(places, words, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, words)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if num <= _MAX_WRITTEN:
            _write_shares(axes, shares, table.sum(axis=1) > 0)
        return curves.Chart("Confusion, % of each true class", curves.svg(figure))


def rate_table(metrics: Mapping[str, float], shown: Sequence[str]) -> Table | None:
    """Final recalls and precisions of classes, in percent; None where there are none.

    Args:
        metrics: A run's final ones.
        shown: Test sets that have a section of their own.
    """
    rates = [(rate, value) for name, value in metrics.items() if (rate := rate_of(name))]
    rates = [(rate, value) for rate, value in rates if rate.prefix.removesuffix("_") not in shown]
    if not rates:
        return None
    heads = tuple(dict.fromkeys((rate.prefix, rate.kind) for rate, _ in rates))
    values = {(rate.name, rate.prefix, rate.kind): value for rate, value in rates}
    rows = tuple(
        (name, *(_cell(values.get((name, *head))) for head in heads))
        for name in dict.fromkeys(rate.name for rate, _ in rates)
    )
    words = (f"{prefix.replace('_', ' ')}{kind}, %" for prefix, kind in heads)
    return Table(columns=("class", *words), rows=rows)


def _write_shares(
    axes: matplotlib.axes.Axes, shares: NDArray[np.float64], occurs: NDArray[np.bool_]
) -> None:
    for row, column in np.argwhere(np.broadcast_to(occurs[:, None], shares.shape)):
        share = shares[row, column]
        if round(100 * share) > 0:
            color = "white" if share > _DARK else curves.FOREGROUND
            place = (column + 0.5, row + 0.5)
            text = f"{100 * share:.0f}"
            axes.annotate(text, place, ha="center", va="center", fontsize=7, color=color)


def _percent(value: float, interval: Interval) -> str:
    if np.isnan(value):
        return "–"
    low, high = (f"{100 * end:.1f}" for end in interval)
    return f"{100 * value:.1f} ({low} to {high})"


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
