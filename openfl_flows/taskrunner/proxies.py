"""Narrow links where no network namespaces can be made: a proxy for each site, with token buckets.

gRPC takes the way through an HTTP proxy where the environment names one (``grpc_proxy``), and does
TLS with the party behind it: a proxy sees bytes, and lets as many through as the link would.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from openfl_flows.ops.link import Link
from openfl_flows.taskrunner.namespaces import QUEUE_SECONDS
from openfl_flows.taskrunner.parties import Environment, Launch, Process

PIECE_SECONDS = 0.01
"""What a bucket lets through at once."""
SEGMENT = 1448
"""Payload of a packet, as on a real network: on the loopback device it would be 64 KiB."""

_LEAST_BUFFER = 16_384
_LARGEST_PIECE = 65_536
_HEAD = 8192
_UNLIMITED = Link(up_bits=1e12, down_bits=1e12)


class Proxies:
    """A proxy in front of the aggregator for each site, in a thread of this process.

    Args:
        sites: Names of the sites.
        links: How much the proxies let through; those of other sites let all through.
        target: The aggregator as sites know it, ``address:port``.
        port: Where it listens on this machine.
    """

    how = "proxies"

    def __init__(
        self, sites: Sequence[str], links: Mapping[str, Link], *, target: str, port: int
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._proxies = {
            site: _Proxy(links.get(site, _UNLIMITED), target=target, port=port) for site in sites
        }

    def __enter__(self) -> Self:
        """Listen."""
        self._thread.start()
        for proxy in self._proxies.values():
            self._do(proxy.listen())
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        for proxy in self._proxies.values():
            self._do(proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def launching(self, launch: Launch) -> Launch:
        """A launch that sends each site, whose folder has its name, through its own proxy."""

        def launch_there(
            folder: Path, arguments: Sequence[str], environment: Environment
        ) -> Process:
            if proxy := self._proxies.get(folder.name):
                environment = {**environment, "grpc_proxy": f"http://127.0.0.1:{proxy.port}"}
            return launch(folder, arguments, environment)

        return launch_there

    def moved(self) -> dict[str, dict[str, int]]:
        """Bytes by site and direction that came out of the proxies, without TCP's headers."""
        return {
            site: {"up": proxy.up.passed, "down": proxy.down.passed}
            for site, proxy in self._proxies.items()
        }

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _Bucket:
    """One direction of a link, shared by all of a site's connections."""

    def __init__(self, bits: float, latency_seconds: float) -> None:
        self.piece = min(max(SEGMENT, int(bits / 8 * PIECE_SECONDS)), _LARGEST_PIECE)
        self.buffer = max(_LEAST_BUFFER, min(int(bits / 8 * QUEUE_SECONDS), 2**22))
        self.latency_seconds = latency_seconds
        self.passed = 0
        self._seconds_per_byte = 8 / bits
        self._free_at = 0.0

    async def wait(self, count: int) -> None:
        """Wait until ``count`` more bytes have passed."""
        now = asyncio.get_running_loop().time()
        # One piece of unused time is kept, so that what a timer is late by is made up for.
        self._free_at = max(self._free_at, now - PIECE_SECONDS) + count * self._seconds_per_byte
        await asyncio.sleep(max(0.0, self._free_at - now))

    async def pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Carry all that comes from ``source`` to ``sink``, and its end."""
        loop = asyncio.get_running_loop()
        most = int(self.latency_seconds / PIECE_SECONDS) + 2
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(most)

        async def deliver() -> None:
            while True:
                due, piece = await line.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not piece:
                    sink.shutdown(socket.SHUT_WR)
                    return
                self.passed += len(piece)
                await loop.sock_sendall(sink, piece)

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            piece = b"begins"
            while piece:
                piece = await loop.sock_recv(source, self.piece)
                await self.wait(len(piece))
                await line.put((loop.time() + self.latency_seconds, piece))


class _Proxy:
    """Takes ``CONNECT`` to one target from one site."""

    def __init__(self, link: Link, *, target: str, port: int) -> None:
        self.up = _Bucket(link.up_bits, link.latency_seconds)
        self.down = _Bucket(link.down_bits, link.latency_seconds)
        self._target, self._to = target, ("127.0.0.1", port)
        self._listener = _segmented(self.up)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        self._start(self._accept())

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        while True:
            site, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            self._start(self._serve(site))

    async def _serve(self, site: socket.socket) -> None:
        # Whatever ends a connection at one side ends it at the other; both will connect again.
        with (
            site,
            _segmented(self.down) as aggregator,
            contextlib.suppress(OSError, ExceptionGroup),
        ):
            loop = asyncio.get_running_loop()
            site.setblocking(False)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                piece = await loop.sock_recv(site, _HEAD - len(head))
                head += piece
                if not piece:
                    return
            if not head.startswith(f"CONNECT {self._target} ".encode()):
                await loop.sock_sendall(site, b"HTTP/1.1 403 Forbidden\r\n\r\n")
                return
            await loop.sock_connect(aggregator, self._to)
            await loop.sock_sendall(site, b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with asyncio.TaskGroup() as group:
                group.create_task(self.up.pump(site, aggregator))
                group.create_task(self.down.pump(aggregator, site))


def _segmented(receiving: _Bucket) -> socket.socket:
    """A socket whose own buffers hold no more than a router would."""
    made = socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receiving.buffer)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
