"""Who does not belong is refused with a reason, and the federation ends as if nobody had come."""

import contextlib
import datetime as dt
import itertools
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from openfl.protocols import base_pb2
from openfl.transport.grpc.common import create_grpc_server, create_insecure_channel

from openfl_flows.pki.authority import create_authority, issue, sign
from openfl_flows.pki.certificates import key_pem, new_key
from openfl_flows.pki.party import CHAIN
from openfl_flows.pki.plan import Party as Member
from openfl_flows.taskrunner.collaborator import PatientClient, RefusedError
from openfl_flows.taskrunner.workspace import read_workspace
from tests.federation_host import SITES, TRAIN, Host, caller, hosting, messages, refused
from tests.fx_processes import TOY, Party

AGGREGATOR = Member(role="aggregator", name="localhost")
SITE, OTHER_SITE, NOBODY = (
    Member(role="collaborator", name=name) for name in (*SITES, "site-3")
)  # fmt: skip
NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def host(prepared: Callable[..., Path], tmp_path_factory) -> Iterator[Host]:
    with hosting(prepared(*TOY), tmp_path_factory.mktemp("host")) as found:
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


def test_the_federation_ends_as_if_nobody_had_come(host) -> None:
    with host.start("site-1") as a, host.start("site-2") as b:
        assert (a.wait(), b.wait()) == (0, 0)
    host.assert_ends_as_undisturbed()
