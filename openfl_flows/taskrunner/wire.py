"""States on OpenFL's wire: a few flat buckets a round, and a model file that explains itself."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from openfl.protocols import utils

from openfl_flows.joins.streaming import split
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.privacy.fixed_point import fixed_spec
from openfl_flows.state import Array, Spec, State, TensorSpec, bucket_forms, pack, unpack

AVERAGE = "average/"
"""Prefix of the buckets of the moving average."""

_BUCKET = "bucket-"
_FROZEN = "frozen/"
_SPEC = "spec"


def bucket_names(spec: Spec, prefix: str = "") -> list[str]:
    """Names of the buckets in which a model of ``spec`` travels, without its frozen tensors."""
    moving = Spec(t for t in spec if t.reduce != "keep")
    return [f"{prefix}{_BUCKET}{number:04d}" for number in range(len(bucket_forms(moving)))]


def fragment_specs(spec: Spec, fragments: int) -> dict[str, Spec]:
    """What each round synchronises, in turn: prefix of the names of its buckets, and its tensors.

    A model that is synchronised whole has one fragment, with no prefix.
    """
    moving = Spec(t for t in spec if t.reduce != "keep")
    if fragments == 1:
        return {"": moving}
    return {
        f"fragment-{number}/": Spec(t for t in moving if t.name in names)
        for number, names in enumerate(map(frozenset, split(spec, fragments)))
    }


def fragment_due(spec: Spec, fragments: int, round_: int) -> tuple[str, Spec]:
    """The prefix and the tensors of the fragment that a round, counted from 1, synchronises."""
    return list(fragment_specs(spec, fragments).items())[(round_ - 1) % fragments]


def update_due(
    spec: Spec, fragments: int, round_: int, *, secure: bool = False
) -> tuple[str, Spec]:
    """The prefix and the tensors of a site's update in a round: integers where they are summed."""
    prefix, moving = fragment_due(spec, fragments, round_)
    return prefix, fixed_spec(moving) if secure else moving


def to_fragments(state: State, fragments: int) -> dict[str, Array]:
    """What travels of a model, in flat buckets, fragment by fragment."""
    return {
        name: bucket
        for prefix, spec in fragment_specs(state.spec, fragments).items()
        for name, bucket in to_buckets(State({t.name: state[t.name] for t in spec}), prefix).items()
    }


def to_buckets(state: State, prefix: str = "") -> dict[str, Array]:
    """What travels of a model every round: all but the frozen tensors, in flat buckets."""
    buckets = pack(state.travelling())
    return dict(zip(bucket_names(state.spec, prefix), buckets, strict=True))


def from_buckets(
    buckets: Mapping[str, Array], spec: Spec, frozen: Mapping[str, Array], prefix: str = ""
) -> State:
    """The model of ``buckets`` with its frozen tensors, which did not travel.

    Raises:
        ValueError: A bucket is missing or unexpected, or they do not fit ``spec``.
    """
    names = bucket_names(spec, prefix)
    if set(buckets) != set(names):
        wrong = sorted(set(buckets) ^ set(names))[0]
        raise ValueError(f"{wrong} is {'missing' if wrong in names else 'unexpected'}")
    moving = Spec(t for t in spec if t.reduce != "keep")
    travelled = unpack([np.asarray(buckets[name]) for name in names], moving)
    return State({**travelled, **frozen}, frozen=tuple(frozen))


def to_model_tensors(state: State) -> dict[str, Array]:
    """A whole model as tensors of an OpenFL model file: buckets, frozen tensors and the spec.

    The aggregator rebuilds the model from the file alone, without any code of the model.
    """
    rows = [[t.name, list(t.shape), t.dtype, t.reduce] for t in state.spec]
    return {
        **to_buckets(state),
        **{f"{_FROZEN}{name}": state[name] for name in state.frozen},
        _SPEC: np.frombuffer(json.dumps(rows).encode(), np.uint8),
    }


def model_messages(state: State, round_number: int, pipeline: Any) -> Iterator[bytes]:
    """The parts of an OpenFL model file, one tensor each: messages end to end are one message.

    Made whole, the file would be in memory four times.
    """
    for name, array in to_model_tensors(state).items():
        part = utils.construct_model_proto({name: array}, round_number, pipeline)
        yield part.SerializeToString()


def from_model_tensors(tensors: Mapping[str, Array]) -> State:
    """The model that :func:`to_model_tensors` wrote.

    Raises:
        ValueError: A tensor is missing, or they do not fit the spec.
    """
    if _SPEC not in tensors:
        raise ValueError(f"no tensor {_SPEC!r}: not a model file of this package")
    rows: list[Any] = json.loads(np.asarray(tensors[_SPEC]).tobytes())
    spec = Spec(
        TensorSpec(name=name, shape=tuple(shape), dtype=dtype, reduce=reduce)
        for name, shape, dtype, reduce in rows
    )
    frozen = {t.name: np.asarray(tensors[f"{_FROZEN}{t.name}"]) for t in spec if t.reduce == "keep"}
    buckets = {name: array for name, array in tensors.items() if name.startswith(_BUCKET)}
    return from_buckets(buckets, spec, frozen)


def check_initial(config: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
    """Refuse to begin with another model than the plan says; most plans leave it to the file.

    Args:
        config: The plan.
        tensors: What ``save/init.pbuf`` has.

    Raises:
        ValueError: The plan starts from a checkpoint, and this is another model.
    """
    expected = config.get("initial_digest")
    if expected is None:
        return
    if (found := from_model_tensors(tensors).digest()) != expected:
        raise ValueError(
            f"save/init.pbuf has the model {found}, expected initial_digest={expected} as "
            "plan/plan.yaml says: `fx plan initialize` without -i"
        )


def mean_array(mean: Mean) -> Array:
    """A metric as it travels: (2,) float64, its total and its count."""
    return np.array([mean.total, mean.count], np.float64)


def means_of(arrays: Mapping[str, Array]) -> Means:
    """The metrics that :func:`mean_array` wrote."""
    return {name: Mean(*np.asarray(array).tolist()) for name, array in arrays.items()}
