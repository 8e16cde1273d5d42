"""The release filter: what of a site's measures leaves the site, decided there.

A metric leaves as a sum with its count, so three rules keep small groups in:

1. Only names that the plan allows.
2. No count below the floor. Names are judged for all models together: if one model's number has to
   stay, so do the others', or their difference would tell it.
3. A classifier's recalls and precisions divide the samples among classes, and their total is known:
   it is the count of the accuracy, or of the loss. If one class stays, the total less all others
   gives it away. So the classes that stay are at least two, with at least the floor's samples, true
   and predicted, among them; the smallest others stay with them until that is so. (Complementary
   cell suppression, as statistical offices do: Hundepool et al., Statistical Disclosure Control,
   2012, ch. 4.)

Sums that are not whole numbers are rounded, so that nobody confirms a guess of all samples by its
last bits. A floor is no differential privacy: docs/federated_evaluation.md says what is left.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import partial

from openfl_flows.evaluation.policy import Evaluation
from openfl_flows.metrics.class_scores import Kind, rate_of
from openfl_flows.metrics.mean import Mean, Means

Measured = Mapping[str, Means]
"""Metrics by model."""

NOT_ALLOWED = "not in evaluation.metrics"
BELOW_FLOOR = "fewer samples than evaluation.floor"
_KINDS: tuple[Kind, ...] = ("recall", "precision")

COMPLEMENT = "would give away a class below the floor"


@dataclass(frozen=True, kw_only=True)
class Disclosed:
    """What leaves a site, and what does not.

    Attributes:
        means: By model: what leaves.
        withheld: Reason by metric: what stays, of every model.
    """

    means: Measured
    withheld: Mapping[str, str]


def disclose(measured: Measured, policy: Evaluation, *, site: str) -> Disclosed:
    """Apply the rules above.

    Args:
        measured: What the site measured of each model on one benchmark.
        policy: What the parties agreed on.
        site: Its name, for messages.

    Raises:
        ValueError: An allowed metric is not a finite number: that is told instead of left out.
    """
    names = sorted({name for means in measured.values() for name in means})
    withheld = {name: NOT_ALLOWED for name in names if not policy.allows(name)}
    for name in names:
        if name not in withheld:
            _check_finite(measured, name, site)
            if _least_count(measured, name) < policy.floor:
                withheld[name] = BELOW_FLOOR
    withheld |= _complements(measured, withheld, policy)
    means = {
        model: {
            name: Mean(_rounded(float(mean.total), policy.digits), float(mean.count))
            for name, mean in own.items()
            if name not in withheld
        }
        for model, own in measured.items()
    }
    return Disclosed(means=means, withheld=withheld)


def check_disclosed(means: Measured, policy: Evaluation, *, site: str) -> None:
    """Refuse at the aggregator what a site should not have sent.

    Raises:
        ValueError: A model, a name or a count is not as the plan says.
    """
    unknown = sorted(means.keys() - set(policy.models))
    if unknown:
        raise ValueError(f"{site} measured {unknown[0]!r}, expected {', '.join(policy.models)}")
    for model, own in sorted(means.items()):
        for name, mean in sorted(own.items()):
            if not policy.allows(name):
                raise ValueError(f"{site} sent {model}/{name}: {NOT_ALLOWED}")
            if not (math.isfinite(mean.total) and mean.count >= policy.floor):
                raise ValueError(
                    f"{site} sent {model}/{name} with the sum {mean.total} over {mean.count:g} "
                    f"samples, expected a number over at least {policy.floor}"
                )


def _check_finite(measured: Measured, name: str, site: str) -> None:
    for model, means in measured.items():
        if name in means and not math.isfinite(means[name].total):
            raise ValueError(
                f"{site}: {name} of the {model} is {means[name].total}, expected a finite number"
            )


def _size(measured: Measured, named: Mapping[str, str], label: str) -> tuple[float, str]:
    return _least_count(measured, named[label]), label


def _least_count(measured: Measured, name: str) -> float:
    return min(means[name].count for means in measured.values() if name in means)


def _complements(
    measured: Measured, withheld: Mapping[str, str], policy: Evaluation
) -> dict[str, str]:
    """Every rate of the classes that have to stay, by rule 3."""
    found: dict[str, str] = {}
    for classes in _classes(measured).values():
        stays: set[str] = set()
        # First by the true classes, which are the same for every model that is ever measured on
        # the benchmark: else another evaluation could tell what this one hides.
        for kind in _KINDS:
            named = {label: rates[kind] for label, rates in classes.items() if kind in rates}
            if all(withheld.get(name) == NOT_ALLOWED for name in named.values()):
                continue
            stays |= {label for label, name in named.items() if name in withheld}
            by_size = sorted(named.keys() - stays, key=partial(_size, measured, named))
            while stays and by_size and not _hidden(stays, named, measured, policy):
                stays.add(by_size.pop(0))
        found |= {
            name: COMPLEMENT
            for label in stays
            for name in classes[label].values()
            if name not in withheld
        }
    return found


def _classes(measured: Measured) -> dict[str, dict[str, dict[Kind, str]]]:
    """Names of metrics by test set, class and kind."""
    found: dict[str, dict[str, dict[Kind, str]]] = {}
    for means in measured.values():
        for name in means:
            if (rate := rate_of(name)) is not None:
                found.setdefault(rate.prefix, {}).setdefault(rate.name, {})[rate.kind] = name
    return found


def _hidden(
    stays: Set[str], named: Mapping[str, str], measured: Measured, policy: Evaluation
) -> bool:
    """Whether of every model the classes that stay hide each other, by the metrics of one kind."""
    names = [named[label] for label in stays if label in named]
    sums = [
        sum(means[name].count for name in names if name in means) for means in measured.values()
    ]
    return len(names) >= 2 and min(sums) >= policy.floor


def _rounded(total: float, digits: int) -> float:
    return total if total.is_integer() else float(f"{total:.{digits}g}")
