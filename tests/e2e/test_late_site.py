"""A federation begins with the sites that are ready; a late one joins at the next cycle."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.test_federation_faults import joined, log, rounds, running, wait
from tests.fx_processes import TOY, aggregator, site

SITES = ("site-1", "site-2", "site-3")
PLAN = (
    *TOY, "federation.sites=3", "federation.rounds=4", "model.samples=2000", "federation.steps=100",
    "network.readiness.cycle_rounds=2", "network.readiness.least_sites=2",
    "network.readiness.wait_seconds=8",
)  # fmt: skip


def readiness(out: Path) -> dict:
    file = out / "aggregator" / "local_state" / "status.json"
    return json.loads(file.read_text()).get("readiness", {}) if file.is_file() else {}


def is_ready(out: Path, name: str) -> bool:
    return bool(readiness(out).get("sites", {}).get(name, {}).get("ready"))


def test_a_late_site_joins_at_the_next_cycle(federation: Callable[..., Path]) -> None:
    out = federation(*PLAN)
    with running(out, names=("aggregator", "site-1", "site-2")) as parties:
        wait(lambda: all(is_ready(out, name) for name in SITES[:2]))
        lacks = readiness(out)["sites"]["site-3"]["lacks"]
        assert [finding["probe"] for finding in lacks] == ["verdict"]
        assert not readiness(out)["open"]
        wait(lambda: "Round 1 begins without site-3: not ready" in log(out, "aggregator"))
        assert parties["aggregator"].kill() < 0
        with site(out, "site-3") as late:
            parties["aggregator"] = aggregator(out)
            wait(lambda: joined(4)(out))
            for name in SITES[:2]:
                assert parties[name].wait() == 0, log(out, name)
            assert late.wait() == 0, log(out, "site-3")
    record = json.loads((out / "run" / "run.json").read_text())
    assert record["status"] == "finished"
    assert [list(r["sites"]) for r in record["rounds"]] == [[*SITES[:2]]] * 2 + [[*SITES]] * 2
    assert "Round 3 begins with site-1, site-2, site-3" in log(out, "aggregator")


def test_a_site_that_is_not_ready_says_so_at_both_ends(federation: Callable[..., Path]) -> None:
    out = federation(*TOY)
    pins = out / "site-2" / "requirements.txt"
    whole = pins.read_text()
    pins.write_text(whole.replace("numpy==", "numpy==0."))
    with running(out) as parties:
        assert parties["site-2"].wait() == 1
        said = "site-2 is not ready: versions: requirements.txt: numpy "
        assert said in log(out, "site-2")
        wait(lambda: said in log(out, "aggregator"))
        time.sleep(1)
        assert rounds(out) == 0
        wait(lambda: not readiness(out)["sites"]["site-2"]["ready"])
        (lack,) = readiness(out)["sites"]["site-2"]["lacks"]
        assert lack["remedy"].startswith("pip install -r requirements.txt")
        pins.write_text(whole)
        parties["site-2"] = site(out, "site-2")
        assert [parties[name].wait() for name in ("site-1", "site-2")] == [0, 0]
    assert rounds(out) == 3
