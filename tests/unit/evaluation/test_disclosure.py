"""What leaves a site: nothing small, nothing that is not allowed, nothing that gives those away."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.evaluation.disclosure import (
    BELOW_FLOOR,
    COMPLEMENT,
    NOT_ALLOWED,
    check_disclosed,
    disclose,
)
from openfl_flows.evaluation.policy import Evaluation
from openfl_flows.metrics.mean import Mean, Means

ALL = Evaluation(metrics=("*",), candidate=None, baseline=None)
CLASSES = "abcdef"


def classified(table: list[list[int]]) -> Means:
    """Metrics of a confusion matrix: rows are true classes, columns predicted ones."""
    found = {"test_accuracy": Mean(sum(table[i][i] for i in range(len(table))), total(table))}
    for i in range(len(table)):
        found[f"test_recall_{CLASSES[i]}"] = Mean(table[i][i], sum(table[i]))
        found[f"test_precision_{CLASSES[i]}"] = Mean(table[i][i], sum(row[i] for row in table))
    return found


def total(table: list[list[int]]) -> int:
    return sum(map(sum, table))


def tables(classes: int) -> st.SearchStrategy[list[list[int]]]:
    row = st.lists(st.integers(0, 15), min_size=classes, max_size=classes)
    return st.lists(row, min_size=classes, max_size=classes)


@given(
    st.integers(2, 6).flatmap(lambda n: st.lists(tables(n), min_size=1, max_size=2)),
    st.integers(2, 20),
)
def test_no_class_below_the_floor_can_be_told_from_what_leaves(models, floor):
    # All models have the same samples, so the same true classes.
    sizes = [sum(row) for row in models[0]]
    models = [[spread(row, size) for row, size in zip(m, sizes, strict=True)] for m in models]
    measured = {f"m{i}": classified(table) for i, table in enumerate(models)}
    policy = Evaluation(metrics=("*",), floor=floor)
    left = disclose(measured, policy, site="s").means
    for name, own in left.items():
        assert all(mean.count >= floor for mean in own.values())
        assert own.keys() == left["m0"].keys()
        for kind in ("recall", "precision"):
            told = {n for n in own if n.startswith(f"test_{kind}_")}
            hidden = [mean.count for n, mean in measured[name].items()
                      if n.startswith(f"test_{kind}_") and n not in told]  # fmt: skip
            if told and hidden:
                assert len(hidden) >= 2
                assert sum(hidden) >= floor


def spread(row: list[int], size: int) -> list[int]:
    """The row with its last cell changed so that it adds up to ``size``; one cell if it cannot."""
    rest = size - sum(row[:-1])
    return [*row[:-1], rest] if rest >= 0 else [size, *[0] * (len(row) - 1)]


def test_a_small_class_takes_the_smallest_other_with_it():
    table = [[3, 0, 0, 0], [0, 12, 0, 0], [0, 0, 50, 0], [0, 0, 0, 60]]
    found = disclose({"candidate": classified(table)}, ALL, site="s")
    assert found.withheld == {
        "test_recall_a": BELOW_FLOOR,
        "test_precision_a": BELOW_FLOOR,
        "test_recall_b": COMPLEMENT,
        "test_precision_b": COMPLEMENT,
    }
    assert found.means["candidate"]["test_accuracy"] == Mean(125, 125)


def test_what_one_model_may_not_tell_no_model_tells():
    good = [[20, 0, 0], [0, 20, 0], [0, 0, 20]]
    blind = [[20, 0, 0], [20, 0, 0], [0, 0, 20]]
    left = disclose({"candidate": classified(good), "baseline": classified(blind)}, ALL, site="s")
    assert left.means["candidate"].keys() == left.means["baseline"].keys()
    assert "test_recall_b" not in left.means["candidate"]


def test_two_evaluations_do_not_tell_together_what_each_hides():
    sizes = [3, 30, 31, 50]
    right = [[0, 3, 0, 0], [0, 30, 0, 0], [0, 0, 31, 0], [0, 0, 0, 50]]
    avoids_c = [[0, 3, 0, 0], [0, 30, 0, 0], [0, 0, 12, 19], [0, 0, 0, 50]]
    known: set[str] = set()
    for table in (right, avoids_c):
        left = disclose({"candidate": classified(table)}, ALL, site="s").means["candidate"]
        known |= {name for name in left if "recall" in name}
    hidden = [size for label, size in zip(CLASSES, sizes, strict=False)
              if f"test_recall_{label}" not in known]  # fmt: skip
    assert len(hidden) >= 2
    assert sum(hidden) >= ALL.floor


def test_a_class_that_is_not_allowed_takes_another_with_it():
    table = [[20, 0, 0], [0, 30, 0], [0, 0, 40]]
    policy = Evaluation(metrics=("test_accuracy", "test_recall_b", "test_recall_c"))
    found = disclose({"candidate": classified(table)}, policy, site="s")
    assert found.withheld["test_recall_a"] == NOT_ALLOWED
    assert found.withheld["test_recall_b"] == COMPLEMENT
    assert found.means["candidate"].keys() == {"test_accuracy", "test_recall_c"}


def test_a_site_too_small_tells_nothing():
    found = disclose({"candidate": {"test_mse": Mean(3.5, 9)}}, ALL, site="s")
    assert found.means == {"candidate": {}}
    assert found.withheld == {"test_mse": BELOW_FLOOR}


def test_sums_are_rounded_and_counts_are_not():
    means = {"test_nll": Mean(1234.56789, 11), "test_accuracy": Mean(1234567, 2345678)}
    left = disclose({"candidate": means}, ALL, site="s").means["candidate"]
    assert left == {"test_nll": Mean(1234.57, 11), "test_accuracy": Mean(1234567, 2345678)}


def test_a_model_that_diverged_is_named_and_not_left_out():
    with pytest.raises(ValueError, match="site-2: test_nll of the baseline is nan"):
        disclose({"baseline": {"test_nll": Mean(math.nan, 20)}}, ALL, site="site-2")


@pytest.mark.parametrize(
    ("model", "metric", "mean", "words"),
    [
        ("candidate", "test_mse", Mean(1, 9), "over at least 10"),
        ("candidate", "secret", Mean(1, 90), NOT_ALLOWED),
        ("candidate", "test_mse", Mean(math.inf, 90), "inf"),
        ("candidate", "test_mse", Mean(1, math.nan), "nan"),
        ("local", "test_mse", Mean(1, 90), "expected candidate"),
    ],
)
def test_the_aggregator_refuses_what_the_filter_should_have_kept(model, metric, mean, words):
    policy = Evaluation(metrics=("test_*",))
    with pytest.raises(ValueError, match=words):
        check_disclosed({model: {metric: mean}}, policy, site="'site-1'")


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"metrics": ()}, "metrics"),
        ({"metrics": ("a", "")}, "metrics"),
        ({"floor": 1}, "floor"),
        ({"digits": 16}, "digits"),
        ({"local": "model.safetensors"}, "local"),
        ({"benchmark": "folder"}, "benchmark"),
    ],
)
def test_a_policy_that_protects_nobody_is_refused(options, key):
    with pytest.raises(ValueError, match=rf"^evaluation\.{key}="):
        Evaluation(**{"metrics": ("*",), **options})
