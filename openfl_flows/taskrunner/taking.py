"""What is looked at before a result counts, and what of several results is comparable."""

import logging
from collections.abc import Collection, Mapping

from openfl.utilities import TaskResultKey, TensorKey

from openfl_flows.evaluation.policy import Evaluation
from openfl_flows.ops.admission import Proportion, update_norm
from openfl_flows.ops.inbox import Result
from openfl_flows.state import Array
from openfl_flows.taskrunner.aggregation import TRAINED
from openfl_flows.taskrunner.evaluation import BENCHMARKED, admit
from openfl_flows.taskrunner.results import sent_as

logger = logging.getLogger(__name__)


def check_awaited(
    site: str,
    task: str,
    tasks: Collection[str],
    members: Collection[str],
    round_number: int,
    current: int,
    last: int,
) -> None:
    """Refuse a result of another task or round than there is, or of a site that takes no part.

    Args:
        site: Who sends it.
        task: Of which task.
        tasks: Those of the round that the site says.
        members: The sites of the round at hand.
        round_number: OpenFL's round that the site says.
        current: OpenFL's round at hand.
        last: OpenFL's last round.

    Raises:
        ValueError: It is refused.
    """
    if task not in tasks or not 0 <= round_number <= min(current, last):
        raise ValueError(
            f"result of {site!r} for {task[:80]!r} of round {round_number + 1} refused: expected a "
            f"task of round {current + 1}"
        )
    if round_number == current and site not in members:
        raise ValueError(
            f"result of {site!r} for {task} refused: it takes no part in round {current + 1}, see "
            "`readiness` in status.json"
        )


def check_result(
    result: Result,
    *,
    model: str,
    due: Mapping[str, Array],
    proportion: Proportion | None,
    evaluation: Evaluation | None,
) -> None:
    """Refuse an update of another spec, of another model, not finite, or out of proportion.

    Args:
        result: What a site sent.
        model: Digest of the model that it was to train.
        due: The buckets of that model that are due.
        proportion: What norms are in proportion; None where an update is behind a mask.
        evaluation: The policy, where finished models are measured.

    Raises:
        ValueError: It is refused.
    """
    if result.task == BENCHMARKED and evaluation is not None:
        admit(result, evaluation)
    if result.task != TRAINED:
        return
    trained_from = sent_as(result, "fact")["trained_from"].tobytes().hex()
    if trained_from != model:
        raise ValueError(
            f"update of {result.site!r} refused: it was trained from the model "
            f"{trained_from[:12]}, expected {model[:12]}: the sites' plans or code differ"
        )
    if proportion is not None:
        norm = update_norm(result.site, due, sent_as(result, "trained"))
        proportion.admit(result.site, norm)


def keep_common(results: Mapping[TaskResultKey, list[TensorKey]], tasks: Collection[str]) -> None:
    """Leave of each task's results what all have: OpenFL fails where one site has a metric more.

    Args:
        results: Keys of tensors by task and site, of one round.
        tasks: The tasks of the round.
    """
    for task in tasks:
        of_task = [keys for key, keys in results.items() if key.task_name == task]
        common = set.intersection(*({key.tensor_name for key in keys} for keys in of_task))
        for keys in of_task:
            keys[:] = [key for key in keys if key.tensor_name in common]


def tell_left_out(left_out: Collection[str], round_: int, *, secure: bool) -> None:
    """Tell the operator which sites of the plan ``plan/cols.yaml`` does not name.

    Raises:
        ValueError: There is one, and the plan needs all.
    """
    if left_out and secure:
        raise ValueError(
            f"plan/cols.yaml does not name {', '.join(left_out)}, expected all sites of the "
            "plan: federation.secure_aggregation=true, and without them no masks cancel"
        )
    if left_out:
        logger.warning(
            "Round %d goes on without %s: not named in plan/cols.yaml. Anything already "
            "received of this round from there is left out", round_, ", ".join(left_out),
        )  # fmt: skip
