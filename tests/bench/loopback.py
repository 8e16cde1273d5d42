"""How fast gRPC itself moves bytes over mTLS on this machine, between two processes."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from openfl.transport.grpc.common import create_grpc_server, create_tls_channel

from tests.processes import Process

CHUNK = 2 * 2**20
BUCKET = 64 * 2**20
_RUN = "/loopback/"


def bandwidth(parties: Path, port: int, total: int) -> tuple[float, float]:
    """Bytes per second from site to aggregator and back.

    Up is a stream of the chunks that OpenFL makes of a result, down one answer per bucket. Nothing
    is done with the bytes.

    Args:
        parties: Folders of a prepared federation, for its certificates.
        port: Of the aggregator, free.
        total: Bytes to move.
    """
    log = parties / "loopback.log"
    with Process(_serve, parties / "aggregator" / "cert", port, log=log):
        cert = parties / "site-1" / "cert"
        client = cert / "client"
        channel = create_tls_channel(
            f"localhost:{port}", cert / "cert_chain.crt", True,
            client / "col_site-1.crt", client / "col_site-1.key",
        )  # fmt: skip
        grpc.channel_ready_future(channel).result(timeout=60)
        up, down = channel.stream_unary(f"{_RUN}up"), channel.unary_unary(f"{_RUN}down")
        size = min(total, BUCKET)
        up(iter([bytes(CHUNK)])), down(b"1")
        began = time.perf_counter()
        chunk = bytes(min(total, CHUNK))
        up(chunk for _ in range(max(1, total // len(chunk))))
        middle = time.perf_counter()
        for _ in range(max(1, total // size)):
            down(str(size).encode())
        ended = time.perf_counter()
        channel.close()
    return total / (middle - began), total / (ended - middle)


def _serve(cert: Path, port: int) -> None:
    server = create_grpc_server(
        f"[::]:{port}", True, cert / "server" / "agg_localhost.key",
        cert / "server" / "agg_localhost.crt", cert / "cert_chain.crt", True,
    )  # fmt: skip
    handlers = {
        "up": grpc.stream_unary_rpc_method_handler(_sink),
        "down": grpc.unary_unary_rpc_method_handler(lambda size, _: bytes(int(size))),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("loopback", handlers),))
    server.start()
    server.wait_for_termination()


def _sink(chunks: Iterator[bytes], _: Any) -> bytes:
    for _ in chunks:
        pass
    return b""


if __name__ == "__main__":
    sys.exit(__doc__)
