"""What a manifest must say, key by key, and why: whatever is not here, nobody has looked at."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SIZE = re.compile(r"([1-9][0-9]*)([KMG])")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_GIB = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What one key must be.

    Attributes:
        name: Of the rule.
        holds: Whether a value is as it must be; None stands for a key that is not there.
        why: What a host can do where it is not.
        better: What to write.
    """

    name: str
    holds: Callable[[Any], bool]
    why: str
    better: str


def only(name: str, value: Any, why: str) -> Rule:
    """A key that has one value."""
    return Rule(
        name=name,
        holds=lambda found: type(found) is type(value) and found == value,
        why=why,
        better=repr(value).lower() if isinstance(value, bool) else repr(value),
    )


def never(name: str, why: str) -> Rule:
    """A key that is not there, or switched off."""
    return Rule(
        name=name,
        holds=lambda found: found is None or found is False or (found == 0 and type(found) is int),
        why=why,
        better="leave it out",
    )


def whole(name: str, least: int, most: int, why: str) -> Rule:
    """A whole number in a range."""
    return Rule(
        name=name,
        holds=lambda found: type(found) is int and least <= found <= most,
        why=why,
        better=f"{least} to {most}",
    )


def size(name: str, least: int, most: int, why: str) -> Rule:
    """A size in bytes in a range, as Gramine writes it: a number and K, M or G."""
    return Rule(
        name=name,
        holds=lambda found: least <= size_of(found) <= most,
        why=why,
        better=f"{least >> 20}M to {most >> 20}M",
    )


def size_of(text: Any) -> int:
    """Bytes that a size says; 0 where it is none."""
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    return int(match[1]) * _UNITS[match[2]] if match else 0


def _absolute(found: Any) -> bool:
    return isinstance(found, str) and found.startswith("/") and "//" not in found


def _power(found: Any) -> bool:
    bytes_ = size_of(found)
    return _GIB <= bytes_ <= 1024 * _GIB and bytes_ & (bytes_ - 1) == 0


_HOST = "the host decides it when it starts the enclave, and the measurement stays the same"

RULES: dict[str, Rule] = {
    "libos.entrypoint": Rule(
        name="entrypoint", holds=_absolute, why="what starts is not said", better="Python's path"
    ),
    "loader.entrypoint.uri": Rule(
        name="library-os",
        holds=lambda found: isinstance(found, str) and found.startswith("file:/"),
        why="what loads the program is not said",
        better="file: and the path of Gramine's libsysdb.so",
    ),
    "loader.log_level": Rule(
        name="talkative-log",
        holds=lambda found: found in ("error", "none"),
        why="system calls and file names of the enclave are in the host's log",
        better="'error'",
    ),
    "loader.insecure__use_cmdline_argv": never("host-arguments", f"arguments: {_HOST}"),
    "loader.insecure__use_host_env": never(
        "host-environment",
        "with PYTHONPATH or LD_PRELOAD the host has its own code run inside, unmeasured",
    ),
    "loader.insecure__disable_aslr": never("no-aslr", "code and data are where attackers expect"),
    "loader.argv_src_file": never("arguments-by-file", "arguments are not in the measurement"),
    "loader.env_src_file": never("environment-by-file", "variables are not in the measurement"),
    "loader.log_file": never("log-to-file", "a file outside is written to"),
    "loader.uid": whole("runs-as-root", 1, 65533, "checks that spare root are spared"),
    "loader.gid": whole("runs-as-root", 1, 65533, "checks that spare root are spared"),
    "fs.root.type": only(
        "host-root", "tmpfs", "the folder that the host starts in is the enclave's root"
    ),
    "fs.start_dir": Rule(
        name="start-folder", holds=_absolute, why="which plan is run is not said",
        better="the workspace's path",
    ),
    "sys.stack.size": size("stack", 1 << 20, 64 << 20, "the program ends where it calls deeply"),
    "sys.brk.max_size": size("heap", 1 << 20, 1 << 30, "the program ends where it needs memory"),
    "sys.fds.limit": whole("open-files", 256, 65536, "the program ends where it opens files"),
    "sys.enable_sigterm_injection": only(
        "no-end", True, "a party cannot be asked to end: it is killed, amid a write"
    ),
    "sys.enable_extra_runtime_domain_names_conf": only(
        "no-names", True, "names of machines are looked up in files that nobody brings up to date"
    ),
    "sys.disallow_subprocesses": only(
        "subprocesses", True, "each child is another enclave: memory for a second party"
    ),
    "sys.insecure__allow_eventfd": never("host-eventfd", "the host answers the program's calls"),
    "sgx.debug": only("debug", False, "the host reads and writes the enclave's memory"),
    "sgx.edmm_enable": only(
        "no-edmm", True, "free memory is writable and executable, all of it from the start"
    ),
    "sgx.enclave_size": Rule(
        name="enclave-size", holds=_power, why="too small to run, or larger than machines have",
        better="a power of two from 1G to 1024G",
    ),
    "sgx.max_threads": whole(
        "threads", 8, 256, "each thread is measured memory; with too few the party stops"
    ),
    "sgx.use_exinfo": only(
        "fault-addresses", False, "the host is told which address faulted, and learns of secrets"
    ),
    "sgx.remote_attestation": only("no-attestation", "dcap", "nobody can tell what runs"),
    "sgx.isvprodid": whole(
        "no-product", 1, 65535, "roles of one signer cannot be told apart: aggregator 1, site 2"
    ),
    "sgx.isvsvn": whole(
        "no-security-version", 1, 65535, "an old, vulnerable build looks like the newest"
    ),
    "sgx.file_check_policy": only(
        "unmeasured-files", "strict", "files that are not listed are read as the host has them"
    ),
    "sgx.cpu_features.avx": only(
        "arithmetic", "required", "machines add in another order, and digests differ"
    ),
    "sgx.preheat_enclave": never("preheat", "all memory is taken at the start"),
    "sgx.enable_stats": never("statistics", "threads can be watched from outside"),
    "sgx.vtune_profile": never("profile", "the host sees which code runs"),
    "sgx.insecure__rpc_thread_num": never(
        "exitless", "INTEL-SA-00615 and 00657: stale data leave the enclave"
    ),
    "sgx.insecure__allow_memfaults_without_exinfo": never(
        "fault-addresses", "the host chooses the address that a fault seems to have"
    ),
}  # fmt: skip
"""Of every key that is no list and no variable."""

FIXED_ENV = {
    "PATH": "/nowhere",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "MPLCONFIGDIR": "/tmp",
    # OpenFold3 asks who runs it, of the system's list of users where no variable tells.
    "LOGNAME": "openfl",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "MALLOC_ARENA_MAX": "1",
    "GRPC_VERBOSITY": "ERROR",
}
"""Variables of one value; beside them are ``LD_LIBRARY_PATH`` and ``OMP_NUM_THREADS``."""

RISKY_ENV = (
    "LD_", "PYTHON", "GLIBC", "MALLOC_", "RA_TLS_", "SECRET_PROVISION_", "GRPC_", "SSL_",
    "REQUESTS_", "OPENSSL_", "CURL_", "HOME", "PATH", "TMP", "XDG_", "http_proxy", "https_proxy",
    "HTTP_", "HTTPS_", "OPENFL", "TORCH", "OMP_", "KMP_", "MKL_",
)  # fmt: skip
"""Beginnings of variables with which a host steers a program."""
