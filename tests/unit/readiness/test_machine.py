"""What a machine has to give, as its system says it."""

from pathlib import Path

import pytest

from openfl_flows.readiness.machine import (
    Machine,
    available_memory,
    clock_error,
    processors,
    proxy_in_the_way,
)

GIB = 2**30


def system(folder: Path, **files: str) -> tuple[Path, Path]:
    """Files of a system: ``memory__max`` is ``memory.max`` of its control group."""
    meminfo, cgroup = folder / "meminfo", folder / "cgroup"
    meminfo.write_text(f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable: {8 * GIB // 1024} kB\n")
    for name, text in files.items():
        file = cgroup / name.replace("__", ".").replace("--", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return meminfo, cgroup


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GIB),
        ({"memory__max": "max", "memory__current": "5"}, 8 * GIB),
        ({"memory__max": str(3 * GIB), "memory__current": str(GIB)}, 2 * GIB),
        (
            {
                "memory__max": str(3 * GIB),
                "memory__current": str(2 * GIB),
                "memory__stat": f"anon 5\ninactive_file {GIB}",
            },
            2 * GIB,
        ),
        ({"memory__max": str(20 * GIB), "memory__current": str(GIB)}, 8 * GIB),
        ({"memory__max": str(GIB), "memory__current": str(2 * GIB)}, 0),
    ],
)
def test_memory_is_what_the_system_and_its_container_leave(files, expected, tmp_path) -> None:
    assert available_memory(*system(tmp_path, **files)) == expected


def test_memory_is_unknown_where_the_system_does_not_say(tmp_path) -> None:
    assert available_memory(tmp_path / "meminfo", tmp_path) is None


def test_processors_are_those_of_the_container(tmp_path) -> None:
    all_of_them = processors(tmp_path)
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert processors(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert processors(tmp_path) == all_of_them


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"https_proxy": "http://proxy:3128"}, "https_proxy"),
        ({"grpc_proxy": "http://a", "https_proxy": "http://b"}, "grpc_proxy"),
        ({"https_proxy": ""}, None),
        ({"https_proxy": "http://proxy", "no_proxy": "localhost, example.org"}, None),
        ({"https_proxy": "http://proxy", "no_proxy": "example.com"}, "https_proxy"),
        ({"https_proxy": "http://p", "no_grpc_proxy": "x", "no_proxy": "org"}, "https_proxy"),
        ({"HTTPS_PROXY": "http://proxy"}, None),
    ],
)
def test_a_proxy_is_the_one_that_grpc_would_take(environment, expected) -> None:
    assert proxy_in_the_way("fl.example.org", environment) == expected


def test_this_machine_says_what_it_has(tmp_path) -> None:
    machine = Machine.here(tmp_path, {"numpy": "", "no-such-package": ""})
    assert machine.versions["no-such-package"] == "not installed"
    assert machine.versions["numpy"][0].isdigit()
    assert machine.disk_bytes > 0
    assert machine.memory_bytes is None or machine.memory_bytes > 0
    told = clock_error()
    assert told is None or told[1] >= 0
