import json
import re

import pytest

from openfl_flows.codecs.recipes import build_compression
from openfl_flows.flows.simulation import simulate
from openfl_flows.joins.recipes import diloco
from openfl_flows.learners.base import Budget
from openfl_flows.learners.toy import ToyTask
from openfl_flows.ops.run import RunDirectory
from openfl_flows.report.html import write_report
from openfl_flows.report.round_time import predictions, read_section, site_parts, slowest_site

LINK = {"federation": {"link": {"site-a": "10mbit", "site-b": "10mbit/4mbit"}}}
TRAVEL = {"download": 4.0, "decode": 0.5, "encode": 1.0, "upload": 2.0, "wait": 3.0}


def edit(run, change):
    record = json.loads((run / "run.json").read_text())
    change(record)
    (run / "run.json").write_text(json.dumps(record))


@pytest.fixture
def federated(make_run):
    """Three rounds; the second has hiccups that no median shows. Site-b's download is slow."""

    def make(config=LINK):
        run = make_run(config={"name": "demo"} | config, rounds=3)

        def change(record):
            for entry in record["rounds"]:
                factor = 10 if entry["round"] == 2 else 1
                entry |= {"seconds": 26.0 * factor, "join_seconds": 1.25 * factor}
                for site, part in entry["sites"].items():
                    slow = {"download": 9.0, "wait": 1.5} if site == "site-b" else {}
                    spent = {"receive": 1.0, "train": 10.0} | TRAVEL | slow
                    part["seconds"] = {name: s * factor for name, s in spent.items()}
                    part |= {"bytes_down": 4_500_000, "bytes_up": 2_500_000, "num_steps": 20}

        edit(run, change)
        return run

    return make


def record_of(run):
    return RunDirectory.open(run).record


def test_medians_of_what_a_site_measured(federated):
    record = record_of(federated())
    assert site_parts(record, "site-a") == {"compute": 11.0, **TRAVEL}
    assert site_parts(record, "site-b")["download"] == 9.0


def test_prediction_beside_the_measurement(federated):
    record = record_of(federated())
    section = read_section(record)
    rows = {row[0]: row[1:] for row in section.table.rows}
    assert list(rows) == [
        "site-a", "site-a, predicted", "site-b", "site-b, predicted",
        "the aggregator",
    ]  # fmt: skip
    # download, decode, compute, encode, upload, join, wait
    assert rows["site-a"] == (4.0, 0.5, 11.0, 1.0, 2.0, "", 3.0)
    assert rows["site-b, predicted"][0] == 9.0  # 4.5 MB at 4 Mbit/s
    assert rows["site-a, predicted"][0] == 3.6
    assert rows["site-a, predicted"][4] == 2.0
    assert rows["the aggregator"] == ("", "", "", "", "", 1.25, 24.75)
    # 9 + 0.5 + 11 + 1 + 2 and the join.
    assert predictions(record)[0].total == 24.75
    sentence = section.sentences[0]
    assert "A round takes 26.0 s, the median of 3" in sentence
    assert "predict 24.8 s: measured / predicted 1.051." in sentence


def test_the_slowest_site_is_named_with_what_it_costs(federated):
    run = federated()
    assert slowest_site(record_of(run)) == [
        "site-b makes every round 5.0 s longer than the next slowest would: its download takes "
        "9.0 s, that of site-a 4.0 s."
    ]

    def even(record):
        for entry in record["rounds"]:
            entry["sites"]["site-b"]["seconds"]["download"] = 4.2

    edit(run, even)
    assert slowest_site(record_of(run)) == []


def test_what_goes_on_at_once_is_not_counted_twice(federated):
    # Steps take 0.5 s: the delay hides 5 s of the transfers of 6 s and 11 s.
    streaming = {"fragments": 2, "delay": 10, "mixing": 0.0}
    record = record_of(federated({"federation": {**LINK["federation"], "streaming": streaming}}))
    assert predictions(record)[0].sites["site-b"].exposed == 6.0
    assert predictions(record)[0].total == 19.75
    assert "5.0 s longer" in slowest_site(record)[0]


def test_without_a_link_there_is_no_prediction(federated):
    section = read_section(record_of(federated({})))
    assert [row[0] for row in section.table.rows] == ["site-a", "site-b", "the aggregator"]
    assert section.sentences[0] == "A round takes 26.0 s, the median of 3."


def test_the_page_shows_it_all(federated):
    page = write_report(federated()).read_text()
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    assert "<h2>Round time</h2>" in page
    assert 'aria-label="Round time, median over rounds [s]"' in page
    assert "measured / predicted 1.051" in shown
    assert "site-a 4.000 0.5000 11.00 1.000 2.000 3.000" in shown
    assert "site-b makes every round 5.0 s longer" in shown
    # Tasks are tasks: nothing that travels has a column among them, or is in their total.
    assert "1.0 s 10.0 s 11.0 s 2.4 MiB 4.3 MiB" in shown


def test_a_run_that_measured_nothing_of_the_kind_has_no_such_section(make_run):
    run = make_run()
    assert read_section(record_of(run)) is None
    assert "Round time" not in write_report(run).read_text()


def test_a_site_that_missed_rounds_is_shown_as_far_as_it_was_there(federated):
    run = federated()
    edit(run, lambda record: record["rounds"][0]["sites"].pop("site-b"))
    edit(run, lambda record: record["rounds"][1].update(sites={}))
    record = record_of(run)
    assert len(predictions(record)) == 2
    assert read_section(record).table.rows[2][0] == "site-b"
    assert "<h2>Round time</h2>" in write_report(run).read_text()


def test_a_link_that_cannot_be_read_is_refused(federated):
    run = federated({"federation": {"link": "fast"}})
    with pytest.raises(ValueError, match=r"federation\.link='fast', expected e\.g\. 10mbit"):
        write_report(run)


def test_a_simulation_encodes_but_nothing_travels(tmp_path):
    run = simulate(
        ToyTask(sites=("site-1", "site-2"), seed=1),
        rounds=2,
        budget=Budget(steps=3),
        join=diloco(),
        compression=build_compression("int4"),
        out=tmp_path / "run",
    )
    section = read_section(run.record)
    assert [row[0] for row in section.table.rows] == ["site-1", "site-2", "the aggregator"]
    assert section.table.columns[3] == "compute [s]"
    for row in section.table.rows[:2]:
        assert row[3] > 0  # compute
        assert row[4] > 0  # encode
        assert row[5] == ""  # upload
    assert len(section.sentences) == 1
    assert "<h2>Round time</h2>" in write_report(run.path).read_text()
