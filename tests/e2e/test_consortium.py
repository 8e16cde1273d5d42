"""A consortium with a slow site, a late one and one that crashes: who cost what is on record."""

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from openfl_flows.cli import main
from openfl_flows.ops.costs import round_cost
from openfl_flows.ops.link import Link
from openfl_flows.report.monitoring import read_federation
from openfl_flows.taskrunner.parties import Environment
from openfl_flows.taskrunner.proxies import Proxies
from openfl_flows.taskrunner.rehearsal import ADDRESS, _checked_port, _free_port
from tests.federation_host import messages
from tests.fx_processes import TOY, Party, aggregator, site
from tests.processes import Process
from tests.slow_party import slow_site

Parties = dict[str, Process]


@contextlib.contextmanager
def started(parties: Parties) -> Iterator[Parties]:
    """Whatever happens, no process is left; a test may put a restarted one in place of another."""
    try:
        yield parties
    finally:
        for party in parties.values():
            party.kill()


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {}


def finished_rounds(out: Path) -> list[dict[str, Any]]:
    return read(out / "run" / "run.json").get("rounds", [])


def wait(reached: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "what the test waits for did not come"
        time.sleep(0.02)


def said(out: Path, *words: str) -> list[str]:
    found = messages(out / "aggregator" / "logs" / "fx.log")
    return [line for line in found if all(word in line for word in words)]


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def cost_of(out: Path, name: str) -> dict[str, Any]:
    costs = read_federation(out).document["costs"]
    return next(cost for cost in costs if cost["site"] == name)


def test_a_site_on_a_thin_link_is_named_and_what_it_costs_is_what_the_link_takes(
    federation: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 1 MB each way: a second at 8 Mbit/s. The others' proxies let through what comes.
    plan = (*TOY, "federation.sites=3", "federation.rounds=6", "model.padding=250000")
    scraped = _free_port()
    out = federation(*plan, f"network.metrics_port={scraped}")
    port = _checked_port(out / "aggregator")
    sites = ("site-1", "site-2", "site-3")
    link = Link(up_bits=8e6, down_bits=8e6)
    with Proxies(sites, {"site-3": link}, target=f"{ADDRESS}:{port}", port=port) as proxies:
        launch = proxies.launching(_launch)
        parties = {"aggregator": aggregator(out)}
        with started(parties):
            for name in sites:
                parties[name] = launch(out / name, ("collaborator", "start", "-n", name), {})
            wait(lambda: finished_rounds(out), 120)
            wait(lambda: 'alert_active{quantity="upload",site="site-3"} 1.0' in scrape(scraped), 20)
            wait(lambda: not parties["aggregator"].running, 120)
    assert len(finished_rounds(out)) == 6
    # Sites know the first model, so nothing is downloaded in the first round.
    assert said(out, "site-3, round 1: upload")
    assert said(out, "site-3, round 2: download")
    cost = cost_of(out, "site-3")
    assert (cost["rounds"], cost["cause"] in ("upload", "download")) == (6, True)
    assert cost["seconds"] == pytest.approx(6 * 1.0 + 5 * 1.0, rel=0.15)
    assert cost["mine"] == pytest.approx(1e6, rel=0.15)
    assert said(out, "site-3 cost the federation")

    status = read(out / "aggregator" / "local_state" / "status.json")
    assert {alert["site"] for alert in status["alerts"]["active"]} == {"site-3"}
    for party in ("aggregator", *sites):
        text = (out / party / "local_state" / "metrics.prom").read_text()
        assert 'openfl_flows_site_sent_bytes_total{site="site-3"}' in text or party != "site-3"
    page = tmp_path / "dashboard.html"
    assert main(["status", str(out), "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "6 of 6 rounds" in shown
    assert "site-3 cost the federation" in shown.replace("\n", " ")
    assert "What slow sites cost" in page.read_text()


def _launch(folder: Path, arguments: tuple[str, ...], environment: Environment) -> Party:
    return Party(folder, *arguments, environment=environment)


DELAY, ONSET, ROUNDS = 4.0, 4, 100


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_hundred_rounds_with_a_slow_a_late_and_a_crashing_site(
    federation: Callable[..., Path],
) -> None:
    out = federation(*TOY, "federation.sites=5", f"federation.rounds={ROUNDS}")
    parties: Parties = {"aggregator": aggregator(out)}
    with started(parties):
        for name in ("site-1", "site-2", "site-4"):
            parties[name] = site(out, name)
        parties["site-3"] = slow_site(out, "site-3", seconds=DELAY, from_round=ONSET)
        time.sleep(10)
        assert not finished_rounds(out)
        parties["site-5"] = site(out, "site-5")

        def rounds() -> int:
            assert parties["aggregator"].running or len(finished_rounds(out)) == ROUNDS
            return len(finished_rounds(out))

        # The slow one is named in the round in which it became slow.
        wait(lambda: rounds() >= ONSET + 1, 120)
        assert said(out, f"site-3, round {ONSET}: compute")
        wait(lambda: rounds() >= 10, 120)
        predicted = read_federation(out).document["expected"]["total_seconds"]
        wait(lambda: rounds() >= 40, 400)
        parties["site-4"].kill()
        time.sleep(8)
        parties["site-4"] = site(out, "site-4")
        wait(lambda: rounds() == ROUNDS, 800)
        assert parties["aggregator"].wait() == 0

    check_consortium(out, predicted)


def check_consortium(out: Path, predicted: float) -> None:
    """What the record of those hundred rounds, and the aggregator, say of them."""
    record = read(out / "run" / "run.json")
    assert record["status"] == "finished"
    assert [entry["round"] for entry in record["rounds"]] == list(range(1, ROUNDS + 1))
    assert all(len(entry["sites"]) == 5 for entry in record["rounds"])

    slowest = [found for entry in record["rounds"] if (found := round_cost(entry))]
    slow = [one for one in slowest if one.site == "site-3" and one.round >= ONSET]
    # In the round of the crash, and the one after, another may be the slowest.
    assert len(slow) >= ROUNDS - ONSET - 1
    injected = DELAY * len(slow)
    assert sum(one.over_median for one in slow) == pytest.approx(injected, rel=0.02)
    # What would have been saved is bounded by the longest of four other paths, which by chance is
    # longer than a usual one.
    assert sum(one.seconds for one in slow) == pytest.approx(injected, rel=0.05)
    assert cost_of(out, "site-3")["cause"] == "compute"
    assert len(said(out, "site-3, round", "compute")) == 1
    crash = cost_of(out, "site-4")
    assert crash["cause"] == "absent"
    assert 3 < crash["seconds"] < 12
    assert said(out, "site-4, round", "was absent for")

    took = sum(entry["seconds"] for entry in record["rounds"])
    assert predicted == pytest.approx(took, rel=0.1)
    memory = read_federation(out).document["memory"]
    assert {trend["verdict"] for trend in memory.values()} == {"steady"}
