"""The end of a federation: what the sites measured of its model, and OpenFL's files of it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from openfl_flows.atomic import replacing
from openfl_flows.metrics.mean import merge, values
from openfl_flows.ops.events import EventFiles
from openfl_flows.ops.run import RunDirectory
from openfl_flows.state import Array, State
from openfl_flows.taskrunner.wire import means_of, model_messages

FINAL, FINAL_AVERAGE = "final_model_validation", "final_average_validation"
"""The tasks of the round after the last."""

Sent = Mapping[frozenset[str], Mapping[str, Array]]
"""What one site sent: by tags, then by name."""


def finish(
    run: RunDirectory, sent: Sequence[Sent], write: Callable[[State, str], None], *, last: str,
    best: str,
) -> None:  # fmt: skip
    """Pool what the sites measured of the finished model, and close the run.

    Args:
        run: The run.
        sent: What each site sent.
        write: Writes a model file.
        last: Path of the last model.
        best: Path of the best model.
    """

    def pooled(kind: str, task: str) -> dict[str, float]:
        return values(merge(means_of(found[frozenset((kind, task))]) for found in sent))

    validated = pooled("sums", FINAL_AVERAGE if run.validates_average else FINAL)
    run.measured(validated)
    EventFiles(run.path / "tensorboard").write_global(run.round, validated)
    write(run.model(), last)
    write(run.best_model() or run.model(), best)
    average = {f"ema_{name}": value for name, value in pooled("test", FINAL_AVERAGE).items()}
    # The last thing, because a finished run is left as it is.
    run.finish({**pooled("test", FINAL), **average})


def write_model(model: State, path: str, *, round_number: int, pipeline: object) -> None:
    """Write a model file of OpenFL, for ``fx model save``."""
    with replacing(Path(path)) as temporary, temporary.open("wb") as file:
        file.writelines(model_messages(model, round_number, pipeline))
