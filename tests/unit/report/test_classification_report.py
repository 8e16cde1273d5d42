"""A classifier's section in a run's report: scores, confusion, classes."""

import json
import re

import numpy as np
import pytest

from openfl_flows.metrics.predictions import Predictions
from openfl_flows.report.classification import (
    class_table,
    confusion_chart,
    find_test_sets,
    rate_table,
    read_sections,
    score_table,
)
from openfl_flows.report.html import write_report

CLASSES = ("Nucleus", "Cell_membrane", "Plastid")


def predictions(*pairs: tuple[int, int], classes: tuple[str, ...] = CLASSES) -> Predictions:
    """One protein for each (true, predicted)."""
    true, predicted = (np.array(side) for side in zip(*pairs, strict=True))
    names = tuple(f"P{i}" for i in range(len(pairs)))
    return Predictions(names, true, np.eye(len(classes), dtype=np.float32)[predicted], classes)


# 8 of 10 nuclear ones found, 2 taken for membrane; 5 of 5 membrane ones found; no plastid.
MADE = predictions(*[(0, 0)] * 8, *[(0, 1)] * 2, *[(1, 1)] * 5)


def test_scores_by_hand() -> None:
    rows = {row[0]: row[1:] for row in score_table(MADE).rows}
    assert rows["accuracy [%] ↑"][0] == "86.67"
    assert rows["balanced accuracy [%] ↑"][0] == "90.00"
    assert rows["macro-F1 ↑"][0] == f"{(16 / 18 + 10 / 12) / 2:.4f}"
    low, high = map(float, rows["accuracy [%] ↑"][1].split(" to "))
    assert 60 < low < 86.67 < high <= 100


def test_classes_by_hand() -> None:
    nucleus, membrane, plastid = class_table(MADE).rows
    assert nucleus[:2] == ("Nucleus", 10)
    assert [cell.split(" ")[0] for cell in nucleus[2:]] == ["80.0", "100.0", "88.9"]
    assert [cell.split(" ")[0] for cell in membrane[2:]] == ["100.0", "71.4", "83.3"]
    assert plastid == ("Plastid", 0, "–", "–", "–")


def test_confusion_is_shares_of_each_true_class() -> None:
    svg = confusion_chart(MADE).svg
    assert re.findall(r">(\d+)</text>", svg) == ["80", "20", "100"]
    assert "Cell membrane" in svg


@pytest.mark.parametrize(("num", "named", "written"), [(15, 30, 15), (16, 32, 0), (41, 0, 0)])
def test_confusion_of_many_classes_stays_readable(num, named, written) -> None:
    classes = tuple(f"class{i:02d}" for i in range(num))
    svg = confusion_chart(predictions(*((i, i) for i in range(num)), classes=classes)).svg
    assert len(re.findall(r">class\d\d</text>", svg)) == named
    assert len(re.findall(r">100</text>", svg)) == written


def test_test_comes_first_and_files_of_values_are_none(tmp_path) -> None:
    for name in ("hard", "test", "a"):
        MADE.write(tmp_path / f"predictions_{name}.csv")
    (tmp_path / "predictions_value.csv").write_text("name,target,predicted\na,1,2\n")
    assert find_test_sets(tmp_path) == ("test", "a", "hard")
    assert [part.title for part in read_sections(tmp_path)][0] == "15 proteins of the set “test”"


def test_the_page_has_a_section_of_each_set_and_no_flood(make_run) -> None:
    metrics = {
        "test_accuracy": 0.8667,
        "test_recall_Nucleus": 0.8123,
        "test_precision_Nucleus": 0.7,
        "hard_recall_Nucleus": 0.6,
        "hard_mcc": 0.5123,
    }
    run = make_run(metrics=metrics)
    record = json.loads((run / "run.json").read_text())
    for entry in record["rounds"]:
        entry["metrics"] |= {"recall_Nucleus": 0.5, "accuracy": 0.5}
        entry["sites"]["site-a"]["metrics"]["precision_Nucleus"] = 0.4
    record["tested"] = {"round": 1, "digest": record["rounds"][0]["digest"]}
    (run / "run.json").write_text(json.dumps(record))
    MADE.write(run / "samples" / "predictions_test.csv")
    page = write_report(run).read_text()
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    assert page.count("<h2>Predictions: 15 proteins of the set “test”</h2>") == 1
    assert page.count('aria-label="Confusion') == 1
    assert "hard MCC ↑ 0.5123" in shown
    assert "of Nucleus" not in shown
    assert 'aria-label="accuracy' in page
    assert "Of the model after round 1, which has the best validation." in shown
    # What has no section keeps its numbers: the set "hard" has no predictions here.
    assert "class hard recall, % Nucleus 60.0" in shown
    assert "81.2" not in shown


def test_names_of_classes_and_sets_are_escaped(make_run) -> None:
    run = make_run(metrics={"x_recall_<b>": 0.5})
    evil = predictions((0, 0), (1, 1), classes=("<script>", "$a_b$ & c"))
    evil.write(run / "samples" / "predictions_<i>.csv")
    page = write_report(run).read_text()
    assert "<script" not in page
    assert "<i>“" not in page
    assert "“&lt;i&gt;”" in page
    assert "<b>" not in page


def test_a_wrong_file_is_refused(make_run) -> None:
    run = make_run()
    MADE.write(run / "samples" / "predictions_test.csv")
    with (run / "samples" / "predictions_test.csv").open("a") as file:
        file.write("P99,Nucleus\n")
    with pytest.raises(ValueError, match=r"predictions_test\.csv, line 17: 2 values, expected 6"):
        write_report(run)


def test_rates_of_sets_with_a_section_are_left_out() -> None:
    metrics = {"recall_a": 0.5, "test_recall_a": 0.1, "test_precision_b": 0.2, "loss": 3.0}
    assert rate_table(metrics, ("test",)).rows == (("a", "50.0"),)
    assert rate_table({"loss": 1.0, "test_recall_a": 1.0}, ("test",)) is None
    both = rate_table(metrics, ())
    assert both.columns == ("class", "recall, %", "test recall, %", "test precision, %")
    assert both.rows == (("a", "50.0", "10.0", "–"), ("b", "–", "–", "20.0"))
