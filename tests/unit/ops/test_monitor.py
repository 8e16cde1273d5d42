"""What is watched follows from the record alone: at once, after a restart, and read later."""

import json

import pytest

from openfl_flows.ops.monitor import Monitor, losses_of, monitored
from tests.unit.ops.test_alerts import noisy

MODEL = 10**9


def run(count: int, *, leaking: str = "") -> list[dict]:
    rounds = noisy(count)
    for e in rounds:
        e |= {"seconds": 14.0 + (30.0 if e["round"] == 1 else 0.0), "model_bytes": MODEL}
        e["rss_bytes"] = 10**9 + (leaking == "aggregator") * e["round"] * 5 * 10**6
        for site, own in e["sites"].items():
            own["rss_bytes"] = 10**9 + (leaking == site) * e["round"] * 5 * 10**6
    return rounds


def test_a_monitor_that_begins_anew_comes_to_the_same() -> None:
    rounds = run(30, leaking="site-2")
    rounds[9]["sites"]["site-4"]["seconds"]["upload"] = 40.0
    watching = Monitor(rounds=50)
    told = [alert for e in rounds for alert in watching.observe(e)]
    again = monitored(rounds, planned=50)
    assert again.document() == watching.document()
    assert again.told == told
    assert json.loads(json.dumps(again.document(), allow_nan=False)) == again.document()


def test_what_is_left_follows_the_last_rounds_and_not_the_first() -> None:
    found = monitored(run(4), planned=10).document()["expected"]
    assert found == {"round_seconds": 14.0, "left_seconds": 84.0, "total_seconds": 44 + 42 + 84}
    assert monitored([], planned=10).document()["expected"]["left_seconds"] is None


@pytest.mark.parametrize("party", ["aggregator", "site-3"])
def test_a_leak_is_told_once_and_to_whom_it_belongs(party: str) -> None:
    watching = monitored(run(60, leaking=party), planned=60)
    told = [(a.site, a.quantity, a.over) for a in watching.told]
    assert told == [(party, "memory", False)]
    verdicts = {name: t["verdict"] for name, t in watching.document()["memory"].items()}
    assert verdicts.pop(party) == "leak"
    assert set(verdicts.values()) == {"steady"}


def test_old_records_without_memory_are_read() -> None:
    document = monitored(noisy(3), planned=3).document()
    assert document["memory"] == {}
    assert "absent" not in document["spans"]["site-1"]


def test_throughput_is_of_the_last_round() -> None:
    rounds = noisy(2)
    part = rounds[-1]["sites"]["site-1"]
    part |= {"bytes_up": 10**6, "num_samples": 300}
    part["seconds"] |= {"train": 10.0, "upload": 2.0, "download": 0.0}
    found = monitored(rounds, planned=2).document()["throughput"]["site-1"]
    assert found == {
        "samples_per_second": 30.0,
        "upload_bytes_per_second": 5e5,
        "download_bytes_per_second": 0.0,
    }


def test_the_best_metric_is_watched_where_less_is_better() -> None:
    assert losses_of({"best": {"metric": "mse", "mode": "min"}}) == ("train_loss", "mse")
    assert losses_of({"best": {"metric": "accuracy", "mode": "max"}}) == ("train_loss",)
    assert losses_of({}) == ("train_loss",)
