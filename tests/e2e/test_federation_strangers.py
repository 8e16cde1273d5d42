"""Who does not belong is refused with a reason, and the federation ends as if nobody had come."""

import contextlib
import datetime as dt
import itertools
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from openfl.protocols import base_pb2
from openfl.transport.grpc.aggregator_client import AggregatorGRPCClient
from openfl.transport.grpc.common import create_grpc_server, create_insecure_channel
from openfl.utilities import TensorKey

from openfl_flows.learners.site import release_learners
from openfl_flows.pki.authority import create_authority, issue, sign
from openfl_flows.pki.certificates import key_pem, new_key
from openfl_flows.pki.party import CHAIN
from openfl_flows.pki.plan import Party as Member
from openfl_flows.taskrunner import collaborator as collaborator_module
from openfl_flows.taskrunner.collaborator import Collaborator, PatientClient, RefusedError
from openfl_flows.taskrunner.loader import SiteData
from openfl_flows.taskrunner.pipeline import ExactPipeline
from openfl_flows.taskrunner.runner import LearnerTaskRunner
from openfl_flows.taskrunner.workspace import read_workspace
from tests.e2e.test_federation_faults import assert_same, running
from tests.fx_processes import TOY, Party

AGGREGATOR = Member(role="aggregator", name="localhost")
SITES = ("site-1", "site-2")
SITE, OTHER_SITE, NOBODY = (
    Member(role="collaborator", name=name) for name in (*SITES, "site-3")
)  # fmt: skip
RECEIVED, TRAIN, VALIDATED = (
    "aggregated_model_validation", "train", "locally_tuned_model_validation",
)  # fmt: skip
NOW = dt.datetime.now(dt.UTC)


def messages(log: Path) -> list[str]:
    """Each in one line, as it was before the terminal broke it into several."""
    text = re.sub(r" +\w+\.py:\d+$", "", log.read_text(errors="replace"), flags=re.M)
    return [line.strip() for line in re.sub(r"\s*\n {20,}(?![A-Z]{4,} )", " ", text).splitlines()]


@dataclass(frozen=True)
class Host:
    """A running aggregator that waits for its sites, and what came of an undisturbed one."""

    out: Path
    whole: Path
    process: Party

    @property
    def log(self) -> Path:
        return self.out / "aggregator" / "logs" / "fx.log"

    def told(self, *words: str) -> int:
        """How many messages of the aggregator have all the words."""
        return sum(all(word in message for word in words) for message in messages(self.log))

    def wait_for(self, *words: str) -> None:
        end = time.monotonic() + 20
        while not self.told(*words):
            assert time.monotonic() < end, f"no message has {words}:\n{self.log.read_text()}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def host(prepared: Callable[..., Path], tmp_path_factory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("strangers")
    out, whole = folder / "parties", folder / "whole"
    for copy in (out, whole):
        shutil.copytree(prepared(*TOY), copy, symlinks=True)
    with running(whole) as parties:
        assert [party.wait() for party in parties.values()] == [0, 0, 0]
    aggregator = out / "aggregator"
    with Party(aggregator, "aggregator", "start") as process:
        found = Host(out, whole, process)
        found.wait_for("Starting Aggregator gRPC Server")
        yield found


# Processes: somebody starts `fx collaborator start` in a workspace that is not as it should be.


def certified(out: Path, folder: Path, days_ago: float) -> None:
    """With a certificate of 30 days; to install it, it would have to be good now."""
    key, start = new_key(), NOW - dt.timedelta(days=days_ago)
    SITE.file(folder, ".key").write_bytes(key_pem(key))
    SITE.file(folder, ".crt").write_bytes(sign(out / "ca", SITE, key.public_key(), start=start))


def of_another_authority(out: Path, folder: Path) -> None:
    create_authority(folder.with_name(f"{folder.name}-ca"))
    issue(folder.with_name(f"{folder.name}-ca"), folder, SITE)


def of_another_authority_but_trusting(out: Path, folder: Path) -> None:
    of_another_authority(out, folder)
    shutil.copy(out / "site-1" / CHAIN, folder / CHAIN)


def with_a_servers_certificate(out: Path, folder: Path) -> None:
    for suffix in (".key", ".crt"):
        shutil.copy(AGGREGATOR.file(out / "aggregator", suffix), SITE.file(folder, suffix))


def with_the_certificate_of_another(out: Path, folder: Path) -> None:
    for suffix in (".key", ".crt"):
        shutil.copy(OTHER_SITE.file(out / "site-2", suffix), SITE.file(folder, suffix))


def without_certificate(out: Path, folder: Path) -> None:
    SITE.file(folder, ".crt").unlink()


def changed_plan(*keys: str, value: Any) -> Callable[[Path, Path], None]:
    def change(out: Path, folder: Path) -> None:
        file = folder / "plan" / "plan.yaml"
        plan = yaml.safe_load(file.read_text())
        section = plan
        for key in keys[:-1]:
            section = section[key]
        assert section[keys[-1]] != value
        section[keys[-1]] = value
        file.write_text(yaml.safe_dump(plan, sort_keys=False))

    return change


EXPERIMENT = ("task_runner", "settings", "experiment")
REFUSED_BY = "Refused by the aggregator at localhost:"
# What the process says, and what the aggregator does, each in one line.
WORKSPACES: dict[str, tuple[Callable[[Path, Path], None], tuple[str, ...], tuple[str, ...]]] = {
    "another CA": (
        of_another_authority,
        ("is not the aggregator", "not of this federation's CA"),
        (),
    ),
    "another CA, but trusting ours": (
        of_another_authority_but_trusting,
        (REFUSED_BY, "does not chain up to a trusted root"),
        ("CERTIFICATE_VERIFY_FAILED",),
    ),
    "expired": (
        lambda out, folder: certified(out, folder, 40),
        (REFUSED_BY, "the certificate is valid from", "expected a valid one"),
        ("CERTIFICATE_VERIFY_FAILED",),
    ),
    "not yet valid": (
        lambda out, folder: certified(out, folder, -2),
        (REFUSED_BY, "the certificate is valid from", "expected a valid one"),
        ("CERTIFICATE_VERIFY_FAILED",),
    ),
    "a server's certificate": (
        with_a_servers_certificate,
        (REFUSED_BY, "the certificate has common name 'localhost'"),
        ("CERTIFICATE_VERIFY_FAILED",),
    ),
    "another site's certificate": (
        with_the_certificate_of_another,
        (REFUSED_BY, "CN: |site-2| collaborator_common_name: |site-1|"),
        ("Refused", "a certificate of 'site-2' speaks for 'site-1'"),
    ),
    "no certificate": (without_certificate, ("col_site-1.crt", "No such file"), ()),
    "plain text": (
        changed_plan("network", "settings", "use_tls", value=False),
        ("network.settings.use_tls=false, expected true",),
        (),
    ),
    "no client certificate": (
        changed_plan("network", "settings", "require_client_auth", value=False),
        ("network.settings.require_client_auth=false, expected true",),
        (),
    ),
    "one other number": (
        changed_plan(*EXPERIMENT, "federation", "steps", value=21),
        (REFUSED_BY, "'site-1' has another plan than the aggregator: federation_uuid is"),
        ("Refused", "'site-1' has another plan than the aggregator: federation_uuid is"),
    ),
}


@pytest.fixture(scope="module")
def visitors(host: Host, tmp_path_factory) -> Iterator[dict[str, tuple[Party, Path]]]:
    """All of them at once."""
    folder, started = tmp_path_factory.mktemp("visitors"), {}
    with contextlib.ExitStack() as stack:
        for number, (name, (change, _, _)) in enumerate(WORKSPACES.items()):
            own = folder / f"{number}"
            shutil.copytree(host.out / "site-1", own)
            change(host.out, own)
            command = ("collaborator", "start", "-n", "site-1")
            started[name] = stack.enter_context(Party(own, *command)), own
        yield started


@pytest.mark.parametrize("name", WORKSPACES)
def test_a_workspace_that_is_not_as_it_should_be(host, visitors, name) -> None:
    process, folder = visitors[name]
    _, said, told = WORKSPACES[name]
    began = time.monotonic()
    assert process.wait() not in (0, None)
    assert time.monotonic() - began < 30
    lines = messages(folder / "logs" / "fx.log")
    assert any(all(words in line for words in said) for line in lines), "\n".join(lines)
    if told:
        host.wait_for(*told)


def test_a_site_does_not_follow_one_who_poses_as_the_aggregator(host, tmp_path) -> None:
    impostor, site = tmp_path / "impostor", tmp_path / "site-1"
    # The name is the aggregator's: only what the certificate is for tells it from the true one.
    poser = Member(role="collaborator", name="localhost")
    issue(host.out / "ca", impostor, poser)
    key, certificate = (str(poser.file(impostor, suffix)) for suffix in (".key", ".crt"))
    shutil.copytree(host.out / "site-1", site)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    changed_plan("network", "settings", "agg_port", value=port)(host.out, site)
    server = create_grpc_server(
        f"127.0.0.1:{port}", True, key, certificate, str(impostor / CHAIN), True
    )
    server.start()
    try:
        with Party(site, "collaborator", "start", "-n", "site-1") as process:
            assert process.wait() == 1
    finally:
        server.stop(0).wait()
    said = messages(site / "logs" / "fx.log")
    assert any(f"what answers at localhost:{port} is not the aggregator" in line for line in said)


# Callers: somebody who has a certificate, or none, and writes messages of his own.


def caller(
    host: Host, name: str = "site-1", *, certificate: Path | None = None, **arguments: Any
) -> AggregatorGRPCClient:
    """OpenFL's client with a site's certificate; other arguments make it lie."""
    folder = certificate or host.out / name
    member = Member(role="collaborator", name=name)
    plan = yaml.safe_load((host.out / "site-1" / "plan" / "plan.yaml").read_text())
    whole = read_workspace(host.out / "site-1").hash
    settings = {
        **plan["network"]["settings"],
        "root_certificate": str(folder / CHAIN),
        "certificate": str(member.file(folder, ".crt")),
        "private_key": str(member.file(folder, ".key")),
        "collaborator_name": name,
        "aggregator_uuid": f"aggregator_plan.yaml_{whole[:8]}",
        "federation_uuid": f"plan.yaml_{whole}",
    }
    return AggregatorGRPCClient(**{**settings, **arguments})


def refused(call: Callable[..., Any], *arguments: Any) -> tuple[grpc.StatusCode, str]:
    """How the aggregator refuses a call; a site stops at such an answer."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    code = caught.value.code()
    assert code not in collaborator_module._AWAY
    return code, str(caught.value.details())


def test_no_certificate_at_all(host) -> None:
    client = caller(host, require_client_auth=False)
    with pytest.raises(grpc.RpcError, match="Socket closed"):
        client.get_tasks()
    host.wait_for("PEER_DID_NOT_RETURN_A_CERTIFICATE")


def test_plain_text(host) -> None:
    port = read_workspace(host.out / "site-1").config["network"]["agg_port"]
    with (
        create_insecure_channel(f"localhost:{port}") as channel,
        pytest.raises(grpc.RpcError, match="Socket closed"),
    ):
        channel.unary_unary("/no/method")(b"", timeout=20)
    host.wait_for("WRONG_VERSION_NUMBER")
    with socket.create_connection(("localhost", port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(100) == b""
    host.wait_for("HTTP_REQUEST")


def test_a_name_that_the_plan_has_not(host, tmp_path) -> None:
    issue(host.out / "ca", tmp_path, NOBODY)
    code, details = refused(caller(host, "site-3", certificate=tmp_path).get_tasks)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "site-3" in details
    host.wait_for("Refused: a certificate of 'site-3' speaks for 'site-3', expected its own name")


def test_a_name_that_the_plan_has_not_cannot_keep_others_from_sending(host, tmp_path) -> None:
    issue(host.out / "ca", tmp_path, NOBODY)
    stranger, leave = caller(host, "site-3", certificate=tmp_path), threading.Event()

    def upload() -> Iterator[Any]:
        yield base_pb2.DataStream(npbytes=b"a", size=1)
        leave.wait(60)

    began = time.monotonic()
    code, _ = refused(stranger.stub.SendLocalTaskResults, upload())
    leave.set()
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert time.monotonic() - began < 10


def test_a_site_that_speaks_for_another(host) -> None:
    client = caller(host, "site-1")
    client.collaborator_name = "site-2"
    for call in (client.get_tasks, lambda: client.send_local_task_results(0, TRAIN, 1, [])):
        code, details = refused(call)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "CN: |site-1| collaborator_common_name: |site-2|" in details
    host.wait_for("Refused: a certificate of 'site-1' speaks for 'site-2'")


def test_a_plan_with_the_same_first_digits_of_its_hash(host) -> None:
    whole = read_workspace(host.out / "site-1").hash
    other = f"plan.yaml_{whole[:8]}{whole[:7:-1]}"
    code, details = refused(caller(host, federation_uuid=other).get_tasks)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"'site-1' has another plan than the aggregator: federation_uuid is {other!r}" in details
    host.wait_for("Refused", other)
    patient = PatientClient(caller(host, federation_uuid=other))
    with pytest.raises(RefusedError, match="has another plan than the aggregator"):
        patient.get_tasks()


def test_a_tensor_that_is_not_there(host) -> None:
    began = time.monotonic()
    for name, round_, tags in (
        ("nothing", 0, ("model",)),
        ("bucket-0000", 7, ("model",)),
        ("bucket-0000", 0, ("trained", "site-2")),
        ("x" * 5000, -1, ()),
    ):
        code, details = refused(caller(host).get_aggregated_tensor, name, round_, False, tags, True)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"'site-1' asks for tensor '{name[:80]}'" in details
    assert time.monotonic() - began < 4
    host.wait_for("Refused: 'site-1' asks for tensor 'nothing' of round 1, expected a bucket")


def test_an_upload_that_does_not_end_and_one_that_is_none(host) -> None:
    client = caller(host)
    chunk = base_pb2.DataStream(npbytes=bytes(2**20), size=2**20)
    code, details = refused(client.stub.SendLocalTaskResults, itertools.repeat(chunk))
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN), details
    host.wait_for("upload of 'site-1' refused: it is larger than")
    noise = base_pb2.DataStream(npbytes=b"\xff" * 100, size=100)
    code, details = refused(client.stub.SendLocalTaskResults, iter([noise]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "upload of 'site-1' refused: it is no result of a task" in details


# Results: a site of the federation sends what its learner has not made.


Tensors = dict[TensorKey, Any]


class Site:
    """A site that does its tasks as ever in its own workspace, and alters what it sends."""

    def __init__(self, host: Host, name: str) -> None:
        self.name, self.folder = name, host.out / name
        config = read_workspace(self.folder).config
        short = f"plan.yaml_{read_workspace(self.folder).hash[:8]}"
        names = [RECEIVED, TRAIN, VALIDATED]
        with contextlib.chdir(self.folder):
            self.member = Collaborator(
                collaborator_name=name,
                aggregator_uuid=f"aggregator_{short}",
                federation_uuid=short,
                client=caller(host, name),
                task_runner=LearnerTaskRunner(
                    SiteData(f"data/{name}"),
                    {k: v for k, v in config.items() if k not in ("join", "ema", "network")},
                ),
                task_config={task: {"function": task, "kwargs": {}} for task in names},
                opt_treatment="CONTINUE_LOCAL",
                compression_pipeline=ExactPipeline(),
                callbacks=[],
            )

    def do(
        self, task: str, round_: int, alter: Callable[[Tensors], Any] = lambda sent: None
    ) -> None:
        """Do a task; ``alter`` changes what is sent in place, or returns a weight for it."""
        runner = self.member.task_runner
        made = getattr(type(runner), task)

        def altered(**arguments: Any) -> tuple[Tensors, Tensors]:
            sent, local = made(runner, **arguments)
            alter(sent)
            return sent, local

        setattr(runner, task, altered)
        with contextlib.chdir(self.folder):
            self.member.do_task(task, round_)

    def tasks(self) -> tuple[int, list[str]]:
        """The round at hand, and what is left to do in it."""
        tasks, round_, _, _ = self.member.client.get_tasks()
        return round_, [task.name for task in tasks]


@pytest.fixture(scope="module")
def site(host) -> Iterator[Site]:
    yield Site(host, "site-1")
    release_learners()


def buckets(sent: Tensors) -> list[TensorKey]:
    return [key for key in sent if key.tags == ("trained",)]


def on_bucket(change: Callable[[Any], Any]) -> Callable[[Tensors], None]:
    def alter(sent: Tensors) -> None:
        key = buckets(sent)[0]
        sent[key] = change(sent[key].copy())

    return alter


def put(index: int, value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[index] = value
        return array

    return change


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
    "another shape": (on_bucket(lambda array: array[:-1]), "tensor 'bucket-0000' is float32"),
    "another type": (on_bucket(lambda array: array.astype("f8")), "'bucket-0000' is float64"),
    "NaN": (on_bucket(put(0, np.nan)), "tensor 'bucket-0000' has 1 NaN or infinite of"),
    "infinity": (on_bucket(put(-1, -np.inf)), "tensor 'bucket-0000' has 1 NaN or infinite of"),
    "another model": (
        on("trained_from", "fact", lambda digest: digest[::-1].copy()),
        "it was trained from the model",
    ),
    "another kind of digest": (on("trained_from", "fact", lambda d: d[:3]), "uint8(3,), expected"),
    "no digest": (without("fact"), "its facts are"),
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
    def served(round_: int) -> Any:
        key = TensorKey("bucket-0000", site.member.aggregator_uuid, round_, False, ("model",))
        return site.member.get_data_for_tensorkey(key)

    def norm() -> str:
        return "times that of the others"

    # In a first round nobody knows what is in proportion until all are there: it is the first ...
    site.do(TRAIN, 0, on_bucket(hundredfold(served(0))))
    site.do(VALIDATED, 0)
    assert site.tasks() == (0, [])
    with Party(host.out / "site-2", "collaborator", "start", "-n", "site-2") as b:
        host.wait_for("update of 'site-1' refused: its norm", norm())
        with pytest.raises(RefusedError, match="update of 'site-1' refused: its norm"):
            site.tasks()
        # ... and then the last to arrive.
        assert site.tasks() == (0, [TRAIN, VALIDATED])
        before = host.told("update of 'site-1' refused: its norm")
        site.do(TRAIN, 0, on_bucket(hundredfold(served(0))))
        site.do(VALIDATED, 0)
        assert host.told("update of 'site-1' refused: its norm") == before + 1
        with pytest.raises(RefusedError, match="update of 'site-1' refused: its norm"):
            site.tasks()
        assert b.running
        site.do(TRAIN, 0)
        # A metric that no other site has, such as one of labels that only this site knows.
        site.do(VALIDATED, 0, own_metric)
        # In a later round the round before tells, so it is refused at once.
        assert site.tasks() == (1, [RECEIVED, TRAIN, VALIDATED])
        for alter, reason in (
            (on_bucket(hundredfold(served(1))), norm()),
            (on_bucket(put(0, np.nan)), "NaN"),
        ):
            with pytest.raises(RefusedError, match=reason):
                site.do(TRAIN, 1, alter)
        # What a site sends again of a round that is over is no fault.
        site.do(TRAIN, 0, without("fact"))
        site.member.client.disconnect()
        command = ("collaborator", "start", "-n", "site-1")
        with Party(host.out / "site-1", *command) as a:
            assert (a.wait(), b.wait()) == (0, 0)
    assert host.process.wait() == 0
    assert_same(host.out, host.whole)
    status = json.loads((host.out / "aggregator" / "local_state" / "status.json").read_text())
    assert status["sites"]["site-1"]["refused"] is None
    assert not host.told("Traceback")
