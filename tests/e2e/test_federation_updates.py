"""A site that sends what no learner has made is refused, and leaves no trace in the model."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from openfl.protocols import base_pb2
from openfl.utilities import TensorKey

from openfl_flows.codecs.frame import HEADER_BYTES, read_header, write_frame
from openfl_flows.learners.site import release_learners
from openfl_flows.ops.files import load_state
from openfl_flows.state import pack
from openfl_flows.taskrunner.collaborator import RefusedError
from openfl_flows.taskrunner.ending import FINAL
from openfl_flows.taskrunner.workspace import read_workspace
from tests.federation_host import (
    RECEIVED,
    TRAIN,
    VALIDATED,
    Host,
    Site,
    Tensors,
    caller,
    hosting,
    refused,
)
from tests.fx_processes import AT_ONCE, TOY, Party


@pytest.fixture(scope="module")
def host(prepared: Callable[..., Path], tmp_path_factory) -> Iterator[Host]:
    with hosting(prepared(*TOY, AT_ONCE), tmp_path_factory.mktemp("host")) as found:
        yield found


@pytest.fixture(scope="module")
def site(host) -> Iterator[Site]:
    yield Site(host, "site-1")
    release_learners()


def buckets(sent: Tensors) -> list[TensorKey]:
    return [key for key in sent if key.tags == ("trained",)]


def on_frame(change: Callable[[Any], Any]) -> Callable[[Tensors], None]:
    def alter(sent: Tensors) -> None:
        key = buckets(sent)[0]
        sent[key] = change(sent[key].copy())

    return alter


def on_bucket(change: Callable[[Any], Any]) -> Callable[[Tensors], None]:
    """Other values in a frame whose header and checksums are right."""

    def reframed(frame: Any) -> Any:
        header = read_header(frame)
        values = change(frame[HEADER_BYTES:].view(header.dtype).copy())
        return write_frame(header, values.view(np.uint8), compress=False)

    return on_frame(reframed)


def on_header(**changes: Any) -> Callable[[Tensors], None]:
    def reframed(frame: Any) -> Any:
        header = replace(read_header(frame), **changes)
        return write_frame(header, frame[HEADER_BYTES:], compress=False)

    return on_frame(reframed)


def put(index: int, value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[index] = value
        return array

    return change


def flip(frame: Any) -> Any:
    frame[-1] ^= 1
    return frame


def on(name: str, kind: str, change: Callable[[Any], Any]) -> Callable[[Tensors], None]:
    def alter(sent: Tensors) -> None:
        (key,) = [key for key in sent if key.tensor_name == name and kind in key.tags]
        sent[key] = change(sent[key])

    return alter


def without(kind: str) -> Callable[[Tensors], None]:
    def alter(sent: Tensors) -> None:
        del sent[next(key for key in sent if kind in key.tags)]

    return alter


def extra(name: str, *tags: str, report: bool = False) -> Callable[[Tensors], None]:
    def alter(sent: Tensors) -> None:
        sent[TensorKey(name, "site-1", 0, report, tags)] = np.zeros(() if report else 2)

    return alter


BAD_UPDATES: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "a bucket missing": (without("trained"), "it misses tensor 'bucket-0000'"),
    "a tensor more": (extra("more", "trained"), "it has an unexpected tensor 'more'"),
    "another shape": (
        on_bucket(lambda array: array[:-1]),
        "declares 28 bytes of values, expected 32",
    ),
    "another type": (on_header(dtype="float64"), "frame 1 of 1 holds float64, expected float32"),
    "no frame": (on_frame(lambda frame: frame.view("f4")), "is an array of float32"),
    "half a frame": (on_frame(lambda frame: frame[:-1]), "frame 1 of 1"),
    "a flipped bit": (on_frame(flip), "frame 1 of 1 is damaged"),
    "NaN": (on_bucket(put(0, np.nan)), "frame 1 of 1 brings 1 NaN or infinite of 8 values"),
    "infinity": (on_bucket(put(-1, -np.inf)), "frame 1 of 1 brings 1 NaN or infinite of"),
    "another model": (on_header(reference="a" * 64), "frame 1 of 1 is relative to another model"),
    "another sender": (on_header(sender="site-2"), "frame 1 of 1 was sent by 'site-2'"),
    "another round": (on_header(round=9), "frame 1 of 1 is of round 9, expected round 1"),
    "another codec": (on_header(codec="int4"), "is encoded with int4, expected identity"),
    "no facts": (without("fact"), "its facts are"),
    "no samples": (on("num_samples", "fact", lambda n: n * 0), "num_samples=0, expected at least"),
    "steps backwards": (on("num_steps", "fact", lambda n: -n), "'num_steps' is -5, expected"),
    "endless": (on("seconds", "fact", lambda s: s * np.inf), "'seconds' is inf, expected"),
    "no metric": (without("metric"), "its metrics are [], but the sums are of ['train_loss']"),
    "a metric of many": (on("train_loss", "sums", lambda s: np.ones(3)), "float64(3,), expected"),
    "no count": (on("train_loss", "sums", lambda s: s * [1, np.nan]), "'train_loss' is nan"),
    "for another site": (extra("x", "sums", "site-2"), "unexpected tensor 'x' with tags ['site-2'"),
    "for the model": (extra("bucket-0000", "model"), "unexpected tensor 'bucket-0000' with tags"),
    "reported": (extra("bucket-0000", "trained", report=True), "unexpected tensor 'bucket-0000'"),
}


@pytest.mark.parametrize("name", BAD_UPDATES)
def test_an_update_that_no_learner_has_made(host, site, name) -> None:
    alter, reason = BAD_UPDATES[name]
    assert site.tasks()[1] == [RECEIVED, TRAIN, VALIDATED]
    with pytest.raises(RefusedError, match="update of 'site-1' refused: ") as caught:
        site.do(TRAIN, 0, alter)
    assert reason in str(caught.value)
    host.wait_for("update of 'site-1' refused: ", reason, "Fix the site and restart it")
    assert site.tasks()[1] == [RECEIVED, TRAIN, VALIDATED]


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (without("fact"), "its facts are"),
        (without("sums"), "its metrics are ['mse'], but the sums are of []"),
        (extra("bucket-0000", "trained"), "unexpected tensor 'bucket-0000'"),
        (extra("test_mse", "test", VALIDATED), "unexpected tensor 'test_mse'"),
    ],
)
def test_a_validation_that_no_learner_has_made(host, site, alter, reason) -> None:
    with pytest.raises(RefusedError, match=f"result of 'site-1' for {VALIDATED} refused"):
        # A learner validates what it has trained.
        site.do(VALIDATED, 0, alter)
    host.wait_for(f"result of 'site-1' for {VALIDATED} refused: ", reason)


@pytest.mark.parametrize(
    "int_list", [[], [99], [0, 2**31 - 1, 2**31 - 1], [0] + [1] * 100, [1, 20]]
)
def test_metadata_that_describe_no_array(host, int_list) -> None:
    tensor = base_pb2.NamedTensor(
        name="bucket-0000", tags=("trained",), lossless=True, data_bytes=bytes(84),
        transformer_metadata=[base_pb2.MetadataProto(int_list=int_list)],
    )  # fmt: skip
    code, details = refused(caller(host).send_local_task_results, 0, TRAIN, 1, [tensor])
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "update of 'site-1' refused: tensor 'bucket-0000' is not readable" in details


def test_a_tensor_without_metadata_and_too_many_of_them(host) -> None:
    bare = base_pb2.NamedTensor(name="x" * 300)
    for tensors, reason in (
        ([base_pb2.NamedTensor(name="a")], "tensor 'a' is not readable"),
        ([bare], "a tensor's name has 300 letters"),
        ([bare] * 2001, "2001 tensors, expected at most 2000"),
    ):
        _, details = refused(caller(host).send_local_task_results, 0, TRAIN, 1, tensors)
        assert f"update of 'site-1' refused: {reason}" in details
    _, details = refused(caller(host).send_local_task_results, 0, TRAIN, -1, [])
    assert "data_size=-1, expected at least 1" in details


@pytest.mark.parametrize(
    ("task", "round_"),
    [("../../x", 0), (TRAIN, 1), (TRAIN, -1), ("final_model_validation", 0), ("x" * 10_000, 0)],
)
def test_a_task_that_is_not_at_hand(host, task, round_) -> None:
    before = sorted(host.out.rglob("*.safetensors"))
    code, details = refused(caller(host).send_local_task_results, round_, task, 1, [])
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    said = f"for {task[:80]!r} of round {round_ + 1} refused: expected a task of round 1"
    assert said in details
    host.wait_for("result of 'site-1'", said)
    assert sorted(host.out.rglob("*.safetensors")) == before


def test_refused_updates_leave_nothing_behind(host) -> None:
    def resident() -> int:
        status = Path(f"/proc/{host.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line)

    tensor = base_pb2.NamedTensor(
        name="bucket-0000", tags=("trained",), data_bytes=bytes(12_000_000),
        transformer_metadata=[base_pb2.MetadataProto(int_list=[0, 3_000_000])],
    )  # fmt: skip
    client = caller(host)

    def send(times: int) -> int:
        for _ in range(times):
            refused(client.send_local_task_results, 0, TRAIN, 1, [tensor])
            refused(client.send_local_task_results, 0, "x", 1, [tensor])
        return resident()

    assert send(20) - send(5) < 50_000


# The end: nothing of all this has left a trace in the model.


def test_the_same_result_twice_is_taken_once(host, site) -> None:
    assert site.tasks() == (0, [RECEIVED, TRAIN, VALIDATED])
    site.do(RECEIVED, 0)
    site.do(RECEIVED, 0, on("mse", "sums", lambda sums: sums * 2))
    host.wait_for(f"Result of 'site-1' for {RECEIVED} of round 1 is not awaited: ignored")
    assert site.tasks() == (0, [TRAIN, VALIDATED])


def own_metric(sent: Tensors) -> None:
    """One without samples, so that the record of the run does not show it."""
    sent[TensorKey("own", "site-1", 0, True, ("metric", VALIDATED))] = np.array(np.nan)
    sent[TensorKey("own", "site-1", 0, False, ("sums", VALIDATED))] = np.zeros(2)


def hundredfold(model: Any) -> Callable[[Any], Any]:
    return lambda array: model + 100 * (array - model)


def test_updates_out_of_proportion_then_the_digest_of_the_undisturbed_run(host, site) -> None:
    def served() -> Any:
        return pack(load_state(site.folder / "local_state" / "site-1" / "global.safetensors"))[0]

    refusal = "update of 'site-1' refused: its norm"
    # In a first round nobody knows what is in proportion until all are there: it is the first ...
    site.do(RECEIVED, 0)
    site.do(TRAIN, 0, on_bucket(hundredfold(served())))
    site.do(VALIDATED, 0)
    assert site.tasks() == (0, [])
    with host.start("site-2") as other:
        host.wait_for(refusal)
        with pytest.raises(RefusedError, match=refusal):
            site.tasks()
        # ... and then the last to arrive.
        assert site.tasks() == (0, [TRAIN, VALIDATED])
        before = host.told(refusal)
        site.do(TRAIN, 0, on_bucket(hundredfold(served())))
        site.do(VALIDATED, 0)
        assert host.told(refusal) == before + 1
        with pytest.raises(RefusedError, match=refusal):
            site.tasks()
        assert other.running
        site.do(TRAIN, 0)
        # A metric that no other site has, such as one of labels that only this site knows.
        site.do(VALIDATED, 0, own_metric)
        # In a later round the round before tells, so it is refused at once.
        assert site.tasks() == (1, [RECEIVED, TRAIN, VALIDATED])
        for alter, reason in (
            (on_bucket(hundredfold(served())), refusal),
            (on_bucket(put(0, np.nan)), "brings 1 NaN or infinite of 8 values"),
        ):
            with pytest.raises(RefusedError, match=reason):
                site.do(TRAIN, 1, alter)
        # What a site sends again of a round that is over is no fault.
        caller(host).send_local_task_results(0, TRAIN, 1, [])
        host.wait_for(f"Result of 'site-1' for {TRAIN} of round 1 is not awaited: ignored")
        with host.start("site-1") as itself:
            assert (itself.wait(), other.wait()) == (0, 0)
    host.assert_ends_as_undisturbed()
    status = json.loads((host.out / "aggregator" / "local_state" / "status.json").read_text())
    assert status["sites"]["site-1"]["refused"] is None


def test_who_missed_that_the_end_came_may_send_again(host) -> None:
    """The federation has ended; the aggregator is killed before the site hears of it."""
    rounds = read_workspace(host.out / "site-1").config["federation"]["rounds"]
    with Party(host.out / "aggregator", "aggregator", "start") as again:
        grpc.channel_ready_future((client := caller(host)).channel).result(timeout=60)
        client.send_local_task_results(rounds, FINAL, 1, [])
        host.wait_for(f"Result of 'site-1' for {FINAL} of round {rounds + 1} is not awaited")
        assert again.running
    assert not host.told("Traceback")
