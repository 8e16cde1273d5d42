"""Notice a party that is gone without a word: no power, no network, or a process that hangs.

OpenFL sets no timeout and no keepalive. A site whose call waits for the answer of an aggregator
that has vanished then waits for ever. With keepalive such a call fails, and
:class:`openfl_flows.taskrunner.collaborator.PatientClient` repeats it.

A link that is slow is no reason to give up. A question whether the other side is there may wait
behind megabytes in the buffers of its sender, for minutes where the link is narrow, and so may the
answer. gRPC therefore gives it long. That the network or the other machine is gone is noticed much
sooner, by what TCP gets no acknowledgement for; gRPC has one number for both, so a site sets that
of TCP itself (``TCP_USER_TIMEOUT``, on Linux). A process that hangs is waited for.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from openfl.transport.grpc import common

PING_SECONDS = 30
"""Silence in a call after which the other side is asked whether it is there."""
ANSWER_SECONDS = 1200
"""Silence after that question until the connection counts as lost: enough for 4 MB, the most that
Linux buffers by itself, at 27 kbit/s."""
ACKNOWLEDGE_SECONDS = 120
"""How long the other side's system may acknowledge nothing until a site's connection is lost."""

OPTIONS = (
    ("grpc.keepalive_time_ms", PING_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", ANSWER_SECONDS * 1000),
    # By itself a minute, whatever comes meanwhile.
    ("grpc.http2.ping_timeout_ms", ANSWER_SECONDS * 1000),
    # A server of gRPC takes pings during a long call for an attack, and a client stops sending
    # them, unless told otherwise.
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
)


def notice_lost_connections() -> None:
    """Have all channels and servers that OpenFL makes from now on use keepalive."""
    missing = [option for option in OPTIONS if option not in common.DEFAULT_CHANNEL_OPTIONS]
    common.DEFAULT_CHANNEL_OPTIONS.extend(missing)


def await_acknowledgements(port: int) -> None:
    """Give up this process's connections to a port where nothing is acknowledged any more.

    Args:
        port: The other side's; where no connection leads to it, as through a proxy, all are meant.
    """
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        for connection in connections(port):
            connection.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, ACKNOWLEDGE_SECONDS * 1000
            )


def connections(port: int) -> Iterator[socket.socket]:
    """This process's TCP connections to a port, of whatever library; on Linux.

    Args:
        port: The other side's; where no connection leads to it, as through a proxy, all are meant.
    """
    found: list[tuple[int, socket.socket]] = []
    for number in _sockets():
        # It may be closed meanwhile, or not be connected.
        with suppress(OSError):
            opened = socket.socket(fileno=os.dup(number))
            try:
                if opened.family not in (socket.AF_INET, socket.AF_INET6):
                    raise OSError("another kind of socket")
                found.append((opened.getpeername()[1], opened))
            except OSError:
                opened.close()
    leads_there = any(to == port for to, _ in found)
    for to, opened in found:
        with opened:
            if to == port or not leads_there:
                yield opened


def _sockets() -> list[int]:
    """Numbers of this process's open sockets."""
    folder, found = Path("/proc/self/fd"), []
    for number in os.listdir(folder) if folder.is_dir() else ():
        with suppress(OSError):
            if os.readlink(folder / number).startswith("socket:"):
                found.append(int(number))
    return found
