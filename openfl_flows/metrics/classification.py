"""Metrics of a classifier that pool exactly over sites, and how sure they are.

Legend: N samples (proteins or residues), C classes, R resamples. Classes are indices from 0; a
sample whose true class is negative is masked and counts nowhere.

Intervals are 95 % percentile intervals of the bootstrap over samples (Efron 1979): what other test
samples would have given the same models. What other seeds would have given is not in them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from openfl_flows.metrics.class_scores import CLASS_SCORES, SCORES, Counts, Floats, summary
from openfl_flows.metrics.mean import Mean

__all__ = [
    "Interval",
    "McNemar",
    "bootstrap",
    "bootstrap_classes",
    "class_means",
    "count",
    "mcnemar",
    "paired_bootstrap",
    "scores",
    "summary",
]

Indices = NDArray[np.integer[Any]]
Interval = tuple[float, float]

RESAMPLES = 1000
"""Bootstrap samples of the test samples."""

_PERCENTILES = (2.5, 97.5)


class McNemar(NamedTuple):
    """Two classifiers on the same samples.

    Attributes:
        only_a: Samples that only the first has right.
        only_b: Samples that only the second has right.
        p: Of a split at least this uneven where both are equally good; two-sided, exact.
    """

    only_a: int
    only_b: int
    p: float


def count(true: Indices, predicted: Indices, num_classes: int) -> Counts:
    """Count what was found, true and predicted, (C,) each.

    Args:
        true: (N,) or any shape; negative where masked.
        predicted: Of the same shape.
        num_classes: C.
    """
    assert true.shape == predicted.shape, f"{true.shape} true, {predicted.shape} predicted"
    known = true >= 0
    true, predicted = true[known], predicted[known]
    for part in (true, predicted):
        assert not part.size or 0 <= part.min() <= part.max() < num_classes, "not a class's index"
    parts = (true[true == predicted], true, predicted)
    return Counts(*(np.bincount(part, minlength=num_classes).astype(np.float64) for part in parts))


def class_means(true: Indices, predicted: Indices, classes: Sequence[str]) -> dict[str, Mean]:
    """Accuracy, and the recall and precision of each class, as sums with their counts.

    Sites' means pool to those of all samples, from which ``values`` has balanced accuracy, macro-F1
    and MCC by :func:`openfl_flows.metrics.class_scores.summary`.

    Args:
        true: (N,) or any shape; negative where masked.
        predicted: Of the same shape.
        classes: Names by index.
    """
    found, occurred, predictions = count(true, predicted, len(classes))
    means = {"accuracy": Mean(float(found.sum()), float(occurred.sum()))}
    for name, tp, num, guessed in zip(classes, found, occurred, predictions, strict=True):
        means[f"recall_{name}"] = Mean(float(tp), float(num))
        means[f"precision_{name}"] = Mean(float(tp), float(guessed))
    return means


def scores(
    true: Indices, predicted: Indices, num_classes: int, metrics: Iterable[str] = tuple(SCORES)
) -> dict[str, float]:
    """Scores by name: any of ``accuracy``, ``balanced_accuracy``, ``macro_f1`` and ``mcc``."""
    counts = count(true, predicted, num_classes)
    return {name: float(SCORES[name](counts)) for name in metrics}


def bootstrap(
    true: Indices,
    predicted: Indices,
    num_classes: int,
    metrics: Iterable[str] = tuple(SCORES),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of the scores of one model.

    Args:
        true: (N,), negative where masked.
        predicted: (N,).
        num_classes: C.
        metrics: Names as for :func:`scores`.
        resamples: R.
        seed: Of the resamples.

    Returns:
        Lower and upper end by metric; NaN without samples.
    """
    (counts,) = _resampled(true, [predicted], num_classes, resamples, seed)
    return {name: _interval(SCORES[name](counts)) for name in metrics}


def bootstrap_classes(
    true: Indices,
    predicted: Indices,
    num_classes: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[Interval, ...]]:
    """Intervals of every class's ``recall``, ``precision`` and ``f1``; arguments as above.

    Resamples in which a class does not occur, or is not predicted, are left out of its interval.
    """
    (counts,) = _resampled(true, [predicted], num_classes, resamples, seed)
    return {
        name: tuple(_interval(column) for column in score(counts).T)
        for name, score in CLASS_SCORES.items()
    }


def paired_bootstrap(
    true: Indices,
    pairs: Sequence[tuple[Indices, Indices]],
    num_classes: int,
    metrics: Iterable[str] = tuple(SCORES),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of the difference of two models' scores on the same samples.

    Args:
        true: (N,), negative where masked.
        pairs: What the two models predicted, (N,) each. The differences of several pairs, such as
            one for each seed, are averaged within each resample.
        num_classes: C.
        metrics: Names as for :func:`scores`.
        resamples: R.
        seed: Of the resamples.

    Returns:
        Lower and upper end of first minus second by metric; NaN without samples.
    """
    assert pairs, "no pair of models"
    flat = [predicted for pair in pairs for predicted in pair]
    counts = list(_resampled(true, flat, num_classes, resamples, seed))
    return {
        name: _interval(
            np.mean([SCORES[name](a) - SCORES[name](b) for a, b in _pairwise(counts)], axis=0)
        )
        for name in metrics
    }


def mcnemar(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]) -> McNemar:
    """Whether two classifiers are right equally often, by the samples on which they differ.

    McNemar 1947, doi 10.1007/BF02295996, with the exact binomial distribution.

    Args:
        correct_a: (N,) whether the first has a sample right.
        correct_b: (N,) whether the second has it right.
    """
    assert correct_a.shape == correct_b.shape, f"{correct_a.shape} and {correct_b.shape}"
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    differing = only_a + only_b
    p = float(stats.binomtest(only_a, differing).pvalue) if differing else 1.0
    return McNemar(only_a, only_b, p)


def _resampled(
    true: Indices, models: Sequence[Indices], num_classes: int, resamples: int, seed: int
) -> Iterable[Counts]:
    """Each model's counts (R, C) in the same resamples.

    Samples that all models predict alike are one cell of a joint confusion matrix; how often each
    cell is drawn is multinomial.
    """
    known = true >= 0
    table = np.stack([true[known], *(predicted[known] for predicted in models)])
    num = table.shape[1]
    if not num:
        nothing = np.zeros((resamples, num_classes))
        return [Counts(nothing, nothing, nothing)] * len(models)
    cells, sizes = np.unique(table, axis=1, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(num, sizes / num, size=resamples)
    weights = drawn.astype(np.float64)
    one_hot = np.eye(num_classes)
    occurred = one_hot[cells[0]]
    true_RC = weights @ occurred
    return [
        Counts(weights @ (occurred * (cells[0] == row)[:, None]), true_RC, weights @ one_hot[row])
        for row in cells[1:]
    ]


def _pairwise(counts: Sequence[Counts]) -> Iterable[tuple[Counts, Counts]]:
    return zip(counts[::2], counts[1::2], strict=True)


def _interval(values: Floats) -> Interval:
    known = values[~np.isnan(values)]
    if not known.size:
        return float("nan"), float("nan")
    low, high = np.percentile(known, _PERCENTILES)
    return float(low), float(high)
