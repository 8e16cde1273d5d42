"""The machine that a party runs on: versions, memory, disk, processors, proxies, clock."""

import ctypes
import os
import platform
import re
import shutil
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Self

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXIES = ("no_grpc_proxy", "no_proxy")
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
# A kernel that nobody has told the time says that it may be wrong by 16 s.
_TIME_ERROR = 5


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine has to give, as far as probes ask.

    Attributes:
        versions: Of ``python`` and of packages, by name.
        memory_bytes: Memory that can be had, within the limits of a container; None if unknown.
        disk_bytes: Free disk space at the workspace.
        processors: Processors that this process may use.
        environment: Variables of the environment.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int | None
    disk_bytes: int
    processors: int
    environment: Mapping[str, str]

    @classmethod
    def here(cls, folder: Path, packages: Mapping[str, str]) -> Self:
        """This machine.

        Args:
            folder: On the disk that is meant.
            packages: The packages whose versions are asked for.
        """
        versions = {"python": platform.python_version()}
        for name in packages:
            try:
                # A build's local suffix, as in 2.9.0+cpu, is not known to package indexes.
                versions[name] = metadata.version(name).partition("+")[0]
            except metadata.PackageNotFoundError:
                versions[name] = "not installed"
        return cls(
            versions=versions,
            memory_bytes=available_memory(),
            disk_bytes=shutil.disk_usage(folder).free,
            processors=processors(),
            environment=dict(os.environ),
        )


def available_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Bytes that a new process could hold: of the system, and of the control groups around it."""
    if not meminfo.is_file():
        return None
    match = re.search(r"MemAvailable:\s*(\d+) kB", meminfo.read_text())
    found = [int(match[1]) * 1024] if match else []
    for limit, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        files = [cgroup / name for name in (limit, used)]
        if all(file.is_file() for file in files):
            most, now = (file.read_text().strip() for file in files)
            if most.isdigit():
                found.append(int(most) - int(now) + _reclaimable(cgroup / stat))
    return max(0, min(found)) if found else None


def _reclaimable(stat: Path) -> int:
    """Bytes of file contents that the kernel gives up when it needs memory."""
    text = stat.read_text() if stat.is_file() else ""
    match = re.search(r"^(?:total_)?inactive_file (\d+)", text, re.M)
    return int(match[1]) if match else 0


def processors(cgroup: Path = _CGROUP) -> int:
    """Processors that this process may use, within a container's quota."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = cgroup / "cpu.max"
    most, _, period = (quota.read_text() if quota.is_file() else "max").strip().partition(" ")
    if most.isdigit() and period.isdigit():
        usable = min(usable or 1, max(1, round(int(most) / int(period))))
    return usable or 1


def proxy_in_the_way(host: str, environment: Mapping[str, str]) -> str | None:
    """The variable by which gRPC would go through a proxy to a host; None if it goes there itself.

    gRPC looks at the lower-case names only, and at none of them for a host in ``no_proxy``.
    """
    passed_by = next((environment[name] for name in _NO_PROXIES if environment.get(name)), "")
    if any(part and host.endswith(part) for part in map(str.strip, passed_by.split(","))):
        return None
    return next((name for name in _PROXIES if environment.get(name)), None)


def in_the_way_of_port(port: int) -> str | None:
    """Why a server could not listen at a port of this machine; None if it could."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            return error.strerror
    return None


class _Timex(ctypes.Structure):
    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long), ("esterror", ctypes.c_long), ("rest", ctypes.c_byte * 512),
    )  # fmt: skip


def clock_error() -> tuple[bool, float] | None:
    """Whether the kernel's clock is kept by a time server, and its error at most, seconds.

    None where the system does not say.
    """
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None:
        return None
    found = _Timex()
    state = adjtimex(ctypes.byref(found))
    return None if state < 0 else (state != _TIME_ERROR, found.maxerror / 1e6)
