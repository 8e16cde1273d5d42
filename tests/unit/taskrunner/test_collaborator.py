"""A site's patience over real gRPC: it waits for who is away, and stops where it is refused."""

import contextlib
import datetime as dt
import logging
import math
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from openfl.protocols import aggregator_pb2, aggregator_pb2_grpc
from openfl.transport.grpc.aggregator_client import AggregatorGRPCClient
from openfl.transport.grpc.common import create_grpc_server, create_header

from openfl_flows.pki.authority import create_authority, issue, sign
from openfl_flows.pki.certificates import key_pem, new_key
from openfl_flows.pki.party import CHAIN
from openfl_flows.pki.plan import Party
from openfl_flows.taskrunner.collaborator import PatientClient, RefusedError, certificate_finding

AGGREGATOR = Party(role="aggregator", name="localhost")
ELSEWHERE = Party(role="aggregator", name="127.0.0.1")
SITE = Party(role="collaborator", name="site-1")
POSER = Party(role="collaborator", name="localhost")


class Answers(aggregator_pb2_grpc.AggregatorServicer):
    """An aggregator that answers pings, or first refuses some of them with a status."""

    def __init__(
        self,
        status: grpc.StatusCode | None = None,
        federation: str = "f",
        details: str = "Exception calling application: because",
        times: float = math.inf,
    ) -> None:
        self.status, self.federation = status, federation
        self.details, self.left = details, times

    def Ping(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.left -= 1
        if self.status is not None and self.left >= 0:
            context.abort(self.status, self.details)
        header = create_header("aggregator", request.header.sender, self.federation, "")
        return aggregator_pb2.PingResponse(header=header)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Workspaces of one authority, and of another."""
    folder = tmp_path_factory.mktemp("parties")
    for name in ("ours", "other"):
        create_authority(folder / f"{name}-ca")
        for party in (AGGREGATOR, ELSEWHERE, SITE, POSER):
            issue(folder / f"{name}-ca", folder / name, party)
    return {name: folder / name for name in ("ours", "other")}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(
    folder: Path, port: int, party: Party = AGGREGATOR, answers: Answers | None = None
) -> Iterator[None]:
    key, certificate = (str(party.file(folder, suffix)) for suffix in (".key", ".crt"))
    server = create_grpc_server(
        f"127.0.0.1:{port}", True, key, certificate, str(folder / CHAIN), True
    )
    aggregator_pb2_grpc.add_AggregatorServicer_to_server(answers or Answers(), server)
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()


def patient(folder: Path, port: int, finding: str | None = None) -> PatientClient:
    key, certificate = (str(SITE.file(folder, suffix)) for suffix in (".key", ".crt"))
    return PatientClient(
        AggregatorGRPCClient(
            "localhost", port, "aggregator", "f", "site-1",
            root_certificate=str(folder / CHAIN), certificate=certificate, private_key=key,
            resend_data_on_reconnection=False, client_reconnect_interval=0.05,
        ),
        finding,
    )  # fmt: skip


@pytest.fixture
def port() -> int:
    return free_port()


def test_it_waits_for_an_aggregator_that_is_away_and_says_when_it_is_back(
    folders, port, caplog
) -> None:
    caplog.set_level(logging.WARNING)
    client = patient(folders["ours"], port)
    for _ in range(2):
        caplog.clear()
        calling = threading.Thread(target=client.ping)
        calling.start()
        calling.join(0.4)
        assert calling.is_alive()
        with serving(folders["ours"], port):
            calling.join(20)
            assert not calling.is_alive()
        away, back = caplog.messages
        assert f"The aggregator at localhost:{port} does not answer" in away
        assert f"The aggregator at localhost:{port} is back" in back


@pytest.mark.parametrize(
    "status",
    [
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNKNOWN,
    ],
)
def test_a_refusal_ends_it(folders, port, status) -> None:
    with (
        serving(folders["ours"], port, answers=Answers(status)),
        pytest.raises(RefusedError, match=f"^Refused by the aggregator at localhost:{port}: becau"),
    ):
        patient(folders["ours"], port).ping()


@pytest.mark.parametrize("status", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
def test_what_a_lost_stream_or_a_proxy_says_is_waited_out(folders, port, status) -> None:
    answers = Answers(status, details="Received RST_STREAM with error code 2", times=2)
    with serving(folders["ours"], port, answers=answers):
        patient(folders["ours"], port).ping()
    assert answers.left == -1


def test_an_aggregator_of_another_federation_ends_it(folders, port) -> None:
    with (
        serving(folders["ours"], port, answers=Answers(federation="g")),
        pytest.raises(RefusedError, match="is another aggregator: .*Expected: f, Actual: g"),
    ):
        patient(folders["ours"], port).ping()


@pytest.mark.parametrize(
    ("whose", "party", "reason"),
    [
        ("other", AGGREGATOR, "not of this federation's CA"),
        ("ours", POSER, "or not one of an aggregator"),
        ("ours", ELSEWHERE, "its certificate is of another address"),
    ],
)
def test_who_poses_as_the_aggregator_ends_it(folders, port, whose, party, reason) -> None:
    with (
        serving(folders[whose], port, party),
        pytest.raises(RefusedError, match=f"localhost:{port} is not the aggregator: .*{reason}"),
    ):
        patient(folders["ours"], port).ping()


def test_who_does_not_speak_tls_ends_it(folders) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(RefusedError, match="it does not speak TLS"):
            patient(folders["ours"], server.getsockname()[1]).ping()


def stranger(folders: dict[str, Path], folder: Path) -> Path:
    """Trusts our authority, but is certified by the other."""
    for suffix in (".key", ".crt"):
        SITE.file(folder, suffix).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SITE.file(folders["other"], suffix), SITE.file(folder, suffix))
    shutil.copy(folders["ours"] / CHAIN, folder / CHAIN)
    return folder


def test_a_site_that_is_hung_up_on_says_what_is_wrong_with_its_certificate(
    folders, port, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(stranger(folders, tmp_path))
    finding = certificate_finding("site-1")
    assert finding is not None
    with (
        serving(folders["ours"], port),
        pytest.raises(RefusedError, match="does not chain up to a trusted root"),
    ):
        patient(tmp_path, port, finding).ping()


def test_a_site_that_is_hung_up_on_for_no_known_reason_names_the_likely_ones_and_goes_on(
    folders, port, tmp_path, caplog
) -> None:
    client = patient(stranger(folders, tmp_path), port)
    calling = threading.Thread(target=client.ping, daemon=True)
    with serving(folders["ours"], port):
        calling.start()
        calling.join(1)
        assert calling.is_alive()
    away, causes = caplog.messages
    assert "does not answer" in away
    assert "does the aggregator trust its CA? are both clocks right?" in causes
    # An aggregator that takes it, as after a change of what it trusts.
    (tmp_path / "aggregator" / "cert").mkdir(parents=True)
    shutil.copytree(folders["ours"] / "cert", tmp_path / "aggregator" / "cert", dirs_exist_ok=True)
    shutil.copy(folders["other"] / CHAIN, tmp_path / "aggregator" / CHAIN)
    with serving(tmp_path / "aggregator", port):
        calling.join(20)
        assert not calling.is_alive()


DAY = dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("days_ago", "words", "stops"),
    [
        (0, None, False),
        (25, "expected 7 more days: replace it", False),
        (40, "expected a valid one", True),
        (-2, "expected a valid one", True),
    ],
)
def test_a_certificate_that_ends_soon_is_told_and_one_that_is_over_is_a_reason(
    tmp_path, monkeypatch, caplog, days_ago, words, stops
) -> None:
    now = dt.datetime.now(dt.UTC)
    create_authority(tmp_path / "ca", start=now - 50 * DAY)
    issue(tmp_path / "ca", tmp_path, SITE)
    key = new_key()
    certificate = sign(tmp_path / "ca", SITE, key.public_key(), start=now - days_ago * DAY)
    SITE.file(tmp_path, ".key").write_bytes(key_pem(key))
    SITE.file(tmp_path, ".crt").write_bytes(certificate)
    monkeypatch.chdir(tmp_path)
    assert (certificate_finding("site-1") is not None) == stops
    assert [words in message for message in caplog.messages] == ([True] if words else [])


def test_a_certificate_that_is_missing_is_an_error(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"col_site-1\.crt: no such file"):
        certificate_finding("site-1")
