"""A TCP proxy that keeps what a site sends, and can be turned to another server at any time."""

import contextlib
import socket
import threading
from collections.abc import Sequence
from typing import Self

HANDSHAKE, CHANGE, ALERT, PROTECTED = 22, 20, 21, 23
"""Types of TLS records; in TLS 1.3 all that is encrypted is PROTECTED."""
PROTECTED_ALERT = 2 + 1 + 16
"""Bytes of an encrypted alert: level and reason, its type, the tag."""


class RecordingProxy:
    """Forwards the first connection to the first of its targets, and so on, all others to the last.

    Args:
        port: Where it listens.
        targets: Ports of this machine.
    """

    def __init__(self, port: int, *targets: int) -> None:
        self.targets: Sequence[int] = targets
        self.sent: list[bytearray] = []
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    @property
    def records(self) -> list[tuple[int, int]]:
        """Type and length of all TLS records that came from the site."""
        found = []
        for stream in self.sent:
            at = 0
            while at + 5 <= len(stream):
                length = int.from_bytes(stream[at + 3 : at + 5], "big")
                found.append((stream[at], length))
                at += 5 + length
        return found

    def assert_nothing_left(self) -> None:
        """Nothing but the beginnings of handshakes, and alerts, has come from the site."""
        assert self.records, "nobody has connected"
        for kind, length in self.records:
            assert kind in (HANDSHAKE, CHANGE, ALERT) or length == PROTECTED_ALERT, self.records

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                target, *rest = self.targets
                self.targets = rest or [target]
                try:
                    far = socket.create_connection(("127.0.0.1", target))
                except OSError:
                    near.close()
                    continue
                stream = bytearray()
                self.sent.append(stream)
                for pair in ((near, far, stream), (far, near, None)):
                    threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, stream: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(2**16):
            if stream is not None:
                stream += content
            sink.sendall(content)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
