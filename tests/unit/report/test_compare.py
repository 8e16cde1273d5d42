import csv
import io

import pytest
from scipy import stats

from openfl_flows.report.compare import compare
from openfl_flows.report.intervals import fold, half_width, summarise, welch_half_width


def group(make_run, name, values, seeds, metric="test_nll"):
    return [
        make_run(f"{name}-{i}", config={"name": name, "seed": s}, metrics={metric: v}, rounds=1)
        for i, (v, s) in enumerate(zip(values, seeds, strict=True))
    ]


# By hand: a = 68, 70, 72 and b = 67, 70, 70 with seeds in another order.
# mean a 70, sd 2; t(0.975, 2) = 4.302653; half width 4.302653 * 2 / sqrt 3 = 4.968276.
# mean b 69, sd sqrt 3. Pairs by seed: 68-67, 70-70, 72-70 = 1, 0, 2: mean 1, sd 1,
# half width 2.484138 -> (-1.484138 .. 3.484138) / 69 -> folded 0 .. 5.049475 %.
def test_paired_table_by_hand(make_run):
    a = group(make_run, "federated", [68.0, 70.0, 72.0], [1, 2, 3])
    b = group(make_run, "centralized", [70.0, 67.0, 70.0], [3, 1, 2])
    (row,) = compare(a, b).rows
    assert (row.a.mean, row.a.sd, row.a.n) == (70.0, 2.0, 3)
    assert row.a.interval == pytest.approx((65.031724, 74.968276))
    assert (row.b.mean, row.b.sd) == (69.0, pytest.approx(3**0.5))
    assert row.paired
    assert row.percent == pytest.approx(100 / 69)
    assert row.interval == pytest.approx((0.0, 5.049475))
    assert (row.limit, row.within) == (3.1, True)


def test_different_seeds_are_not_paired(make_run):
    values = [68.0, 70.0, 72.0], [70.0, 67.0, 70.0]
    a = group(make_run, "federated", values[0], [1, 2, 3])
    b = group(make_run, "centralized", values[1], [4, 1, 2])
    (row,) = compare(a, b).rows
    assert not row.paired
    welch = stats.ttest_ind(*values, equal_var=False).confidence_interval(0.95)
    assert welch.low < 0
    assert row.interval == pytest.approx((0.0, 100 * welch.high / 69))


def test_repeated_or_missing_seeds_are_not_paired(make_run):
    a = group(make_run, "a", [1.0, 2.0], [1, 1])
    b = group(make_run, "b", [1.0, 2.0], [1, 1])
    c = group(make_run, "c", [1.0, 2.0], [None, None])
    assert not compare(a, b).rows[0].paired
    assert not compare(c, c).rows[0].paired


def test_one_run_on_each_side_has_no_interval(make_run):
    a = group(make_run, "federated", [74.4], [1])
    b = group(make_run, "centralized", [72.0], [1])
    comparison = compare(a, b)
    (row,) = comparison.rows
    assert (row.a.sd, row.a.interval, row.interval, row.paired) == (None, None, None, False)
    assert (row.limit, row.within) == (3.1, False)
    assert comparison.to_markdown() == (
        "| metric | federated | centralized | absolute difference | paper |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| test NLL [nats] ↓ | 74.40 (n=1: no interval) | 72.00 (n=1: no interval) "
        "| 3.33 % (n=1: no interval) | ≤ 3.1 %: no |\n"
    )


@pytest.mark.parametrize(
    ("metric", "a", "b", "limit", "within"),
    [
        ("test_nll", 103.0, 100.0, 3.1, True),
        ("test_nll", 96.8, 100.0, 3.1, False),
        ("test_mae", 0.71, 0.7, 1.4, False),
        ("validity", 0.996, 1.0, 0.5, True),
        ("uniqueness", 0.994, 1.0, 0.5, False),
        ("test_elbo", 27.0, 27.0, None, None),
    ],
)
def test_limits_of_the_paper(make_run, metric, a, b, limit, within):
    first = group(make_run, "a", [a], [1], metric)
    second = group(make_run, "b", [b], [1], metric)
    (row,) = compare(first, second).rows
    assert (row.limit, row.within) == (limit, within)


def test_metrics_follow_the_papers_order_or_the_callers(make_run):
    metrics = {"uniqueness": 0.9, "zeta": 1.0, "test_nll": 70.0}
    a = make_run("a", config={"name": "a"}, metrics=metrics, rounds=1)
    b = make_run("b", config={"name": "b"}, metrics=metrics, rounds=1)
    assert [row.metric for row in compare([a], [b]).rows] == ["test_nll", "uniqueness"]
    assert [row.metric for row in compare([a], [b], ["zeta"]).rows] == ["zeta"]


def test_reference_of_zero_has_no_relative_difference(make_run):
    comparison = compare(group(make_run, "a", [0.1], [1]), group(make_run, "b", [0.0], [1]))
    assert (comparison.rows[0].percent, comparison.rows[0].within) == (None, None)
    assert "not defined: the reference is 0" in comparison.to_markdown()


def test_equal_names_are_told_apart_by_folder(make_run):
    a = make_run("first", config={"name": "same"}, metrics={"test_nll": 1.0}, rounds=1)
    b = make_run("second", config={"name": "same"}, metrics={"test_nll": 1.0}, rounds=1)
    comparison = compare([a], [b])
    assert (comparison.a, comparison.b) == ("first", "second")


def test_csv_is_exact(make_run):
    a = group(make_run, "fed, x", [68.1, 70.3], [1, 2])
    b = group(make_run, "cen", [67.7], [1])
    comparison = compare(a, b)
    (line,) = csv.DictReader(io.StringIO(comparison.to_csv()))
    assert float(line["fed, x mean"]) == comparison.rows[0].a.mean
    assert float(line["fed, x sd"]) == comparison.rows[0].a.sd
    assert (line["fed, x n"], line["cen n"], line["cen sd"], line["percent low"]) == (
        "2", "1", "", "",
    )  # fmt: skip
    assert float(line["percent"]) == comparison.rows[0].percent
    assert line["within"] == "True"


def test_names_are_escaped(make_run):
    a = group(make_run, "<b>|", [1.0], [1])
    comparison = compare(a, group(make_run, "cen", [1.0], [1]))
    assert "<th>&lt;b&gt;|</th>" in comparison.to_html()
    assert "| <b>\\| |" in comparison.to_markdown()
    assert comparison.to_html().count("<td>") == 5


def test_unfinished_run_is_refused(make_run):
    run = make_run("half", finish=False)
    with pytest.raises(ValueError, match=r"half: status is 'running'"):
        compare([run], [run])


def test_missing_metric_is_refused(make_run):
    a = make_run("a", metrics={"test_nll": 1.0, "validity": 0.9}, rounds=1)
    b = make_run("b", metrics={"test_nll": 1.0}, rounds=1)
    with pytest.raises(ValueError, match=r"b: no metric 'validity', it has test_nll"):
        compare([a], [b])


def test_value_that_is_not_a_number_is_refused(make_run):
    a = make_run("a", metrics={"test_nll": float("nan")}, rounds=1)
    with pytest.raises(ValueError, match=r"a: metric 'test_nll' is nan"):
        compare([a], [a])


def test_nothing_to_compare_is_refused(make_run):
    a = make_run("a", metrics={"zeta": 1.0}, rounds=1)
    with pytest.raises(ValueError, match="name the metrics"):
        compare([a], [a])
    with pytest.raises(ValueError, match="second group has no run"):
        compare([a], [])


@pytest.mark.parametrize(
    ("low", "high", "folded"), [(1, 2, (1, 2)), (-2, -1, (1, 2)), (-3, 2, (0, 3)), (0, 1, (0, 1))]
)
def test_fold(low, high, folded):
    assert fold(low, high) == folded


def test_equal_values_have_an_interval_of_no_width():
    same = summarise([2.0, 2.0])
    assert half_width([2.0, 2.0]) == 0.0
    assert welch_half_width(same, same) == 0.0
