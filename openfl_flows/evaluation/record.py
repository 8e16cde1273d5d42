"""The record of a federated evaluation: sites' sums merged, models compared, one digest."""

from collections.abc import Mapping, Sequence
from typing import Any

from openfl_flows.evaluation.disclosure import Measured
from openfl_flows.evaluation.intervals import difference_interval, is_share
from openfl_flows.evaluation.policy import CANDIDATE, Evaluation
from openfl_flows.metrics.class_scores import Kind, rate_of, summary
from openfl_flows.metrics.mean import Mean, Means, merge
from openfl_flows.strict_json import digest_of

FORMAT = "openfl_flows.evaluation/1"
FILE = "evaluation.json"


def evaluation_record(
    disclosed: Mapping[str, Measured], policy: Evaluation, digests: Mapping[str, str]
) -> dict[str, Any]:
    """What an evaluation came to, as JSON has it; the same bits wherever the sites' sums are.

    A metric is merged over those sites that disclosed it of every model, so that all models are
    compared on the same samples; ``sites`` says how many that are. Where the plan wants no rows of
    single sites, what only one site disclosed is left out of the merged ones, too.

    Args:
        disclosed: What left every site.
        policy: What the parties agreed on.
        digests: Of the candidate, and of the baseline where there is one.

    Returns:
        The record, with its own digest: SHA-256 of its canonical JSON without it.
    """
    sites = sorted(disclosed)
    least = 1 if policy.per_site or len(sites) == 1 else 2
    record: dict[str, Any] = {
        "format": FORMAT,
        "candidate": digests[CANDIDATE],
        "baseline": digests.get("baseline"),
        "local": policy.local is not None,
        "plan": policy_digest(policy, digests, sites),
        "policy": {
            "metrics": list(policy.metrics),
            "floor": policy.floor,
            "digits": policy.digits,
            "per_site": policy.per_site,
        },
        "sites": len(sites),
        "metrics": _rows([disclosed[site] for site in sites], policy.models, least),
        "by_site": (
            {site: _rows([disclosed[site]], policy.models, 1) for site in sites}
            if policy.per_site
            else {}
        ),
    }
    return {**record, "digest": digest_of(record)}


def policy_digest(policy: Evaluation, digests: Mapping[str, str], sites: Sequence[str]) -> str:
    """A hash of what was agreed on: models, sites, and what may leave them."""
    agreed = {
        "models": {name: digests.get(name) for name in policy.models},
        "sites": list(sites),
        "metrics": list(policy.metrics),
        "floor": policy.floor,
        "digits": policy.digits,
        "per_site": policy.per_site,
    }
    return digest_of(agreed)


def flat_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The merged values as a run's record has metrics: ``candidate_test_nll``."""
    return {
        f"{model}_{name}": row["models"][model]["value"]
        for name, row in record["metrics"].items()
        for model in row["models"]
    }


def _rows(parts: Sequence[Measured], models: Sequence[str], least: int) -> dict[str, Any]:
    names = sorted({name for part in parts for name in part[CANDIDATE]})
    rows: dict[str, Any] = {}
    merged: dict[str, dict[str, Mean]] = {model: {} for model in models}
    for name in names:
        having = [part for part in parts if all(name in part.get(m, {}) for m in models)]
        if len(having) < max(1, least):
            continue
        for model in models:
            merged[model][name] = merge({name: part[model][name]} for part in having)[name]
        rows[name] = _row(name, len(having), {model: merged[model][name] for model in models})
    derived = {model: _derived(means) for model, means in merged.items()}
    for name in sorted(derived[CANDIDATE]):
        if all(name in found for found in derived.values()):
            values = {model: {"value": found[name]} for model, found in derived.items()}
            rows[name] = {
                "sites": len(parts),
                "models": values,
                "differences": {
                    model: {"value": values[CANDIDATE]["value"] - own["value"], "interval": None}
                    for model, own in values.items()
                    if model != CANDIDATE
                },
            }
    return rows


def _row(name: str, sites: int, means: Mapping[str, Mean]) -> dict[str, Any]:
    candidate = means[CANDIDATE]
    differences: dict[str, Any] = {}
    for model, mean in means.items():
        if model != CANDIDATE:
            known = is_share(name) and mean.count == candidate.count
            differences[model] = {
                "value": candidate.value - mean.value,
                "interval": list(difference_interval(candidate, mean)) if known else None,
            }
    return {
        "sites": sites,
        "models": {
            model: {"value": mean.value, "total": mean.total, "count": mean.count}
            for model, mean in means.items()
        },
        "differences": differences,
    }


def _derived(means: Means) -> dict[str, float]:
    """Scores of whole sets of classes; none where a class stayed at a site.

    The samples of all classes, and the predictions, then add up to those of the accuracy.
    """
    complete: dict[str, Mean] = {}
    for prefix in {rate.prefix for name in means if (rate := rate_of(name)) is not None}:
        counts: dict[Kind, float] = {"recall": 0.0, "precision": 0.0}
        own = {}
        for name, mean in means.items():
            rate = rate_of(name)
            if rate is not None and rate.prefix == prefix:
                counts[rate.kind] += mean.count
                own[name] = mean
        whole = means.get(f"{prefix}accuracy")
        if whole is not None and set(counts.values()) == {whole.count}:
            complete |= own
    return summary(complete)
