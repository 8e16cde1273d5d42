import math

import pytest

from openfl_flows.report.metric_names import duration, metric, number, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (74.4321, "74.43"),
        (0.70311, "0.7031"),
        (1234.5, "1,234"),
        (1e-5, "1e-05"),
        (-2.5, "-2.500"),
        (12345, "12,345"),
        (math.nan, "–"),
        (math.inf, "inf"),
    ],
)
def test_number_has_four_significant_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (2**45, "32768.0 GiB"),
    ],
)
def test_size(value, text):
    assert size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.021, "0.021 s"), (12.34, "12.3 s"), (59.97, "1 min 00 s"), (245, "4 min 05 s"),
     (7399, "2 h 03 min")],
)  # fmt: skip
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_split_keeps_unit_and_direction():
    assert metric("test_nll").title == "test NLL [nats] ↓"
    assert metric("validity").show(0.9512) == "95.12 %"


def test_the_moving_average_keeps_unit_and_direction_too():
    assert metric("ema_test_nll").title == "EMA test NLL [nats] ↓"
    assert metric("ema_validity").show(0.5) == "50.00 %"
    assert metric("ema_lddt").title == "EMA lddt"


def test_counts_are_whole_numbers():
    assert metric("num_measured").show(1000.0) == "1,000"


def test_unknown_metric_is_shown_in_its_own_words():
    assert metric("lddt_ca").title == "lddt ca"
    assert metric("lddt_ca").show(0.5) == "0.5000"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("balanced_accuracy", "balanced accuracy [%] ↑"),
        ("test_mcc", "test MCC ↑"),
        ("very_hard_macro_f1", "very hard macro-F1 ↑"),
        ("hard_balanced_accuracy", "hard balanced accuracy [%] ↑"),
        ("test_spearman", "test Spearman’s ρ ↑"),
        ("hard_rmse", "hard RMSE [targets’ units] ↓"),
        ("recall_Cell_membrane", "recall of Cell membrane [%] ↑"),
        ("hard_precision_Nucleus", "hard precision of Nucleus [%] ↑"),
        ("ema_hard_accuracy", "EMA hard accuracy [%] ↑"),
        ("smooth_lddt_loss", "smooth lDDT loss ↓"),
    ],
)
def test_what_is_measured_of_predictions_keeps_its_meaning_behind_any_set(name, title):
    assert metric(name).title == title
