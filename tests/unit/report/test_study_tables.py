"""A study's tables: means, published values, differences with paired intervals."""

import csv
import io
import json

import pytest

from openfl_flows.ops.run import RunDirectory
from openfl_flows.report.study_tables import Finished, costs, differences, results, skew, to_csv
from openfl_flows.study.plan import Pair, RunPlan, Study

STUDY = Study(
    runs={"federated": RunPlan(command="simulate"), "centralized": RunPlan(command="centralize")},
    seeds=(1, 2, 3),
    compare=(Pair(run="federated", reference="centralized"),),
    published={"federated": {"test_nll": 70.58}},
    limits={"test_nll": 3.06},
)
VALUES = {"federated": (68.0, 70.0, 72.0), "centralized": (67.0, 70.0, 70.0)}


@pytest.fixture
def finished(make_run):
    runs = {
        name: [
            RunDirectory.open(
                make_run(f"{name}-{seed}", config={"seed": seed}, metrics={"test_nll": value})
            )
            for seed, value in enumerate(values, start=1)
        ]
        for name, values in VALUES.items()
    }
    return Finished(study=STUDY, runs=runs, metrics=("test_nll",))


def test_a_cell_is_mean_and_deviation_and_the_published_value_stands_below(finished) -> None:
    assert results(finished).rows == (
        ("federated", "3", "70.00 ± 2.000"),
        ("centralized", "3", "69.00 ± 1.732"),
        ("federated, published", "", "70.58"),
    )


# Pairs by seed: 1, 0, 2; mean 1, half width 2.484138; of 69: 1.4493 and -2.1509 .. 5.0495 %.
def test_a_difference_has_its_sign_its_paired_interval_and_its_limit(finished) -> None:
    (row,) = differences(finished, STUDY.compare[0]).rows
    assert row == (
        "federated",
        "centralized",
        "+1.45 % (-2.15 to +5.05); within 3.06 %: yes",
    )


def test_the_csv_has_all_digits(finished) -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(finished))))
    assert [line["kind"] for line in lines] == ["cell", "cell", "difference"]
    assert (lines[0]["mean"], lines[0]["published"]) == ("70.0", "70.58")
    assert float(lines[2]["change"]) == pytest.approx(100 / 69)
    assert float(lines[2]["change low"]) == pytest.approx(-100 * 1.484138 / 69)
    assert (lines[2]["paired"], lines[2]["within"]) == ("True", "True")


def test_a_metric_that_is_no_number_is_left_out(finished) -> None:
    finished.runs["federated"][0].record["metrics"]["test_nll"] = float("nan")
    assert results(finished).rows[0][2] == "–"
    assert differences(finished, STUDY.compare[0]).rows[0][2] == "–"


# Two rounds of 1,234 samples and 17 steps at each of two sites, 26.5 s, 2 and 5 MiB.
def test_the_cost_is_summed_over_rounds_and_sites(finished) -> None:
    assert costs(finished).rows[0][:8] == (
        "federated", "2", "4,936", "68", "34", "53.0 s", "4.0 MiB", "10.0 MiB",
    )  # fmt: skip


def test_skew_is_the_mean_over_sites(finished) -> None:
    assert skew(finished) is None
    for run in finished.runs["federated"]:
        part = {"columns": ["site", "rings"], "rows": [["a", 0.1], ["b", 0.3]], "note": "in bits"}
        document = {"columns": ["site"], "rows": [["a"], ["b"]], "skew": part}
        (run.path / "partition.json").write_text(json.dumps(document))
    table = skew(finished)
    assert table is not None
    assert table.rows == (("federated", "0.2000"),)
