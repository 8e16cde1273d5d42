"""The record: equal to pooled data, silent where it has to be, the same bits everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.evaluation.disclosure import disclose
from openfl_flows.evaluation.intervals import difference_interval, is_share
from openfl_flows.evaluation.policy import Evaluation
from openfl_flows.evaluation.record import evaluation_record, flat_metrics
from openfl_flows.metrics.classification import class_means, scores
from openfl_flows.metrics.mean import Mean
from openfl_flows.report.evaluation import to_text, write_page
from openfl_flows.strict_json import digest_of

DIGESTS = {"candidate": "c" * 64, "baseline": "b" * 64}


def policy(**options):
    return Evaluation(**{"metrics": ("*",), "baseline": "b.safetensors", **options})


def site(rng, num=200, classes=3):
    true = rng.integers(classes, size=num)
    means, parts = {}, {}
    for model, skill in (("candidate", 0.8), ("baseline", 0.4)):
        predicted = np.where(rng.random(num) < skill, true, rng.integers(classes, size=num))
        means[model] = {
            f"test_{name}": mean for name, mean in class_means(true, predicted, "xyz").items()
        }
        parts[model] = predicted
    return means, true, parts


def test_sites_merged_are_the_pooled_data():
    rng = np.random.default_rng(1)
    sites = {f"site-{i}": site(rng) for i in range(3)}
    left = {name: disclose(own[0], policy(), site=name).means for name, own in sites.items()}
    record = evaluation_record(left, policy(), DIGESTS)
    true = np.concatenate([own[1] for own in sites.values()])
    for model in DIGESTS:
        predicted = np.concatenate([own[2][model] for own in sites.values()])
        for name, value in scores(true, predicted, 3).items():
            assert record["metrics"][f"test_{name}"]["models"][model]["value"] == pytest.approx(
                value, abs=1e-12
            )
    assert flat_metrics(record)["candidate_test_accuracy"] > 0.7


def test_scores_of_all_classes_need_all_classes_of_all_sites():
    rng = np.random.default_rng(2)
    sites = {f"site-{i}": site(rng)[0] for i in range(3)}
    for model in sites["site-1"].values():
        del model["test_recall_x"], model["test_precision_x"]
    record = evaluation_record(sites, policy(), DIGESTS)
    assert record["metrics"]["test_recall_x"]["sites"] == 2
    assert not {"test_mcc", "test_macro_f1", "test_balanced_accuracy"} & record["metrics"].keys()


def test_one_sites_number_is_no_merged_one_unless_sites_have_rows():
    mean = {model: {"test_mse": Mean(30.0, 20)} for model in DIGESTS}
    nothing = {model: {} for model in DIGESTS}
    sent = {"a": mean, "b": nothing, "c": nothing}
    assert evaluation_record(sent, policy(), DIGESTS)["metrics"] == {}
    record = evaluation_record(sent, policy(per_site=True), DIGESTS)
    assert record["metrics"]["test_mse"]["sites"] == 1
    assert record["by_site"] == {"a": record["metrics"], "b": {}, "c": {}}
    assert evaluation_record({"a": mean}, policy(), DIGESTS)["metrics"]["test_mse"]["sites"] == 1


def test_models_are_compared_on_the_same_sites():
    half = {"candidate": {"test_mse": Mean(10.0, 10)}, "baseline": {}}
    whole = {model: {"test_mse": Mean(30.0, 20)} for model in DIGESTS}
    record = evaluation_record({"a": half, "b": whole, "c": whole}, policy(), DIGESTS)
    row = record["metrics"]["test_mse"]
    assert row["sites"] == 2
    assert {own["count"] for own in row["models"].values()} == {40}


def test_a_records_digest_is_of_all_of_it():
    rng = np.random.default_rng(3)
    sent = {f"site-{i}": site(rng)[0] for i in range(3)}
    record = evaluation_record(sent, policy(), DIGESTS)
    again = evaluation_record(dict(reversed(sent.items())), policy(), DIGESTS)
    assert again == record
    digest = record.pop("digest")
    assert digest == digest_of(record)
    other = evaluation_record(sent, policy(floor=11), DIGESTS)
    assert (other["plan"], other["digest"]) != (record["plan"], digest)


@pytest.mark.parametrize(
    ("metric", "known"),
    [
        ("test_accuracy", True), ("accuracy", True), ("test_recall_x", True),
        ("test_precision_x", False), ("test_balanced_accuracy", False), ("test_nll", False),
    ],
)  # fmt: skip
def test_only_shares_have_intervals(metric, known):
    assert is_share(metric) is known


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.9, 0.85), (0.97, 0.6), (0.2, 0.3)])
def test_the_interval_holds_whatever_the_models_share(p, q, shared):
    rng = np.random.default_rng(0)
    for num in (10, 60, 400):
        u = rng.random((2000, num))
        v = np.where(rng.random((2000, num)) < shared, u, rng.random((2000, num)))
        held = 0
        for a, b in zip((u < p).sum(1), (v < q).sum(1), strict=True):
            low, high = difference_interval(Mean(float(a), num), Mean(float(b), num))
            held += low <= p - q <= high
        assert held / 2000 > 0.94


@given(st.integers(1, 500), st.data())
def test_an_interval_is_around_its_difference_and_turns_its_sign(num, data):
    a, b = (Mean(float(data.draw(st.integers(0, num))), num) for _ in range(2))
    low, high = difference_interval(a, b)
    assert low <= (a.total - b.total) / (num + 2) <= high
    assert difference_interval(b, a) == pytest.approx((-high, -low))


def test_the_table_says_every_model_and_difference(tmp_path):
    rng = np.random.default_rng(4)
    sent = {f"site-{i}": site(rng)[0] for i in range(3)}
    record = evaluation_record(sent, policy(per_site=True), DIGESTS)
    text = to_text(record)
    for words in ("all 3 sites", "site-0", "against baseline", "interval: none", "better"):
        assert words in text
    page = write_page(record, tmp_path).read_text()
    assert "site-2" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_page_of_nothing_says_so(tmp_path):
    nothing = {f"site-{i}": {model: {} for model in DIGESTS} for i in range(3)}
    record = evaluation_record(nothing, policy(), DIGESTS)
    assert "Nothing here may leave" in write_page(record, tmp_path).read_text()
    assert "all 3 sites" in to_text(record)
