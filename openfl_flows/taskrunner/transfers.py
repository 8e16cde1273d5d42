"""What a site moves over its link: counted, measured, and told while it moves and where it stops.

Nothing here ends a transfer. gRPC hands over messages, each of up to 40 MiB, and says nothing of
one that is on its way; what moves in between is asked of the system (``TCP_INFO``, on Linux).
"""

import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from openfl_flows.taskrunner.keepalive import await_acknowledgements, connections

logger = logging.getLogger(__name__)

UPLOAD_BYTES = "upload-bytes"
"""Metadata of an upload: how many bytes it has."""
REPORT_SECONDS = 30.0
"""How often the log says how far a transfer is."""

# What asking whether the other side is there moves by itself is less than this.
_LEAST_MOVEMENT = 1024
_TCP_INFO_BYTES = struct.Struct("=120x2Q")


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """Bytes of tensors that a site has sent and received, and the seconds that it took.

    Attributes:
        download_seconds: Of all downloads, with the time in which the aggregator was away.
        upload_seconds: Of all uploads, likewise.
        bytes_down: As the aggregator sent them, without what TLS and TCP add.
        bytes_up: As the site sent them, likewise.
    """

    download_seconds: float = 0.0
    upload_seconds: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0


class Transfers:
    """Sums up what a site moves until somebody asks, and has the log say how it goes.

    Args:
        name: The site.
        port: The aggregator's.
        stall_seconds: How long nothing may move before the log says so, again and again.
        report_seconds: How often the log says how far a transfer is.
    """

    def __init__(
        self,
        name: str = "",
        *,
        port: int = 0,
        stall_seconds: float = 120.0,
        report_seconds: float = REPORT_SECONDS,
    ) -> None:
        self._name, self._port = name, port
        self._stall, self._report = stall_seconds, report_seconds
        self._moved = Moved()
        self._of_round = (0, 0, 0, 0.0)

    @contextmanager
    def uploading(self, count: int) -> Iterator[None]:
        """Measure an upload of ``count`` bytes, which counts where it ends well."""
        began = time.monotonic()
        with self._watched(f"upload of {self._name!r}", f" of {count / 1e6:.1f}", 0):
            yield
        seconds = time.monotonic() - began
        self._moved = replace(
            self._moved,
            upload_seconds=self._moved.upload_seconds + seconds,
            bytes_up=self._moved.bytes_up + count,
        )

    def expect(self, tensors: int) -> None:
        """That many tensors are about to be downloaded."""
        self._of_round = (0, tensors, 0, time.monotonic())

    @contextmanager
    def downloading(self) -> Iterator[list[int]]:
        """Measure the download of a tensor; the block puts the number of its bytes in the list."""
        got: list[int] = []
        began = time.monotonic()
        done, expected, before, _ = self._of_round
        which = f"{done + 1} of {max(expected, done + 1)}"
        with self._watched(f"download of {self._name!r}, tensor {which}", "", before):
            yield got
        count = sum(got)
        self._of_round = (done + 1, expected, before + count, self._of_round[3])
        self._moved = replace(
            self._moved,
            download_seconds=self._moved.download_seconds + time.monotonic() - began,
            bytes_down=self._moved.bytes_down + count,
        )

    def take(self) -> Moved:
        """What was moved since this was called last."""
        moved, self._moved = self._moved, Moved()
        return moved

    @contextmanager
    def _watched(self, what: str, of: str, before: int) -> Iterator[None]:
        """Have the log say how it goes, from a thread that ends with the block."""
        over = threading.Event()
        watching = threading.Thread(
            target=self._watch, args=(what, of, before, over), name="transfer", daemon=True
        )
        watching.start()
        try:
            yield
        finally:
            over.set()

    def _watch(self, what: str, of: str, before: int, over: threading.Event) -> None:
        way = 0 if what.startswith("upload") else 1
        first = last = self._bytes()[way]
        began = moved = reported = told = time.monotonic()
        while not over.wait(min(self._stall, self._report) / 4):
            await_acknowledgements(self._port)
            now, count = time.monotonic(), self._bytes()[way]
            # A new connection counts from 0.
            if count - last >= _LEAST_MOVEMENT or count < last:
                first = first if count >= last else 0
                last, moved = count, now
            so_far = before + last - first
            if now - max(moved, told) > self._stall:
                told = now
                logger.warning(
                    "The %s has stopped: %.1f%s MB have moved, and nothing for %.0f s. It is "
                    "waited for", what, so_far / 1e6, of, now - moved,
                )  # fmt: skip
            elif now - reported > self._report and now - moved < self._report:
                reported = now
                logger.info(
                    "The %s: %.1f%s MB, %.3f MB/s",
                    what, so_far / 1e6, of, (last - first) / 1e6 / (now - began),
                )  # fmt: skip

    def _bytes(self) -> tuple[int, int]:
        return tcp_bytes(self._port)


def tcp_bytes(port: int) -> tuple[int, int]:
    """Bytes that this process has sent to a port, as acknowledged, and received from there.

    Args:
        port: The other side's; where no connection leads to it, as through a proxy, all count.

    Returns:
        Sent and received over all connections that are open now; 0 where the system does not say.
    """
    sent = received = 0
    for connection in connections(port):
        with suppress(OSError, AttributeError, struct.error):
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES.size)
            acknowledged, came = _TCP_INFO_BYTES.unpack(info)
            sent, received = sent + acknowledged, received + came
    return sent, received
