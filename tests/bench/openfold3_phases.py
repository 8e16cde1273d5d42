"""Seconds and memory of what a process does, phase by phase."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PROCESS = Path("/proc/self")
_LOOK_SECONDS = 0.01


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What a phase took.

    Attributes:
        name: What was done.
        seconds: Wall seconds.
        cpu_seconds: CPU seconds of all threads.
        peak: The most resident bytes while it lasted, above those before the first phase.
        anonymous_peak: Those of them that no file backs, as seen from time to time.
        after: The resident bytes at its end that no file backs, above those before the first phase.
    """

    name: str
    seconds: float
    cpu_seconds: float
    peak: int
    anonymous_peak: int
    after: int


class Phases:
    """Measures phases one after another; Linux only, since it resets the process's peak."""

    def __init__(self) -> None:
        self.found: list[Phase] = []
        self._rss, self._anonymous = _memory("VmRSS"), _memory("RssAnon")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done in this context."""
        (_PROCESS / "clear_refs").write_text("5")  # resets VmHWM
        with _watched() as seen:
            began, cpu = time.perf_counter(), time.process_time()
            yield
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        self.found.append(
            Phase(
                name=name,
                seconds=seconds,
                cpu_seconds=cpu,
                peak=_memory("VmHWM") - self._rss,
                anonymous_peak=max(seen) - self._anonymous,
                after=_memory("RssAnon") - self._anonymous,
            )
        )

    def rows(self) -> list[dict[str, Any]]:
        """The phases as plain values."""
        return [asdict(phase) for phase in self.found]


@contextmanager
def _watched() -> Iterator[list[int]]:
    seen = [_memory("RssAnon")]
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_SECONDS):
            seen.append(_memory("RssAnon"))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        seen.append(_memory("RssAnon"))
        over.set()
        thread.join()


def _memory(field: str) -> int:
    found = re.search(rf"{field}:\s*(\d+) kB", (_PROCESS / "status").read_text())
    assert found is not None
    return int(found[1]) * 1024
