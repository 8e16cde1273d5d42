"""A narrowed link is as wide as it was asked to be, both ways, and nothing is left of it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openfl_flows.ops.link import Link
from openfl_flows.taskrunner.namespaces import ADDRESS, Namespace, Namespaces
from openfl_flows.taskrunner.narrow import as_hosts, narrowed, proxied
from openfl_flows.taskrunner.parties import Environment

LINK = Link(up_bits=8e6, down_bits=16e6)
WITHIN = 0.05


def allowed() -> bool:
    try:
        with Namespaces(["site-1"], {"site-1": LINK}):
            return True
    except OSError:
        return False


NAMESPACES = pytest.mark.skipif(not allowed(), reason="needs root, ip and tc")


def received(connection: socket.socket) -> float:
    """Seconds from the first to the last byte."""
    connection.settimeout(60)
    began = time.monotonic() if connection.recv(1) else 0.0
    while connection.recv(2**16):
        pass
    return time.monotonic() - began


def seconds_of(sender: socket.socket, receiver: socket.socket, count: int) -> float:
    found: list[float] = []
    reading = threading.Thread(target=lambda: found.append(received(receiver)))
    reading.start()
    sender.sendall(bytes(count))
    sender.shutdown(socket.SHUT_WR)
    reading.join()
    return found[0]


def takes_its_time(ratio: Callable[[], float]) -> None:
    """No transfer is faster than its link; of some, the quickest is hardly slower.

    A processor that is busy with something else makes a transfer longer.

    Args:
        ratio: Makes a transfer and gives its seconds in those that it should take.
    """
    ratios: list[float] = []
    while not ratios or (min(ratios) > 1 + WITHIN and len(ratios) < 5):
        ratios.append(ratio())
    assert min(ratios) == pytest.approx(1, rel=WITHIN), ratios


@contextlib.contextmanager
def connected_hosts(hosts: Namespaces, site: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from a site to the aggregator: the ends at both."""
    with hosts.aggregator.entered():
        server = socket.create_server((ADDRESS, 0))
    with hosts.sites[site].entered():
        client = socket.create_connection(server.getsockname(), timeout=10)
    accepted, _ = server.accept()
    with server, client, accepted:
        yield client, accepted


@NAMESPACES
def test_a_bulk_transfer_between_hosts_takes_bytes_over_bandwidth() -> None:
    hosts = Namespaces(["site-1", "site-2"], {"site-1": LINK})
    with hosts:
        for way, count in (("up", 1_500_000), ("down", 3_000_000)):
            bits = LINK.up_bits if way == "up" else LINK.down_bits

            def ratio(way: str = way, count: int = count, bits: float = bits) -> float:
                with connected_hosts(hosts, "site-1") as ends:
                    before = hosts.moved()["site-1"]
                    seconds = seconds_of(*(ends if way == "up" else reversed(ends)), count)  # type: ignore[misc]
                    moved = hosts.moved()["site-1"][way] - before[way]
                assert count < moved < 1.06 * count
                return seconds / (moved * 8 / bits)

            takes_its_time(ratio)
        # The other site has no link of its own, and is on the same aggregator.
        with connected_hosts(hosts, "site-2") as ends:
            assert seconds_of(*ends, 3_000_000) < 0.5


@NAMESPACES
def test_hosts_are_gone_when_nobody_is_on_them(tmp_path: Path) -> None:
    def count() -> int:
        links = Path("/proc").glob("[0-9]*/ns/net")
        found = set()
        for link in links:
            with contextlib.suppress(OSError):
                found.add(os.readlink(link))
        return len(found)

    before, names = count(), os.listdir("/run/netns") if Path("/run/netns").is_dir() else []
    devices = socket.if_nameindex()
    code = (
        "import sys, subprocess; from pathlib import Path\n"
        "from openfl_flows.taskrunner.narrow import as_hosts\n"
        "from openfl_flows.ops.link import parse_link\n"
        "from openfl_flows.ops.parent import end_with_parent\n"
        "def launch(folder, arguments, environment):\n"
        "    return subprocess.Popen(['sleep', '600'], preexec_fn=end_with_parent)\n"
        "with as_hosts(['a'], {'a': parse_link('1mbit')}, 1) as hosts:\n"
        "    [hosts.launching(launch)(Path(f), [], {}) for f in ('aggregator', 'a')]\n"
        "    print('there', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        assert count() == before + 2
        assert socket.if_nameindex() == devices
        process.kill()
    end = time.monotonic() + 10
    while count() != before:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert names == (os.listdir("/run/netns") if Path("/run/netns").is_dir() else [])


@NAMESPACES
def test_a_command_that_fails_says_which(capfd: pytest.CaptureFixture[str]) -> None:
    host = Namespace()
    with contextlib.closing(host), pytest.raises(OSError, match="^ip link set nothing up: "):
        host.command("ip", "link", "set", "nothing", "up")
    assert capfd.readouterr() == ("", "")


@contextlib.contextmanager
def connected_proxy(
    link: Link, tmp_path: Path
) -> Iterator[tuple[socket.socket, socket.socket, Path]]:
    """A connection from a site through its proxy: the ends at both, and the record."""
    found: dict[str, Environment] = {}

    def launch(folder: Path, arguments: object, environment: Environment) -> None:
        found[folder.name] = environment

    with socket.create_server(("127.0.0.1", 0)) as server:
        port, record = server.getsockname()[1], tmp_path / "link.json"
        with narrowed(
            ["site-1", "site-2"], {"site-1": link},
            port=port, record=record, launch=launch, make=proxied,  # type: ignore[arg-type]
        ) as launch_there:  # fmt: skip
            for name in ("aggregator", "site-1"):
                launch_there(tmp_path / name, [], {"OMP_NUM_THREADS": "1"})
            assert found["aggregator"] == {"OMP_NUM_THREADS": "1"}
            _, _, proxy = found["site-1"]["grpc_proxy"].rpartition(":")
            with socket.create_connection(("127.0.0.1", int(proxy)), timeout=10) as client:
                client.sendall(f"CONNECT {ADDRESS}:{port} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
                accepted, _ = server.accept()
                with accepted:
                    yield client, accepted, record


@pytest.mark.parametrize(("way", "count"), [("up", 1_500_000), ("down", 3_000_000)])
def test_a_bulk_transfer_through_a_proxy_takes_bytes_over_bandwidth(
    way: str, count: int, tmp_path: Path
) -> None:
    bits = LINK.up_bits if way == "up" else LINK.down_bits
    transfers = 0

    def ratio() -> float:
        nonlocal transfers
        transfers += 1
        with connected_proxy(LINK, tmp_path) as (client, accepted, _):
            ends = (client, accepted) if way == "up" else (accepted, client)
            return seconds_of(*ends, count) / (count * 8 / bits)

    takes_its_time(ratio)
    found = json.loads((tmp_path / "link.json").read_text())
    assert found["how"] == "proxies"
    assert found["bytes"]["site-1"][way] == transfers * count
    assert found["bytes"]["site-2"] == {"up": 0, "down": 0}
    assert found["links"] == {"site-1": {"up_bits": 8e6, "down_bits": 16e6, "latency_seconds": 0.0}}


def test_the_record_adds_up_over_starts(tmp_path: Path) -> None:
    for start in (1, 2):
        with connected_proxy(LINK, tmp_path) as (client, accepted, record):
            client.sendall(bytes(1000))
            assert len(accepted.recv(1000, socket.MSG_WAITALL)) == 1000
        assert json.loads(record.read_text())["bytes"]["site-1"]["up"] == 1000 * start


def test_latency_is_one_way_and_costs_no_bandwidth(tmp_path: Path) -> None:
    link = Link(up_bits=8e6, down_bits=8e6, latency_seconds=0.1)

    def ratio() -> float:
        with connected_proxy(link, tmp_path) as (client, accepted, _):
            began = time.monotonic()
            client.sendall(b"?")
            accepted.recv(1)
            assert 0.1 <= time.monotonic() - began < 1
            return seconds_of(client, accepted, 1_000_000)

    takes_its_time(ratio)


def test_a_proxy_leads_to_the_aggregator_alone(tmp_path: Path) -> None:
    with (
        connected_proxy(LINK, tmp_path) as (client, _, _),
        socket.create_connection(client.getpeername(), timeout=10) as other,
    ):
        other.sendall(b"CONNECT localhost:22 HTTP/1.1\r\n\r\n")
        assert other.recv(1000).startswith(b"HTTP/1.1 403 ")


def test_without_links_parties_start_as_they_are(tmp_path: Path) -> None:
    def launch(*_: object) -> None:
        raise AssertionError

    with narrowed([], {}, port=1, record=tmp_path / "x", launch=launch) as there:  # type: ignore[arg-type]
        assert there is launch
    assert not (tmp_path / "x").exists()


def test_where_hosts_cannot_be_made_there_are_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert as_hosts(["site-1"], {"site-1": LINK}, 1).how == "proxies"
