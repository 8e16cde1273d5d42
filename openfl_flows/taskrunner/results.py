"""What a site sends as its result of a task: taken from the wire, and refused if it is not that."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from openfl.utilities import TensorKey

from openfl_flows.codecs.exchange import Passage, decode_bucket, frames_digest
from openfl_flows.ops.inbox import Result
from openfl_flows.state import Array
from openfl_flows.taskrunner.aggregation import RECEIVED, TRAINED, VALIDATED

DATA_SIZE = "data_size"
"""Key of the weight that OpenFL gives to a result's metrics."""
MAX_TENSORS = 2000
"""Buckets and metrics in one result; OpenFL's database is slow with many."""

_MAX_NAME = 200
_FACTS = {
    **dict.fromkeys(("seconds", "peak_rss_bytes", "rss_bytes"), ("float64", ())),
    **dict.fromkeys(("bytes_down", "bytes_up"), ("float64", ())),
    **dict.fromkeys(("download", "decode", "encode", "upload"), ("float64", ())),
}
_FACTS_OF_TRAINING = _FACTS | {"num_samples": ("int64", ()), "num_steps": ("int64", ())}
_TRAINED_FROM, _FRAMES, _FRAMES_BYTES = "trained_from", "frames", "frames_bytes"
_FORMS = {"metric": ("float64", ()), "sums": ("float64", (2,)), "test": ("float64", (2,))}


def decoded(
    site: str, task: str, data_size: int, named_tensors: Sequence[Any], pipeline: Any
) -> Result:
    """Take a result from a message, as views of the message's bytes, under keys for the inbox.

    Args:
        site: Who sent it.
        task: Of which task.
        data_size: The weight of its metrics.
        named_tensors: OpenFL's messages.
        pipeline: What encoded them.

    Raises:
        ValueError: A tensor is not what its metadata say, or it is not such a task's result.
    """
    if len(named_tensors) > MAX_TENSORS:
        raise _refused(site, task, f"{len(named_tensors)} tensors, expected at most {MAX_TENSORS}")
    tensors = {DATA_SIZE: np.array([data_size])}
    for tensor in named_tensors:
        if len(tensor.name) > _MAX_NAME:
            raise _refused(site, task, f"a tensor's name has {len(tensor.name)} letters")
        metadata = [{"int_list": proto.int_list} for proto in tensor.transformer_metadata]
        tags = sorted(set(tensor.tags) - {"compressed"})
        try:
            array = pipeline.backward(tensor.data_bytes, metadata)
        except (ValueError, IndexError) as error:
            raise _refused(site, task, f"tensor {tensor.name!r} is not readable: {error}") from None
        tensors[json.dumps([tensor.name, tensor.report, tags])] = array
    result = Result(site, task, tensors)
    _check(result)
    return result


def unframed(result: Result, passage: Passage, model: Mapping[str, Array]) -> Result:
    """An update with buckets in place of the frames that brought them, and facts of the frames.

    Args:
        result: A site's result of training.
        passage: What is known of its frames.
        model: The buckets of an update, in order, with those of the global model that they change.

    Raises:
        ValueError: A frame is missing, unexpected or refused.
    """
    frames = sent_as(result, "trained")
    for name in sorted(model.keys() ^ frames.keys()):
        what = "misses" if name in model else "has an unexpected"
        raise _refused(result.site, result.task, f"it {what} tensor {name!r}")
    buckets = {
        _key(name, "trained"): decode_bucket(passage, part, frames[name], own)
        for part, (name, own) in enumerate(model.items())
    }
    digest = "" if passage.codec.exact else frames_digest([frames[name] for name in model])
    size = sum(frame.nbytes for frame in frames.values())
    facts = {
        _TRAINED_FROM: np.frombuffer(bytes.fromhex(passage.reference), np.uint8),
        _FRAMES: np.frombuffer(bytes.fromhex(digest), np.uint8),
        _FRAMES_BYTES: np.array(size),
    }
    added = {_key(name, "fact", TRAINED): fact for name, fact in facts.items()}
    return result._replace(tensors={**result.tensors, **buckets, **added})


def keyed(result: Result, origin: str, round_number: int) -> dict[TensorKey, Array]:
    """A result's tensors as OpenFL's database has them: tagged with the site.

    Args:
        result: The result.
        origin: The aggregator's name.
        round_number: OpenFL's round, from 0.
    """
    found = {}
    for key, array in result.tensors.items():
        if key != DATA_SIZE:
            name, report, tags = json.loads(key)
            tags = tuple(sorted((*tags, result.site)))
            found[TensorKey(name, origin, round_number, report, tags)] = array
    return found


def sent_as(result: Result, kind: str) -> dict[str, Array]:
    """A result's tensors of one kind, such as ``fact`` or ``trained``, by name."""
    return {
        name: array
        for key, array in result.tensors.items()
        if key != DATA_SIZE
        for name, _, tags in [json.loads(key)]
        if kind in tags
    }


def _key(name: str, *tags: str) -> str:
    return json.dumps([name, False, sorted(tags)])


def _check(result: Result) -> None:
    """Refuse what the join, the record of the run, or OpenFL could not work with."""
    site, task = result.site, result.task
    if result.tensors[DATA_SIZE][0] < 1:
        raise _refused(site, task, f"data_size={result.tensors[DATA_SIZE][0]}, expected at least 1")
    kinds = {"metric", "sums", "fact"}
    if task == TRAINED:
        kinds.add("trained")
    elif task not in (RECEIVED, VALIDATED):
        kinds.add("test")
    for key, array in result.tensors.items():
        if key == DATA_SIZE:
            continue
        name, report, tags = json.loads(key)
        kind = next(iter(kinds.intersection(tags)), "")
        wanted = [kind] if kind == "trained" else sorted((kind, task))
        if tags != wanted or report != (kind == "metric"):
            raise _refused(site, task, f"unexpected tensor {name!r} with tags {tags}")
        if kind in _FORMS:
            _check_form(result, name, array, _FORMS[kind])
    facts, expected = sent_as(result, "fact"), _FACTS_OF_TRAINING if task == TRAINED else _FACTS
    if facts.keys() != expected.keys():
        raise _refused(site, task, f"its facts are {sorted(facts)}, expected {sorted(expected)}")
    for name, form in expected.items():
        _check_form(result, name, facts[name], form)
    if facts.get("num_samples", 1) < 1:
        raise _refused(site, task, f"num_samples={facts['num_samples']}, expected at least 1")
    counts = {
        name: mean[1] for kind in ("sums", "test") for name, mean in sent_as(result, kind).items()
    }
    for name, count in {**facts, **counts}.items():
        if not np.all((count >= 0) & np.isfinite(count)):
            raise _refused(site, task, f"{name!r} is {count}, expected a number from 0")
    metrics, sums = sorted(sent_as(result, "metric")), sorted(sent_as(result, "sums"))
    if metrics != sums:
        raise _refused(site, task, f"its metrics are {metrics}, but the sums are of {sums}")


def _check_form(result: Result, name: str, array: Array, form: tuple[str, tuple[int, ...]]) -> None:
    if (array.dtype.name, array.shape) != form:
        found = f"{array.dtype.name}{array.shape}"
        what = f"tensor {name!r} is {found}, expected {form[0]}{form[1]}"
        raise _refused(result.site, result.task, what)


def _refused(site: str, task: str, why: str) -> ValueError:
    what = f"update of {site!r}" if task == TRAINED else f"result of {site!r} for {task}"
    return ValueError(f"{what} refused: {why}")
