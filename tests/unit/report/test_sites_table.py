"""What each site gains from a federation, from synthetic runs whose numbers are known."""

import csv
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef

from openfl_flows.metrics.predictions import Predictions
from openfl_flows.report.sites_table import score_groups, section, to_csv
from openfl_flows.report.study import write_study_report
from openfl_flows.report.study_tables import Finished
from openfl_flows.study.jobs import Job
from openfl_flows.study.plan import RunPlan, Study

CLASSES = ("Nucleus", "Cytoplasm", "Plastid", "Golgi|ER")
NUM = 120
SITES = {"site-1": ("site=site-1",), "site-2": ("site=site-2",)}
SPLITS = {"iid": ("partition=iid",), "tutorial": ("partition=tutorial",)}
STUDY = Study(
    runs={
        "federated": RunPlan(command="simulate", grid={"split": SPLITS}),
        "local": RunPlan(command="local", grid={"split": SPLITS, "site": SITES}),
        "finetuned": RunPlan(
            command="local", grid={"split": SPLITS, "site": SITES}, start="federated"
        ),
        "centralized": RunPlan(command="centralize"),
    },
    seeds=(1, 2, 3),
)
# Right answers among the NUM proteins, by run and site, then by seed; the same for both splits.
RIGHT = {
    "federated": (96, 99, 90),
    "local site-1": (84, 81, 90),
    "local site-2": (72, 78, 75),
    "finetuned site-1": (99, 99, 93),
    "finetuned site-2": (90, 96, 93),
    "centralized": (102, 96, 99),
}
TRUE = np.arange(NUM) % len(CLASSES)
NAMES = tuple(f"P{i:03d}" for i in range(NUM))

WriteStudy = Callable[..., tuple[Study, list[Job], Path]]


def predictions(right: int, *, order: int = 1) -> Predictions:
    """The first ``right`` proteins right, the others one class off."""
    predicted = np.where(np.arange(NUM) < right, TRUE, (TRUE + 1) % len(CLASSES))
    rows = np.full((NUM, len(CLASSES)), 0.1, np.float32)
    rows[np.arange(NUM), predicted] = 0.7
    return Predictions(NAMES[::order], TRUE[::order], rows[::order], CLASSES)


@pytest.fixture
def write_study(make_run, tmp_path) -> WriteStudy:
    def write(
        study: Study = STUDY,
        *,
        left_out: tuple[str, ...] = (),
        sets: Mapping[str, int] = {"test": 0},  # noqa: B006
    ) -> tuple[Study, list[Job], Path]:
        out = tmp_path / "study"
        jobs = []
        for cell in study.cells():
            words = [cell.run, *([cell.at["site"]] if "site" in cell.at else [])]
            for index, seed in enumerate(study.seeds):
                job = Job(cell=cell, seed=seed, out=out, overrides=cell.overrides, rounds=1)
                jobs.append(job)
                if any(re.fullmatch(pattern, job.name) for pattern in left_out):
                    continue
                right = RIGHT[" ".join(words)][index]
                run = make_run(
                    f"study/runs/{job.name}",
                    config={"name": job.name, "seed": seed},
                    metrics={"test_accuracy": right / NUM, "test_recall_Nucleus": 0.5},
                    rounds=1,
                )
                for test_set, fewer in sets.items():
                    made = predictions(right - fewer, order=-1 if seed == 2 else 1)
                    made.write(run / "samples" / f"predictions_{test_set}.csv")
                rows = [["site-1", 1000 + seed, 20], ["site-2", 400, 10]]
                table: dict[str, Any] = {"columns": ["site", "train", "val"], "rows": rows}
                (run / "partition.json").write_text(json.dumps(table))
        return study, jobs, out

    return write


def sections(study: Study, jobs: list[Job]) -> list[Any]:
    finished = Finished.of(study, jobs)
    return [section(group, finished) for group in score_groups(finished)]


def test_the_table_of_a_split_by_hand(write_study) -> None:
    first, second = sections(*write_study()[:2])
    assert first.title == "split iid, set “test”, 120 proteins"
    assert second.title == "split tutorial, set “test”, 120 proteins"
    table = first.accuracy
    assert table.title == "accuracy [%] ↑: split iid, set “test”, 120 proteins"
    assert table.columns == (
        "site", "training proteins", "local", "federated", "gain, points",
        "McNemar: seeds with p < 0.05", "largest p", "tuned", "gain over federated, points",
    )  # fmt: skip
    one, two, average, best, central = table.rows
    # Local 70, 67.5, 75 %; federated 80, 82.5, 75 %: gains of 12, 18 and 0 of 120 proteins.
    assert one[:4] == ("site-1", "1,002", "70.83 ± 3.82", "79.17 ± 3.82")
    assert one[4].startswith("+8.33 (+")
    # By McNemar 12 to 0 and 18 to 0 differ, and 0 to 0 does not.
    assert one[5:7] == ("2 of 3", "1")
    assert (one[7], one[8][:6]) == ("80.83 ± 2.89", "+1.67 ")
    assert two[:4] == ("site-2", "400", "62.50 ± 2.50", "79.17 ± 3.82")
    assert two[5:7] == ("3 of 3", f"{2 * 0.5**15:.2g}")
    assert average[:4] == ("average", "", "66.67 ± 1.91", "79.17 ± 3.82")
    assert average[4].startswith("+12.50 (+")
    # Federated minus the best of each seed, 84, 81, 90: 12, 18, 0 proteins, that is 10, 15, 0.
    half = stats.t.ppf(0.975, 2) * np.std([10, 15, 0], ddof=1) / 3**0.5
    low, high = 25 / 3 - half, 25 / 3 + half
    assert best[:4] == ("federated − best local", "", "70.83 ± 3.82", "79.17 ± 3.82")
    assert best[4] == f"+8.33 ± 7.64 ({low:+.2f} to {high:+.2f})"
    assert central[2:4] == ("(82.50 ± 2.50)", "79.17 ± 3.82")
    assert central[4].startswith("-3.33 ± 5.20 (")
    assert {len(row) for row in table.rows} == {len(table.columns)}


# The difference is the mean of 40 of each seed's indicators: its interval is that of their mean.
def test_a_gain_has_the_bootstraps_interval_over_proteins(write_study) -> None:
    study, jobs, _ = write_study()
    contrast = score_groups(Finished.of(study, jobs))[0].gains["site-1"]
    assert contrast is not None
    gained = np.mean(
        [(np.arange(NUM) >= a) & (np.arange(NUM) < b) for a, b in ((84, 96), (81, 99), (90, 90))],
        axis=0,
    )
    error = gained.std() / NUM**0.5
    low, high = contrast.intervals["accuracy"]
    assert contrast.means["accuracy"] == pytest.approx(gained.mean())
    assert (low, high) == pytest.approx(gained.mean() + np.array([-1.96, 1.96]) * error, abs=0.008)


def test_the_other_metrics_are_scikit_learns(write_study) -> None:
    study, jobs, _ = write_study()
    first = sections(study, jobs)[0]
    names = ("balanced accuracy [%] ↑", "macro-F1 ↑", "MCC ↑")
    assert [grid.title.split(":")[0] for grid in first.others] == list(names)
    made = [predictions(right) for right in RIGHT["federated"]]
    for grid, measure, form in zip(
        first.others,
        (balanced_accuracy_score, lambda t, p: f1_score(t, p, average="macro"), matthews_corrcoef),
        ("{:.2f} ± {:.2f}", "{:.3f} ± {:.3f}", "{:.3f} ± {:.3f}"),
        strict=True,
    ):
        values = [measure(p.true, p.predicted) * (100 if "[%]" in grid.title else 1) for p in made]
        assert grid.rows[0][3] == form.format(np.mean(values), np.std(values, ddof=1))
        assert "McNemar" not in " ".join(grid.columns)


def test_the_csv_has_every_run_and_every_difference(write_study) -> None:
    study, jobs, _ = write_study()
    lines = list(csv.DictReader(to_csv(score_groups(Finished.of(study, jobs))).splitlines()))
    runs = [line for line in lines if line["seed"] and line["metric"] != "mcnemar_p"]
    assert len(runs) == 2 * 3 * 4 * (2 + 2 + 1 + 1)
    key = ("split", "seed", "site", "kind", "metric")
    assert len({tuple(line[k] for k in key) for line in lines}) == len(lines)
    (one,) = (
        line
        for line in runs
        if [line[k] for k in key] == ["tutorial", "2", "site-1", "local", "accuracy"]
    )
    assert float(one["value"]) == 81 / 120
    assert (one["train"], one["test"], one["test_set"]) == ("1002", "120", "test")
    tests = [line for line in lines if line["metric"] == "mcnemar_p"]
    assert len(tests) == 2 * 3 * 2 * 2
    averages = [line for line in lines if not line["seed"] and not line["site"]]
    assert {line["kind"] for line in averages} == {"federated - local", "tuned - federated"}
    assert all(float(a["low"]) <= float(a["value"]) <= float(a["high"]) for a in averages)


def test_each_test_set_has_its_tables(write_study) -> None:
    found = sections(*write_study(sets={"hard": 30, "test": 0})[:2])
    assert [part.title.split(",")[1] for part in found] == 2 * [" set “test”", " set “hard”"]
    assert found[1].accuracy.rows[0][2] == "45.83 ± 3.82"


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        (r"local-iid-site-1-seed-\d", {(0, 2): "–", (0, 4): "–", (0, 5): "–", (2, 2): "–"}),
        (r"federated-iid-.*", {(0, 3): "–", (0, 4): "–", (0, 8): "–", (3, 4): "–", (4, 4): "–"}),
        (r"finetuned-iid-site-2-.*", {(1, 7): "–", (1, 8): "–", (0, 7): "80.83 ± 2.89"}),
        (r"centralized-.*", {(4, 0): "federated − centralized", (4, 2): "–", (4, 4): "–"}),
        (r"local-iid-site-1-seed-2", {(0, 2): "72.50 ± 3.54", (0, 5): "1 of 2"}),
    ],
)
def test_what_is_missing_is_a_dash(write_study, left_out, expected) -> None:
    table = sections(*write_study(left_out=(left_out,))[:2])[0].accuracy
    assert {place: table.rows[place[0]][place[1]] for place in expected} == expected


def test_one_seed_has_no_interval_over_seeds(write_study) -> None:
    table = sections(*write_study(left_out=(r".*-seed-[23]",))[:2])[0].accuracy
    assert table.rows[0][2:4] == ("70.00", "80.00")
    assert table.rows[3][4] == "+10.00"


def test_without_tuned_and_centralized_runs_nothing_speaks_of_them(write_study) -> None:
    runs = {name: run for name, run in STUDY.runs.items() if name in ("federated", "local")}
    table = sections(*write_study(Study(runs=runs, seeds=(1,)))[:2])[0].accuracy
    assert len(table.columns) == 7
    assert [row[0][:10] for row in table.rows] == ["site-1", "site-2", "average", "federated "]


def test_studies_without_local_runs_or_predictions_have_no_tables(write_study) -> None:
    runs = {"federated": STUDY.runs["federated"]}
    assert sections(*write_study(Study(runs=runs, seeds=(1,)))[:2]) == []
    study, jobs, out = write_study(Study(runs=STUDY.runs, seeds=(2,)), sets={})
    assert sections(study, jobs) == []
    assert write_study_report(study, jobs, out) is not None
    assert not (out / "sites.csv").exists()


def test_several_federations_have_tables_of_their_own(write_study, monkeypatch) -> None:
    monkeypatch.setitem(RIGHT, "heads", RIGHT["centralized"])
    runs = {**STUDY.runs, "heads": RunPlan(command="simulate", grid={"split": SPLITS})}
    found = sections(*write_study(Study(runs=runs, seeds=(1, 2)))[:2])
    assert [part.title.split(",")[0] for part in found] == 2 * ["federated"] + 2 * ["heads"]
    assert found[2].accuracy.rows[0][3] == "82.50 ± 3.54"
    assert "tuned" not in " ".join(found[2].accuracy.columns)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("P007,", "Q007,", r"local-iid-site-2-seed-3/samples: .*'test' lack 'P007', expected the"),
        ("P004,Nucleus,", "P004,Plastid,", r"have 'P004' as Plastid, expected Nucleus as in .*fed"),
        (
            "Cytoplasm",
            "Cytosol",
            r"are of the classes Nucleus, Cytosol, Plastid, .*: Nucleus, Cyt",
        ),
        ("P011,", "P010,", r"predictions_test\.csv, line 13: name 'P010' is there twice"),
    ],
)
def test_predictions_that_are_of_other_proteins_are_refused(write_study, old, new, message) -> None:
    study, jobs, out = write_study()
    file = out / "runs" / "local-iid-site-2-seed-3" / "samples" / "predictions_test.csv"
    change(file, old, new)
    with pytest.raises(ValueError, match=message):
        write_study_report(study, jobs, out)


def test_the_report_of_the_study_has_it_all(write_study) -> None:
    study, jobs, out = write_study()
    page = write_study_report(study, jobs, out)
    assert page is not None
    text, markdown = page.read_text(), (out / "table.md").read_text()
    assert "<h2>What each site gains</h2>" in text
    assert text.count("<summary>3 other metrics</summary>") == 2
    assert text.count("paired bootstrap") == 1
    for cell in ("accuracy [%] ↑: split tutorial", "70.83 ± 3.82", "federated − centralized"):
        assert cell in text
        assert cell in markdown
    assert (out / "sites.csv").read_text().count("\n") == 2 * (3 * 4 * 6 + 12 + 3 * 8) + 1
