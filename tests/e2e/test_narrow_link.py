"""A federation whose links are really narrow: it makes the same bits, and nothing cuts it off."""

import ctypes
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate_experiment
from openfl_flows.ops.link import Link
from openfl_flows.ops.run import RunDirectory
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.namespaces import Namespaces
from openfl_flows.taskrunner.narrow import HostsMaker, as_hosts, proxied
from openfl_flows.taskrunner.parity import compare_rounds
from openfl_flows.taskrunner.parties import LOG, Environment, Launch, Process, launch_fx
from openfl_flows.taskrunner.rehearsal import LINK, rehearse
from tests.fx_processes import TOY, _fx, launch, living
from tests.processes import Process as PreloadedProcess

SITES = ("site-1", "site-2")
ALLOWED = as_hosts(SITES, {}, 1).how == Namespaces.how
NAMESPACES = pytest.mark.skipif(not ALLOWED, reason="needs root, ip and tc")
PLAN = (*TOY, "federation.rounds=1", "join=fedavg", "network.readiness.probe_mib=0")


def rehearsed(
    out: Path, *overrides: str, hosts: HostsMaker = as_hosts, start: Launch = launch_fx
) -> RunDirectory:
    export_workspace(compose((*PLAN, *overrides)), out / "workspace")
    return rehearse(out / "workspace", out=out / "parties", launch=start, hosts=hosts, quiet=True)


def said(out: Path, party: str) -> str:
    text = (out / "parties" / party / "logs" / "fx.log").read_text()
    return " ".join(re.sub(r"\S+\.py:\d+\n", "\n", text).split())


def launch_here(folder: Path, arguments: Sequence[str], environment: Environment) -> Process:
    """What takes milliseconds, in the network of this thread: its processes have another parent."""
    network = f"/proc/{os.getpid()}/fd/{os.open('/proc/thread-self/ns/net', os.O_RDONLY)}"
    (folder / LOG).parent.mkdir(parents=True, exist_ok=True)
    return PreloadedProcess(
        _start_there, network, folder, arguments, dict(environment), log=folder / LOG
    )


def _start_there(network: str, *arguments: Any) -> None:
    with open(network) as file:
        assert ctypes.CDLL(None).setns(file.fileno(), 0) == 0
    _fx(*arguments)


@pytest.mark.parametrize(
    ("hosts", "start", "how"),
    [
        pytest.param(as_hosts, launch_here, "network namespaces", marks=NAMESPACES),
        (proxied, launch, "proxies"),
    ],
    ids=["namespaces", "proxies"],
)
def test_a_federation_over_narrow_links_is_its_simulation_and_its_bytes_are_on_record(
    hosts: HostsMaker, start: Launch, how: str, tmp_path: Path
):
    # 400 kB: 0.8 s up.
    plan = ("model.padding=100000", "federation.link=4mbit/8mbit")
    run = rehearsed(tmp_path, *plan, hosts=hosts, start=start)
    simulated = simulate_experiment(
        Experiment.from_config(compose((*PLAN, *plan))), tmp_path / "simulation"
    )
    assert all(row.equal for row in compare_rounds(simulated, run))
    assert living(tmp_path) == []
    found = json.loads((tmp_path / "parties" / LINK).read_text())
    assert found["how"] == how
    assert found["links"]["site-2"] == {"up_bits": 4e6, "down_bits": 8e6, "latency_seconds": 0}
    for site in SITES:
        # Sites know the first model; the second is sent by each, and comes back joined.
        assert 400_000 < found["bytes"][site]["up"] < 500_000
        assert 400_000 < found["bytes"][site]["down"] < 500_000
    assert run.record["rounds"][0]["seconds"] > 0.8


class Reach:
    """A rehearsal in a thread, on hosts and with processes that a test can reach."""

    def __init__(self, out: Path, *overrides: str) -> None:
        self.out = out
        self.processes: dict[str, Process] = {}
        self.hosts: Namespaces
        self._thread = threading.Thread(target=self._run, args=overrides)
        self._thread.start()

    def _run(self, *overrides: str) -> None:
        self.run = rehearsed(self.out, *overrides, hosts=self._make, start=self._start)

    def _make(self, sites: Sequence[str], links: Mapping[str, Link], port: int) -> Namespaces:
        self.hosts = Namespaces(sites, links)
        return self.hosts

    def _start(self, folder: Path, arguments: Sequence[str], environment: Environment) -> Process:
        process = launch_fx(folder, arguments, environment)
        if "start" in arguments:
            self.processes[folder.name] = process
        return process

    def sites(self) -> dict[str, Any]:
        """What the aggregator's status file says of the sites."""
        file = self.out / "parties" / "aggregator" / "local_state" / "status.json"
        return json.loads(file.read_text())["sites"] if file.is_file() else {}

    def wait(self, reached: Callable[[dict[str, Any]], Any]) -> None:
        end = time.monotonic() + 120
        while not ((sites := self.sites()) and reached(sites)):
            assert self._thread.is_alive()
            assert time.monotonic() < end, "what the test waits for did not come"
            time.sleep(0.05)

    def finished(self) -> RunDirectory:
        self._thread.join(240)
        assert not self._thread.is_alive()
        return self.run


def is_sending(site: str, least: int) -> Callable[[dict[str, Any]], bool]:
    return lambda sites: (sites[site]["sending"] or {"bytes": 0})["bytes"] > least


MEGABYTES_3 = ("model.padding=750000", "federation.link=2mbit")


@NAMESPACES
@pytest.mark.slow
def test_a_cable_that_is_pulled_for_a_minute_costs_a_minute(tmp_path: Path):
    rehearsal = Reach(tmp_path, *MEGABYTES_3)
    rehearsal.wait(is_sending("site-1", 500_000))
    rehearsal.hosts.plug("site-1", connected=False)
    pulled = time.monotonic()
    # The other site is not held up.
    rehearsal.wait(lambda sites: "train" in sites["site-2"]["tasks"])
    assert rehearsal.sites()["site-1"]["sending"]["bytes"] < 3_000_000
    time.sleep(60 - (time.monotonic() - pulled))
    rehearsal.hosts.plug("site-1", connected=True)
    assert rehearsal.finished().finished
    # What had come before was not sent again.
    counts = json.loads((tmp_path / "parties" / LINK).read_text())["bytes"]["site-1"]
    assert counts["up"] < 1.2 * 3_000_000
    assert "does not answer" not in said(tmp_path, "site-1")


@NAMESPACES
@pytest.mark.slow
@pytest.mark.parametrize("stopped", ["site-1", "aggregator"])
def test_a_process_that_hangs_in_an_upload_is_waited_for(stopped: str, tmp_path: Path):
    rehearsal = Reach(tmp_path, *MEGABYTES_3)
    rehearsal.wait(is_sending("site-1", 500_000))
    pid = rehearsal.processes[stopped].pid
    os.kill(pid, signal.SIGSTOP)
    if stopped == "site-1":
        rehearsal.wait(lambda sites: "train" in sites["site-2"]["tasks"])
        assert rehearsal.sites()["site-1"]["sending"]["bytes"] < 3_000_000
    else:
        time.sleep(20)
    os.kill(pid, signal.SIGCONT)
    assert rehearsal.finished().finished
    counts = json.loads((tmp_path / "parties" / LINK).read_text())["bytes"]["site-1"]
    assert counts["up"] < 1.2 * 3_000_000
    assert "does not answer" not in said(tmp_path, "site-1")
