"""A federation begins with the sites that are ready; a late one joins at the next cycle."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from openfl_flows.learners.toy import ToyTask
from openfl_flows.taskrunner.parties import run_fx
from tests.e2e.test_federation_faults import joined, log, rounds, running, wait
from tests.fx_processes import TOY, aggregator, launch, site

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
        # Site-1 shows itself again to an aggregator that was killed while it waited.
        assert parties["aggregator"].kill() < 0
        parties["aggregator"] = aggregator(out)
        pins.write_text(whole)
        parties["site-2"] = site(out, "site-2")
        assert [parties[name].wait() for name in ("site-1", "site-2")] == [0, 0]
    assert rounds(out) == 3


def test_a_site_that_is_taken_out_is_no_longer_waited_for(federation: Callable[..., Path]) -> None:
    out = federation(*TOY)
    with running(out, names=("aggregator", "site-1")) as parties:
        wait(lambda: is_ready(out, "site-1"))
        assert parties["aggregator"].kill() < 0
        cols = out / "aggregator" / "plan" / "cols.yaml"
        cols.write_text(yaml.safe_dump({"collaborators": ["site-1"]}))
        parties["aggregator"] = aggregator(out)
        assert [parties[name].wait() for name in ("site-1", "aggregator")] == [0, 0]
    record = json.loads((out / "run" / "run.json").read_text())
    assert [list(entry["sites"]) for entry in record["rounds"]] == [["site-1"]] * 3


def test_a_federation_begins_with_the_model_that_the_aggregator_was_given(
    federation: Callable[..., Path], tmp_path: Path
) -> None:
    out, checkpoint = federation(*TOY), tmp_path / "checkpoint.pt"
    own = ToyTask(sites=SITES[:2])
    given = own.initial_state().map(lambda array: array + np.float32(0.5))
    own.save_native(given, checkpoint)
    run_fx(out / "aggregator", "plan", "initialize", "-i", str(checkpoint), launch=launch)
    with running(out) as parties:
        assert [party.wait() for party in parties.values()] == [0, 0, 0], log(out, "site-1")
    record = json.loads((out / "run" / "run.json").read_text())
    assert record["initial"]["digest"] == given.digest()
    assert len(record["rounds"]) == 3
