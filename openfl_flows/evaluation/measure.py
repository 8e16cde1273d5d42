"""What a site does in a federated evaluation: measure every model on its own benchmark."""

from collections.abc import Mapping
from pathlib import Path

from openfl_flows.atomic import write_json
from openfl_flows.evaluation.disclosure import Disclosed, Measured
from openfl_flows.evaluation.policy import BASELINE, CANDIDATE, LOCAL, Evaluation
from openfl_flows.learners.base import Learner, Task
from openfl_flows.state import State

RECORD = "disclosed.json"
"""A site's own record of what left it."""


def load_models(policy: Evaluation, task: Task) -> dict[str, State]:
    """The models that all sites measure: the candidate, and the baseline where there is one.

    Raises:
        ValueError: A file is missing, is of another model, or is not the one that was agreed on.
    """
    if policy.candidate is None:
        raise ValueError("evaluation.candidate=null, expected the file of the model to measure")
    models = {
        CANDIDATE: _load(task, CANDIDATE, policy.candidate, policy.candidate_digest),
    }
    if policy.baseline is not None:
        models[BASELINE] = _load(task, BASELINE, policy.baseline, policy.baseline_digest)
    return models


def load_local(
    policy: Evaluation, task: Task, site: str, folder: Path = Path()
) -> dict[str, State]:
    """The model that a site trained alone, where the plan compares with it; else nothing.

    Args:
        policy: The plan's.
        task: The model.
        site: The site.
        folder: Where a relative name is looked for.

    Raises:
        ValueError: The file is missing or is of another model.
    """
    if policy.local is None:
        return {}
    return {LOCAL: _load(task, LOCAL, folder / policy.at(site, policy.local), None)}


def measure(learner: Learner, models: Mapping[str, State]) -> Measured:
    """The test metrics of every model, one after the other."""
    found = {}
    for name, model in models.items():
        learner.receive(model)
        found[name] = learner.test()
    return found


def write_disclosed(folder: Path, site: str, disclosed: Disclosed) -> None:
    """Write down, at the site, what leaves it and what stays."""
    document = {
        "site": site,
        "left": {
            model: {name: [mean.total, mean.count] for name, mean in sorted(means.items())}
            for model, means in disclosed.means.items()
        },
        "stayed": dict(sorted(disclosed.withheld.items())),
    }
    write_json(folder / RECORD, document)


def _load(task: Task, name: str, file: Path, digest: str | None) -> State:
    try:
        state = task.load_checkpoint(file)
    except ValueError as error:
        raise ValueError(f"evaluation.{name}: {error}") from None
    if digest not in (None, state.digest()):
        raise ValueError(
            f"evaluation.{name}={file} has digest {state.digest()}, expected {digest} as the plan "
            "says"
        )
    return state
