"""How sure a difference of two models is, as far as sums can tell."""

import math

from openfl_flows.metrics.class_scores import rate_of
from openfl_flows.metrics.mean import Mean

_QUANTILE = 1.959963984540054
"""Of the normal distribution, for 95 %."""


def is_share(metric: str) -> bool:
    """Whether a metric is a share of samples, every sample of which is right or wrong.

    Accuracies and recalls are: their counts are the same for all models. Precisions are not.
    """
    rate = rate_of(metric)
    if rate is not None:
        return rate.kind == "recall"
    return metric == "accuracy" or (
        metric.endswith("_accuracy") and not metric.endswith("balanced_accuracy")
    )


def difference_interval(a: Mean, b: Mean) -> tuple[float, float]:
    """A 95 % interval of ``a - b``, two shares of the same samples, whichever samples they share.

    What would make it narrow, on how many samples both models are right, is in no sum. Of n samples
    with x and y right, at most q = min(x + y, 2n - x - y) are right in one model alone, which is
    the worst for the variance; with that and the interval of Agresti and Min (2005, doi
    10.1002/sim.1781) for matched pairs, half a sample added to each of four cells::

        d = (x - y) / (n + 2),   d ± 1.96 sqrt(((q + 1) / (n + 2) - d²) / (n + 2))

    So it is wider than one from pairs, never narrower.

    Args:
        a: Samples that the first model has right, of all.
        b: Those of the second, of the same samples.
    """
    assert a.count == b.count, f"{a.count:g} and {b.count:g} samples"
    num = a.count + 2
    apart = min(a.total + b.total, 2 * a.count - a.total - b.total)
    difference = (a.total - b.total) / num
    half = _QUANTILE * math.sqrt(max(0.0, (apart + 1) / num - difference**2) / num)
    return difference - half, difference + half
