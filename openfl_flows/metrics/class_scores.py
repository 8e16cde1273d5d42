"""Scores of a classifier from three counts per class: found, true and predicted.

Legend: C classes; ``...`` any leading axes, such as resamples. The counts add up over sites, so the
scores of their sums are those of all samples in one place. A score is NaN where it is not defined.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from openfl_flows.metrics.mean import Means

Floats = NDArray[np.float64]
Kind = Literal["recall", "precision"]


class Counts(NamedTuple):
    """How often each class was found, occurred and was predicted.

    Attributes:
        found: (..., C) samples of the class that were predicted to be of it: true positives.
        true: (..., C) samples of the class.
        predicted: (..., C) samples that were predicted to be of the class.
    """

    found: Floats
    true: Floats
    predicted: Floats


class Rate(NamedTuple):
    """The parts of the name of a metric of one class, such as ``test_recall_Nucleus``."""

    prefix: str
    kind: Kind
    name: str


_RATE = re.compile(r"(?P<prefix>(?:.*?_)??)(?P<kind>recall|precision)_(?P<name>.+)", re.DOTALL)


def rate_of(metric: str) -> Rate | None:
    """What a metric's name says if it is a class's recall or precision, None for all others."""
    parts = _RATE.fullmatch(metric)
    return None if parts is None else Rate(*parts.groups())  # type: ignore[arg-type]


def recall(counts: Counts) -> Floats:
    """Share of each class that was found, (..., C)."""
    return _ratio(counts.found, counts.true)


def precision(counts: Counts) -> Floats:
    """Share of each class's predictions that are right, (..., C)."""
    return _ratio(counts.found, counts.predicted)


def f1(counts: Counts) -> Floats:
    """Harmonic mean of recall and precision, 2 found / (true + predicted), (..., C)."""
    return _ratio(2 * counts.found, counts.true + counts.predicted)


def accuracy(counts: Counts) -> Floats:
    """Share of right predictions, (...)."""
    return _ratio(counts.found.sum(-1), counts.true.sum(-1))


def balanced_accuracy(counts: Counts) -> Floats:
    """Mean recall of the classes that occur, (...)."""
    return _mean_of_known(recall(counts))


def macro_f1(counts: Counts) -> Floats:
    """Mean F1 of the classes that occur or are predicted, (...)."""
    return _mean_of_known(f1(counts))


def mcc(counts: Counts) -> Floats:
    """Matthews' correlation for many classes, R_K of Gorodkin 2004, (...).

    With n samples, c of them right, t of each class and p predicted to be of it:
    (c n - t.p) / sqrt((n² - p.p) (n² - t.t)); 0 where all samples, or all predictions, are of one
    class. Source: doi 10.1016/j.compbiolchem.2004.09.006.
    """
    found, true, predicted = counts
    num = true.sum(-1)
    covariance = found.sum(-1) * num - (true * predicted).sum(-1)
    variances = [num**2 - (part**2).sum(-1) for part in (predicted, true)]
    scale = np.sqrt(variances[0]) * np.sqrt(variances[1])
    value = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)
    return np.where(num > 0, value, np.nan)


Score = Callable[[Counts], Floats]

SCORES: Mapping[str, Score] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "mcc": mcc,
}
"""Scores of all classes together, by the names of their metrics."""

CLASS_SCORES: Mapping[str, Score] = {"recall": recall, "precision": precision, "f1": f1}
"""Scores of each class."""


def summary(means: "Means") -> dict[str, float]:
    """Balanced accuracy, macro-F1 and MCC of pooled recalls and precisions.

    A recall is found over true and a precision found over predicted, as sums with their counts:
    all that the three need. They are given for every prefix (``""``, ``test_``, ...) that has both
    of the same classes, at least two of them; there are none where no sample stands behind.

    Args:
        means: Of all sites, as :func:`openfl_flows.metrics.classification.class_means` names them.
    """
    rates: dict[str, dict[Kind, dict[str, Any]]] = {}
    for name, mean in means.items():
        rate = rate_of(name)
        if rate is not None:
            parts = rates.setdefault(rate.prefix, {"recall": {}, "precision": {}})
            parts[rate.kind][rate.name] = mean
    found = {}
    for prefix, parts in rates.items():
        counts = _counts(parts["recall"], parts["precision"])
        if counts is not None:
            for name in ("balanced_accuracy", "macro_f1", "mcc"):
                found[f"{prefix}{name}"] = float(SCORES[name](counts))
    return found


def _counts(recalls: "Means", precisions: "Means") -> Counts | None:
    """The counts (C,) behind a whole set of rates; None where it is none, or is of no sample."""
    if len(recalls) < 2 or recalls.keys() != precisions.keys():
        return None
    parts = [(recalls[name], precisions[name]) for name in recalls]
    if any(found.total != again.total for found, again in parts):
        return None
    counts = Counts(
        *(
            np.array(part, np.float64)
            for part in (
                [found.total for found, _ in parts],
                [found.count for found, _ in parts],
                [again.count for _, again in parts],
            )
        )
    )
    num = counts.true.sum()
    return counts if num > 0 and num == counts.predicted.sum() else None


def _ratio(part: Floats, whole: Floats) -> Floats:
    ratio: Floats = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
    return ratio


def _mean_of_known(values: Floats) -> Floats:
    """Mean over classes whose value is not NaN, (...)."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1).astype(np.float64))
