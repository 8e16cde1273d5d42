"""Hosts of their own on one machine: network namespaces of Linux, joined by links of a given width.

The aggregator is one host, every site another; a virtual Ethernet cable joins each site to the
aggregator, with a token bucket of ``tc`` (``tbf``) at both ends, and ``netem`` for latency. What a
bucket holds back waits in a queue of 150 ms, as in a router that is set up well: behind a longer
one whoever asks whether the other side is there would be answered too late.

The namespaces have no name. They are held by open files of this process and by the processes in
them, and are gone, with cables and all, once these have ended, however they do.
"""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from openfl_flows.ops.link import Link
from openfl_flows.taskrunner.parties import Environment, Launch, Process

ADDRESS = "198.18.0.1"
"""The aggregator's: one of the networks that RFC 2544 sets aside for measuring links."""

QUEUE_SECONDS = 0.15
LEAST_BURST = 16_000
"""Bytes that pass at once: ten packets, and more on links whose timer ticks are long."""
TICK_SECONDS = 0.001

_CLONE_NEWNET = 0x40000000
_MOST_SITES = 60_000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network of its own; gone when it is closed and no process is in it any more.

    Raises:
        OSError: The machine does not allow it.
    """

    def __init__(self) -> None:
        with _returning():
            _call("unshare", _CLONE_NEWNET)
            self._file = os.open(_here(), os.O_RDONLY | os.O_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        self.command("ip", "link", "set", "lo", "up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread in the namespace, and what it starts."""
        with _returning():
            _call("setns", self._file, _CLONE_NEWNET)
            yield

    def command(self, *words: str) -> str:
        """Run a command in the namespace; return what it writes.

        Raises:
            OSError: It failed, or there is no such command; the message has its last line.
        """
        with self.entered():
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def close(self) -> None:
        """Let go of it."""
        os.close(self._file)


class Namespaces:
    """Hosts for an aggregator and its sites, and the cables between them.

    Args:
        sites: Names of the sites.
        links: How wide the cables are; those of other sites are as fast as the machine.

    Attributes:
        aggregator: The aggregator's host.
        sites: The sites' hosts.

    Raises:
        OSError: The machine does not allow it; nothing is left behind.
    """

    how = "network namespaces"

    def __init__(self, sites: Sequence[str], links: Mapping[str, Link]) -> None:
        if not (shutil.which("ip") and shutil.which("tc")) or len(sites) > _MOST_SITES:
            raise OSError("ip and tc are needed, and at most 60,000 sites")
        self._opened = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            self.aggregator = opening.enter_context(contextlib.closing(Namespace()))
            self.sites: dict[str, Namespace] = {}
            for number, site in enumerate(sites, start=2):
                host = opening.enter_context(contextlib.closing(Namespace()))
                self.sites[site] = host
                self._join(host, number, links.get(site))
            self._devices = {site: f"site{n}" for n, site in enumerate(sites, start=2)}
            self._opened = opening.pop_all()

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of all hosts."""
        self._opened.close()

    def launching(self, launch: Launch) -> Launch:
        """A launch that starts each party, whose folder has its name, on its own host."""

        def launch_there(
            folder: Path, arguments: Sequence[str], environment: Environment
        ) -> Process:
            with self.sites.get(folder.name, self.aggregator).entered():
                return launch(folder, arguments, environment)

        return launch_there

    def moved(self) -> dict[str, dict[str, int]]:
        """Bytes by site and direction that have left the cables' ends, with all headers."""
        heads = _counters(self.aggregator)
        return {
            site: {"up": heads[device]["rx"], "down": heads[device]["tx"]}
            for site, device in self._devices.items()
        }

    def plug(self, site: str, *, connected: bool) -> None:
        """Pull a site's cable out, or put it back."""
        self.aggregator.command(
            "ip", "link", "set", self._devices[site], "up" if connected else "down"
        )

    def _join(self, host: Namespace, number: int, link: Link | None) -> None:
        own, device = f"198.18.{number // 256}.{number % 256}", f"site{number}"
        hub = self.aggregator
        hub.command(
            "ip", "link", "add", device, "type", "veth",
            "peer", "name", "uplink", "netns", host.path,
        )  # fmt: skip
        hub.command("ip", "address", "add", ADDRESS, "peer", own, "dev", device)
        host.command("ip", "address", "add", own, "peer", ADDRESS, "dev", "uplink")
        if link is not None:
            _narrow(host, "uplink", link.up_bits, link.latency_seconds)
            _narrow(hub, device, link.down_bits, link.latency_seconds)
        hub.command("ip", "link", "set", device, "up")
        host.command("ip", "link", "set", "uplink", "up")


def _narrow(host: Namespace, device: str, bits: float, latency_seconds: float) -> None:
    burst = max(LEAST_BURST, int(bits / 8 * TICK_SECONDS))
    add = ("tc", "qdisc", "add", "dev", device)
    host.command(
        *add, "root", "handle", "1:", "tbf", "rate", f"{bits:.0f}bit",
        "burst", f"{burst}", "limit", f"{burst + int(bits / 8 * QUEUE_SECONDS)}",
    )  # fmt: skip
    if latency_seconds:
        # All that is on its way at a time, in packets.
        packets = int(bits / 8 * (latency_seconds + QUEUE_SECONDS) / 500) + 100
        host.command(
            *add, "parent", "1:1", "handle", "10:", "netem",
            "delay", f"{latency_seconds * 1e6:.0f}us", "limit", f"{packets}",
        )  # fmt: skip


def _counters(host: Namespace) -> dict[str, dict[str, int]]:
    listed: list[dict[str, Any]] = json.loads(host.command("ip", "-json", "-stats", "link", "show"))
    return {
        row["ifname"]: {way: row["stats64"][way]["bytes"] for way in ("rx", "tx")} for row in listed
    }


@contextlib.contextmanager
def _returning() -> Iterator[None]:
    """Have this thread in the end in the namespace in which it is now."""
    before = os.open(_here(), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
    finally:
        _call("setns", before, _CLONE_NEWNET)
        os.close(before)


def _here() -> str:
    return "/proc/thread-self/ns/net"


def _call(name: str, *arguments: int) -> None:
    function = getattr(_libc, name, None)
    if function is None:
        raise OSError(f"no {name} on this system")
    if function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
