"""OpenFL's own aggregator, to compare ours with."""

from collections.abc import Mapping, Sequence
from typing import Any

from openfl.component.aggregator.aggregator import Aggregator
from openfl.component.assigner import RandomGroupedAssigner
from openfl.protocols import utils

from openfl_flows.state import Array


def openfl_aggregator(
    initial: Mapping[str, Array],
    *,
    sites: Sequence[str],
    tasks: Mapping[str, Any],
    rounds: int,
    pipeline: Any,
    **settings: Any,
) -> Aggregator:
    """OpenFL's aggregator in the current folder, its checkpoint database off.

    Args:
        initial: Tensors of the initial model.
        sites: Names of the sites.
        tasks: Aggregation function of every task, in the order of a round.
        rounds: Rounds to train.
        pipeline: Of what travels.
        settings: Further ones of the aggregator.
    """
    utils.dump_proto(utils.construct_model_proto(initial, 0, pipeline), "init.pbuf")
    return Aggregator(
        aggregator_uuid="aggregator",
        federation_uuid="federation",
        authorized_cols=list(sites),
        init_state_path="init.pbuf",
        best_state_path="best.pbuf",
        last_state_path="last.pbuf",
        assigner=RandomGroupedAssigner(
            task_groups=[{"name": "all", "percentage": 1.0, "tasks": list(tasks)}],
            tasks={name: {"aggregation_type": function} for name, function in tasks.items()},
            authorized_cols=list(sites),
            rounds_to_train=rounds,
        ),
        compression_pipeline=pipeline,
        rounds_to_train=rounds,
        persist_checkpoint=False,
        # With deltas OpenFL serves base + (model - base), which is another model in the last bits.
        use_delta_updates=False,
        **settings,
    )
