"""plan-link: advice that can be checked by hand, from options, from plans and from runs."""

import json
import re
from pathlib import Path

import pytest

from openfl_flows.cli import main
from tests.refusals import refused

TOY = ("plan-link", "experiment=toy", "--bandwidth", "10mbit", "--step-seconds", "1")
# A synchronisation of OpenFold3 takes 30.5 minutes each way in fp32, 40 steps take 8 minutes.
OPENFOLD3 = (
    "plan-link", "experiment=of3_finetune", "federation.steps=40", "--parameters", "571.5M",
    "--bandwidth", "10mbit", "--step-seconds", "12",
)  # fmt: skip


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main((*arguments, "--json")) == 0
    return json.loads(capsys.readouterr().out)


def test_openfold3_over_ten_megabits(capsys):
    plan = answer(capsys, *OPENFOLD3)
    planned = plan["planned"]
    assert planned["codec"] == "identity"
    assert planned["transfer"] / 60 == pytest.approx(2 * 30.48, abs=0.01)
    assert planned["round"] == pytest.approx(480 + planned["transfer"], rel=0.01)
    assert {codec["name"] for codec in plan["codecs"]} >= {
        "identity",
        "bf16",
        "int8",
        "int4",
        "int2",
    }
    advised = plan["advised"]
    assert advised["codec"] == "int4"
    assert advised["multiple"] == 1
    assert advised["fragments"] > 1
    assert advised["steps"] * advised["fragments"] == 40
    assert 0 < advised["delay"] < advised["steps"]
    assert advised["idle"] <= 0.1
    # 571.5M values over F, each way, at 10 Mbit/s.
    int4 = next(codec for codec in plan["codecs"] if codec["name"] == "int4")
    way = 8 * 571.5e6 * int4["bytes_per_value"] / advised["fragments"] / 10e6
    assert advised["transfer"] == pytest.approx(2 * way, rel=1e-3)
    assert plan["advice"][0].startswith("Advice: codec=int4 federation.steps=")


def test_the_advice_is_written_out(capsys):
    assert main(OPENFOLD3) == 0
    text = capsys.readouterr().out
    for line in (
        "571,500,000 values travel, H = 40 steps, 2 sites",
        "As planned: codec=identity federation.steps=40: a round takes 1 h 09 min, idle 88.",
        "Advice: codec=int4 federation.steps=20 federation.streaming.fragments=2",
        "x 8 / 10 Mbit/s = ",
        "compute 20 steps x 12.0 s = 4 min 00 s",
        "of a round, allowed 10.0 %",
        "Other codecs that do, each with its smallest H and F:",
    ):
        assert line in text, line


def test_a_wide_link_needs_nothing_else(capsys):
    plan = answer(capsys, *OPENFOLD3[:-3], "10gbit", "--step-seconds", "12")
    advised = plan["advised"]
    assert (advised["codec"], advised["fragments"], advised["multiple"]) == ("identity", 1, 1)


def test_where_nothing_does_it_says_what_would(capsys):
    assert main((*TOY[:3], "10kbit", "--step-seconds", "0.1", "--parameters", "1M")) == 0
    text = capsys.readouterr().out
    assert "Nothing here keeps idle under 10.0 %. The nearest: codec=" in text
    assert re.search(r"It would do with links \d+ times as wide or with H = [\d,]+ steps\.", text)


def test_the_plan_tells_model_link_and_codec(capsys):
    plan = answer(
        capsys, *TOY[:2], "model.padding=1000000", "codec=int8", "codec.block=256",
        "federation.link=2mbit/8mbit+10ms", "--round-seconds", "10",
    )  # fmt: skip
    assert plan["values"] == 1_000_008
    assert plan["links"]["site-2"] == {"up_bits": 2e6, "down_bits": 8e6, "latency": 0.01}
    assert plan["paces"]["site-1"]["step"] == 2
    int8 = next(codec for codec in plan["codecs"] if codec["name"] == "int8")
    assert int8["raw_bytes_per_value"] == 1 + 2 / 256
    assert plan["planned"]["codec"] == "int8"
    way = 8 * 1_000_008 * int8["bytes_per_value"]
    assert plan["planned"]["transfer"] == pytest.approx(way / 2e6 + way / 8e6 + 0.04, rel=0.01)


def test_links_of_sites_and_of_the_aggregator(capsys):
    plan = answer(
        capsys, *TOY, "--bandwidth", "site-2=1mbit", "--bandwidth", "aggregator=4mbit/100mbit",
        "--parameters", "10M",
    )  # fmt: skip
    assert plan["links"]["site-1"]["up_bits"] == 10e6
    assert plan["links"]["site-2"]["up_bits"] == 1e6
    assert plan["planned"]["slowest"] == "site-2"
    plan = answer(
        capsys, *TOY, "--bandwidth", "aggregator=4mbit/100mbit", "--parameters", "10M"
    )  # fmt: skip
    # Both sites' models go up the aggregator's line at once; each update has a link of its own.
    assert plan["planned"]["transfer"] == pytest.approx(8 * 40e6 * (2 / 4e6 + 1 / 10e6), rel=1e-3)


def test_links_as_the_sites_measured_them(capsys, tmp_path):
    rates = {"upload_bytes_per_second": 1.25e6, "download_bytes_per_second": 1.25e7}
    sites = {"site-1": {"measured": rates}, "site-2": {"measured": {"step_seconds": 1.0}}}
    file = tmp_path / "status.json"
    file.write_text(json.dumps({"readiness": {"sites": sites}}))
    status = (*TOY[:2], "--status", str(file), "--step-seconds", "1")
    assert "site-2 has no link" in refused(capsys, *status)
    plan = answer(capsys, *status, "--bandwidth", "site-2=1mbit")
    assert plan["links"]["site-1"] == {"up_bits": 1e7, "down_bits": 1e8, "latency": 0.0}
    assert plan["links"]["site-2"]["up_bits"] == 1e6
    for content in ("{", "[]", "{}", '{"readiness": {"sites": {"site-1": {"measured": 3}}}}'):
        file.write_text(content)
        line = refused(capsys, *status)
        assert line.startswith(f"openfl-flows: error: --status={file}: ")
        assert "expected the status.json of an aggregator" in line


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    words = ("experiment=toy", "codec=int4", "model.padding=100000", "runtime.quiet=true")
    assert main(("simulate", *words, f"out={run}")) == 0
    return run


def test_a_run_tells_seconds_and_bytes(capsys, finished):
    run = finished
    plan = answer(capsys, "plan-link", "--run", str(run), "--bandwidth", "10mbit")
    assert plan["values"] == 100_008
    record = json.loads((run / "run.json").read_text())
    steps = [entry["sites"]["site-1"]["seconds"]["train"] / 5 for entry in record["rounds"]]
    assert plan["paces"]["site-1"]["step"] == sorted(steps)[1]
    int4 = next(codec for codec in plan["codecs"] if codec["name"] == "int4")
    assert int4["measured"] == str(run)
    # What did not train is all zeros, of which next to nothing is left.
    assert plan["planned"]["bytes_one_way"] == pytest.approx(
        sorted(entry["bytes_up"] / 2 for entry in record["rounds"])[1], rel=0.02
    )
    others = [codec for codec in plan["codecs"] if codec["name"] != "int4"]
    assert {codec["measured"] for codec in others} == {"normal random numbers"}


def test_the_model_is_not_needed_where_its_size_is_said(capsys):
    nowhere = ("plan-link", "experiment=demo", "data=csv", "data.path=/nowhere.csv",
               "--bandwidth", "10mbit", "--round-seconds", "60")  # fmt: skip
    line = refused(capsys, *nowhere)
    assert "/nowhere.csv" in line
    assert line.endswith("(--parameters N needs no model)")
    assert answer(capsys, *nowhere, "--parameters", "1.5M")["values"] == 1_500_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (TOY[:2], "site-1 has no link: expected federation.link, --status"),
        (TOY[:4], "how long a site computes is missing, expected --step-seconds S"),
        ((*TOY, "--idle", "10"), "--idle=10, expected a share between 0 and 1, e.g. 10% or 0.1"),
        ((*TOY, "--idle", "much"), "--idle=much, expected a share"),
        ((*TOY, "--parameters", "many"), "--parameters='many', expected a number above 0"),
        ((*TOY, "--bandwidth", "10"), "--bandwidth='10', expected e.g. 10mbit"),
        ((*TOY, "--bandwidth", "site-3=1mbit"), "expected one of site-1, site-2"),
        ((*TOY[:4], "--step-seconds", "-1"), "--step-seconds=-1, expected seconds above 0"),
        (
            ("plan-link", "experiment=demo", *TOY[2:]),
            "--step-seconds=1, but federation.epochs=2: expected federation.steps",
        ),
        (("plan-link", "--run", "/nowhere", *TOY[2:]), "/nowhere: not a run directory"),
        ((*TOY, "federation.steps=0"), "federation.steps=0, expected at least 1"),
    ],
)
def test_what_cannot_be_used_is_one_line(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_a_run_without_a_site_of_the_plan_is_refused(capsys, finished):
    more = ("plan-link", "experiment=toy", "federation.sites=3", "--run", str(finished))
    line = refused(capsys, *more, "--bandwidth", "1mbit")
    assert f"--run={finished} has no round of site-3" in line
