"""A federated evaluation under OpenFL: no training, one round in which the sites measure."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openfl_flows.atomic import write_json
from openfl_flows.evaluation.disclosure import Measured, check_disclosed, disclose
from openfl_flows.evaluation.measure import load_local, load_models, write_disclosed
from openfl_flows.evaluation.policy import BASELINE, CANDIDATE, SITE, Evaluation
from openfl_flows.evaluation.record import FILE, evaluation_record, flat_metrics
from openfl_flows.experiment import evaluation_of
from openfl_flows.learners.base import Task
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.ops.files import save_state
from openfl_flows.ops.inbox import Result
from openfl_flows.ops.run import RunDirectory
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.state import Array, State
from openfl_flows.taskrunner.results import sent_as
from openfl_flows.taskrunner.wire import means_of

if TYPE_CHECKING:
    # An aggregator, which has no torch, loads this module too.
    from openfl_flows.learners.site import Site

BENCHMARKED = "benchmark_validation"
"""The task of the one round. OpenFL asks for the weight of results whose task has `valid` in it."""

BASELINE_FILE = "save/baseline.safetensors"
"""The baseline, in the workspace that every party has; the candidate is its initial model."""

LOCAL_FILE = "local-{site}.safetensors"
"""The model that a site trained alone, in the site's data folder."""

# What a plan that trains nothing says of training.
_NO_TRAINING: Mapping[str, Any] = {
    "join": {"name": "fedavg"},
    "ema": {"name": "none"},
    "codec": {"name": "identity"},
}
_NO_ROUNDS = {"rounds": 0, "tested": "last", "validate": "model", "secure_aggregation": False}


def evaluation_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of an evaluation: that of the training without rounds, begun at the candidate.

    Raises:
        ValueError: There is no candidate, or the plan starts from another model.
    """
    policy = evaluation_of(config)
    assert policy is not None, "the plan has no evaluation"
    if policy.candidate is None:
        raise ValueError("evaluation.candidate=null, expected the file of the model to measure")
    if config.get("initial") not in (None, str(policy.candidate)):
        raise ValueError(
            f"initial={config['initial']}, expected null: what is measured is evaluation.candidate"
        )
    if policy.benchmark is not None:
        raise ValueError(
            f"evaluation.benchmark={policy.benchmark}, expected null: in a federation each site's "
            "plan/data.yaml names the folder of its benchmark"
        )
    federation = {key: value for key, value in config["federation"].items() if key != "streaming"}
    return {
        **{key: value for key, value in config.items() if key != "privacy"},
        **_NO_TRAINING,
        "initial": str(policy.candidate),
        "federation": {**federation, **_NO_ROUNDS},
    }


def agreed_policy(policy: Evaluation | None, task: Task, initial: str) -> dict[str, Any]:
    """The group ``evaluation`` as all parties have it: files of the workspace, with digests.

    Args:
        policy: As it was composed; None where the plan trains, which has no such group.
        task: The model.
        initial: The candidate's file in the workspace.

    Raises:
        ValueError: A model cannot be read.
    """
    if policy is None:
        return {}
    digests = {name: model.digest() for name, model in load_models(policy, task).items()}
    return {
        "evaluation": {
            "metrics": list(policy.metrics),
            "floor": policy.floor,
            "digits": policy.digits,
            "per_site": policy.per_site,
            "candidate": initial,
            "candidate_digest": digests[CANDIDATE],
            "baseline": BASELINE_FILE if BASELINE in digests else None,
            "baseline_digest": digests.get(BASELINE),
            "local": None if policy.local is None else LOCAL_FILE,
        }
    }


def write_models(policy: Evaluation, task: Task, folder: Path) -> None:
    """Write the baseline into a workspace; to rehearse with, the sites' own models that are here.

    Raises:
        ValueError: The baseline cannot be read.
    """
    models = load_models(policy, task)
    if BASELINE in models:
        save_state(folder / BASELINE_FILE, models[BASELINE])
    for site in task.sites if policy.local is not None else ():
        file, own = policy.at(site, policy.local or ""), folder / "data" / site
        if file.is_file() and own.is_dir():
            shutil.copyfile(file, own / LOCAL_FILE.replace(SITE, site))


class Benchmark:
    """What one site measures beside the candidate, loaded before the site calls anyone.

    Args:
        policy: The plan's.
        task: The site's.
        site: Its name.
        folder: Its data.

    Raises:
        ValueError: A model is missing or is not the one that was agreed on.
    """

    def __init__(self, policy: Evaluation, task: Task, site: str, folder: Path) -> None:
        self._policy = policy
        shared = load_models(policy, task)
        # It comes from the aggregator, too, by its digest.
        del shared[CANDIDATE]
        self._models = {**shared, **load_local(policy, task, site, folder)}

    def measure(self, candidate: State, site: "Site") -> Means:
        """Measure all models on the site's test data; what leaves, under the model's name and its.

        Raises:
            WithheldError: A model cannot be measured, or a metric is not finite.
        """
        models = {CANDIDATE: candidate, **self._models}
        try:
            measured = {
                name: site.measure(model, 1, validate=False)[1] for name, model in models.items()
            }
            disclosed = disclose(measured, self._policy, site=site.name)
        except ValueError as error:
            raise WithheldError(
                f"nothing of the evaluation leaves {site.name!r}: {error}"
            ) from None
        write_disclosed(site.folder, site.name, disclosed)
        return {
            f"{model}/{name}": mean
            for model, means in disclosed.means.items()
            for name, mean in means.items()
        }


def admit(result: Result, policy: Evaluation) -> None:
    """Refuse measures that the site's own filter should have kept in.

    Raises:
        ValueError: There are such.
    """
    measured = by_model(means_of(sent_as(result, "test")), policy)
    try:
        check_disclosed(measured, policy, site=repr(result.site))
    except ValueError as error:
        raise ValueError(f"result of {result.site!r} for {BENCHMARKED} refused: {error}") from None


def conclude(
    run: RunDirectory,
    policy: Evaluation,
    sites: Sequence[str],
    sent: Sequence[Mapping[frozenset[str], Mapping[str, Array]]],
) -> None:
    """Merge what the sites disclosed into ``evaluation.json``, and close the run.

    Args:
        run: The aggregator's run directory.
        policy: The plan's.
        sites: Who took part.
        sent: What each of them sent: arrays by tags and name.
    """
    assert policy.candidate_digest is not None
    digests = {CANDIDATE: policy.candidate_digest}
    if policy.baseline_digest is not None:
        digests[BASELINE] = policy.baseline_digest
    disclosed = {
        site: by_model(means_of(own.get(frozenset(("test", BENCHMARKED)), {})), policy)
        for site, own in zip(sites, sent, strict=True)
    }
    record = evaluation_record(disclosed, policy, digests)
    write_json(run.path / FILE, record)
    run.finish(flat_metrics(record))


def by_model(means: Means, policy: Evaluation) -> Measured:
    """Metrics by model, from names such as ``candidate/test_nll``."""
    found: dict[str, dict[str, Mean]] = {model: {} for model in policy.models}
    for name, mean in means.items():
        model, _, metric = name.partition("/")
        found.setdefault(model, {})[metric] = mean
    return found
