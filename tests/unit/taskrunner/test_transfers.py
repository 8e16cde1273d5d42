"""A transfer that moves goes on, however slowly; one that has stopped is told, and waited for."""

import contextlib
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openfl.protocols import aggregator_pb2, aggregator_pb2_grpc, base_pb2
from openfl.transport.grpc import common
from openfl.transport.grpc.aggregator_client import AggregatorGRPCClient
from openfl.transport.grpc.common import create_grpc_server, create_header

from openfl_flows.ops.link import Link
from openfl_flows.pki.authority import create_authority, issue
from openfl_flows.pki.party import CHAIN
from openfl_flows.pki.plan import Party
from openfl_flows.taskrunner import keepalive
from openfl_flows.taskrunner.collaborator import PIECE_BYTES, PatientClient
from openfl_flows.taskrunner.namespaces import ADDRESS
from openfl_flows.taskrunner.narrow import proxied
from openfl_flows.taskrunner.transfers import UPLOAD_BYTES, Moved, Transfers, tcp_bytes

AGGREGATOR = Party(role="aggregator", name=ADDRESS)
SITE = Party(role="collaborator", name="site-1")


class Sink(aggregator_pb2_grpc.AggregatorServicer):
    """Takes uploads and gives a tensor; halts in both while it is told to."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.go = threading.Event()
        self.go.set()
        self.uploads: list[tuple[int, int, int]] = []

    def SendLocalTaskResults(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.go.wait(60)
        sizes = [len(chunk.npbytes) for chunk in request]
        said = int(dict(context.invocation_metadata())[UPLOAD_BYTES])
        self.uploads.append((said, sum(sizes), max(sizes, default=0)))
        header = create_header("aggregator", "site-1", "f", "")
        return aggregator_pb2.SendLocalTaskResultsResponse(header=header)

    def GetAggregatedTensor(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.go.wait(60)
        return aggregator_pb2.GetAggregatedTensorResponse(
            header=create_header("aggregator", "site-1", "f", ""), tensor=tensor(self.size)
        )


def tensor(size: int) -> Any:
    return base_pb2.NamedTensor(name="t", data_bytes=bytes(size))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("parties")
    create_authority(folder / "ca")
    for party in (AGGREGATOR, SITE):
        issue(folder / "ca", folder, party)
    return folder


@pytest.fixture
def meeting(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., contextlib.AbstractContextManager[tuple[PatientClient, Transfers]]]:
    """``meeting(sink, link)``: OpenFL's client and server under mTLS, over a narrow link."""
    options = [*common.DEFAULT_CHANNEL_OPTIONS, *keepalive.OPTIONS]
    monkeypatch.setattr(common, "DEFAULT_CHANNEL_OPTIONS", options)

    @contextlib.contextmanager
    def meet(
        sink: Sink, link: Link, **settings: float
    ) -> Iterator[tuple[PatientClient, Transfers]]:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        files = {p: [str(p.file(folder, x)) for x in (".key", ".crt")] for p in (AGGREGATOR, SITE)}
        server = create_grpc_server(
            f"127.0.0.1:{port}", True, *files[AGGREGATOR], str(folder / CHAIN), True
        )
        aggregator_pb2_grpc.add_AggregatorServicer_to_server(sink, server)
        server.start()

        def enter(_: Path, __: object, environment: Any) -> Any:
            monkeypatch.setenv("grpc_proxy", environment["grpc_proxy"])

        with proxied(["site-1"], {"site-1": link}, port) as hosts:
            hosts.launching(enter)(Path("site-1"), [], {})
            key, certificate = files[SITE]
            transfers = Transfers("site-1", port=port, **settings)
            client = AggregatorGRPCClient(
                ADDRESS, port, "aggregator", "f", "site-1", root_certificate=str(folder / CHAIN),
                certificate=certificate, private_key=key, resend_data_on_reconnection=False,
                client_reconnect_interval=0.05,
            )  # fmt: skip
            try:
                yield PatientClient(client, None, transfers), transfers
            finally:
                sink.go.set()
                client.disconnect()
                server.stop(0).wait()

    return meet


def download(client: PatientClient) -> Any:
    return client.get_aggregated_tensor("t", 0, False, ("model",), True)


def wait(reached: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < end, "what the test waits for did not come"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("size", "bits"),
    [
        (700_000, 2e6),
        # Of 4 MB, what is in the buffers of the sender takes longer than a minute, gRPC's own
        # patience with an answer.
        pytest.param(4_000_000, 256e3, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_a_slow_transfer_is_not_cut_off(
    meeting: Any, caplog: pytest.LogCaptureFixture, size: int, bits: float
) -> None:
    caplog.set_level(logging.INFO)
    sink = Sink(size)
    narrow = Link(up_bits=bits, down_bits=bits)
    with meeting(sink, narrow, stall_seconds=2, report_seconds=0.5) as (client, transfers):
        transfers.expect(1)
        client.send_local_task_results(0, "train", 1, [tensor(size)])
        assert len(download(client).data_bytes) == size
        moved = transfers.take()
    # One upload, in pieces, and as large as it said.
    ((said, came, largest),) = sink.uploads
    assert size < said < came < size + 200
    assert largest <= PIECE_BYTES
    assert said == moved.bytes_up == moved.bytes_down
    assert transfers.take() == Moved()
    least = size * 8 / bits
    for seconds in (moved.upload_seconds, moved.download_seconds):
        assert 0.9 * least < seconds < 1.3 * least + 0.5
    assert "does not answer" not in caplog.text
    assert "has stopped" not in caplog.text
    for words in (
        rf"The upload of 'site-1': \d\.\d+ of {size / 1e6:.1f} MB, 0\.\d+ MB/s",
        r"The download of 'site-1', tensor 1 of 1: \d\.\d+ MB, 0\.\d+ MB/s",
    ):
        assert re.search(words, caplog.text)


def test_what_has_stopped_is_told_with_its_site_and_bytes_and_waited_for(
    meeting: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Sink(1000)
    wide = Link(up_bits=1e9, down_bits=1e9)
    with meeting(sink, wide, stall_seconds=0.3) as (client, transfers):
        for way, call in (
            ("upload", lambda: client.send_local_task_results(0, "t", 1, [tensor(5_000_000)])),
            ("download", lambda: download(client)),
        ):
            caplog.clear()
            sink.go.clear()
            calling = threading.Thread(target=call)
            calling.start()
            wait(lambda: len(caplog.messages) >= 2)
            assert calling.is_alive()
            sink.go.set()
            calling.join(20)
            assert not calling.is_alive()
            assert re.match(rf"The {way} of 'site-1'.* has stopped: \d\.\d", caplog.messages[0])
            assert "for 0 s. It is waited for" in caplog.messages[0]
        assert transfers.take().bytes_up > 5_000_000


def test_the_system_counts_what_goes_to_a_port_and_comes_from_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0] as other:
            client.sendall(bytes(1000))
            assert len(other.recv(1000, socket.MSG_WAITALL)) == 1000
            other.sendall(bytes(500))
            assert len(client.recv(500, socket.MSG_WAITALL)) == 500
            # A SYN counts as a byte.
            wait(lambda: tcp_bytes(port)[0] >= 1000)
            assert tcp_bytes(port) in ((1000, 500), (1001, 500))
