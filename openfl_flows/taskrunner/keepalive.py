"""Notice a party that is gone without a word: no power, no network, or a process that hangs.

OpenFL sets no timeout and no keepalive. A site whose call waits for the answer of an aggregator
that has vanished then waits for ever. With keepalive such a call fails, and
:class:`openfl_flows.taskrunner.collaborator.PatientClient` repeats it.
"""

from openfl.transport.grpc import common

PING_SECONDS = 30
"""Silence in a call after which the other side is asked whether it is there."""
ANSWER_SECONDS = 20
"""How long it may take to answer before the connection counts as lost."""

OPTIONS = (
    ("grpc.keepalive_time_ms", PING_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", ANSWER_SECONDS * 1000),
    # A server of gRPC takes pings during a long call for an attack, and a client stops sending
    # them, unless told otherwise.
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.max_ping_strikes", 0),
)


def notice_lost_connections() -> None:
    """Have all channels and servers that OpenFL makes from now on use keepalive."""
    missing = [option for option in OPTIONS if option not in common.DEFAULT_CHANNEL_OPTIONS]
    common.DEFAULT_CHANNEL_OPTIONS.extend(missing)
