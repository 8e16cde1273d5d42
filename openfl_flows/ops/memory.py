"""Resident memory of this process."""

import ctypes
import re
import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 2**20
# None outside glibc.
_mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def peak_rss_bytes() -> int:
    """The most memory this process ever held, in bytes.

    Linux has it in its own file: there ``getrusage`` counts what the process was before it started
    this program, which is a copy of whatever process started it.
    """
    if _STATUS.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """What this process holds now, once all that was freed is given back to the system, in bytes.

    Files that are mapped do not count: the system takes their memory back whenever it likes. Where
    the system does not say, it is 0.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
    text = _STATUS.read_text() if _STATUS.exists() else ""
    return sum(
        int(kilobytes) * 1024 for kilobytes in re.findall(r"Rss(?:Anon|Shmem):\s*(\d+) kB", text)
    )


def return_freed_memory() -> None:
    """Have every large array give its memory back to the system as soon as it is freed.

    By itself glibc comes to keep pieces of up to 32 MB, for each thread its own, and a process that
    moves models of that size from thread to thread holds many times what it uses.
    """
    if _mallopt is not None:
        _mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
