"""Prometheus reads the same from the file and over HTTP, and nothing but names and numbers."""

import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from openfl_flows.ops.exposition import FILE, Exposition
from openfl_flows.ops.monitor import Monitor
from tests.unit.ops.test_costs import entry, part

CANARY = "CC(=O)OC1=CC=CC=C1"


def document() -> dict:
    monitor = Monitor(rounds=10)
    for number in (1, 2):
        sites = {f"site_{n}": part(up=10**6, upload=1.0, wait=0.5, absent=0.0) for n in (1, 2)}
        sites["site_2"]["seconds"]["upload"] = 9.0
        for own in sites.values():
            own["metrics"] = {"train_loss": 2.0, f"recall_of_{CANARY}": 0.5}
            own |= {"rss_bytes": 10**8, "frames": CANARY}
        monitor.observe({**entry(number, **sites), "rss_bytes": 10**9, "digest": CANARY})
    status = {
        "round": 3, "rounds": 10, "seconds": [50.0, 50.0],
        "sites": {"site-1": {"last_heard": 1e9, "refused": CANARY}},
    }  # fmt: skip
    return {**status, **monitor.document()}


@pytest.fixture
def exposition(tmp_path: Path) -> Exposition:
    made = Exposition(tmp_path / FILE)
    made.show(document())
    return made


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_figures_are_those_of_the_run(exposition: Exposition, tmp_path: Path) -> None:
    found = samples((tmp_path / FILE).read_text())
    own = "openfl_flows_"
    assert found[f"{own}round", ()] == 3
    assert found[f"{own}left_seconds", ()] == 8 * 50
    assert found[f"{own}site_sent_bytes_total", ("site-1",)] == 2e6
    assert found[f"{own}site_cost_seconds_total", ("site-2",)] == 16
    assert found[f"{own}site_upload_bytes_per_second", ("site-1",)] == 1e6
    assert found[f"{own}alert_active", ("upload", "site-2")] == 1
    assert found[f"{own}resident_memory_bytes", ("aggregator",)] == 1e9
    assert found[f"{own}site_train_loss", ("site-1",)] == 2


def test_names_follow_the_conventions(exposition: Exposition, tmp_path: Path) -> None:
    for family in text_string_to_metric_families((tmp_path / FILE).read_text()):
        assert re.fullmatch(r"openfl_flows_[a-z_]+", family.name)
        assert family.documentation
        assert all(
            sample.name.endswith("_total") == (family.type == "counter")
            for sample in family.samples
        )


def test_labels_are_names_of_parties_parts_and_tasks(
    exposition: Exposition, tmp_path: Path
) -> None:
    text = (tmp_path / FILE).read_text()
    assert CANARY not in text
    labels = set(re.findall(r'(\w+)="([^"]*)"', text))
    assert {name for name, _ in labels} <= {"site", "party", "part", "task", "quantity"}
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", value) for _, value in labels)


def test_http_is_on_this_machine_alone_and_says_the_same(
    exposition: Exposition, tmp_path: Path
) -> None:
    port = exposition.serve(0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert samples(answer.read().decode()) == samples((tmp_path / FILE).read_text())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ValueError, match=r"^network.metrics_port=\d+, expected a free port"):
            exposition.serve(taken.getsockname()[1])
    # Another address of the loopback device stands for all others.
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.2:{port}/metrics", timeout=5)


def test_a_run_that_has_not_begun_has_nothing_to_show(tmp_path: Path) -> None:
    made = Exposition(tmp_path / FILE)
    made.show({})
    assert samples((tmp_path / FILE).read_text()) == {}
