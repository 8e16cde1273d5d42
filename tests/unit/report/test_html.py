import base64
import csv
import json
import re

import pytest

from openfl_flows.report.html import write_report
from openfl_flows.report.molecules import grid_png

CONFIG = {
    "name": "demo",
    "seed": 41,
    "join": {"name": "diloco", "lr": 0.8, "momentum": 0.1},
    "partition": {"kind": "dirichlet", "alpha": 0.375},
    "vocabulary": ["C", "N"],
}
PARTITION = {
    "columns": ["site", "train", "val", "test", "acyclic", "1 ring"],
    "rows": [["site-a", 8210, 1030, 1027, 2100, 8167], ["site-b", 411, 52, 51, 400, 114]],
    "note": "Dirichlet, alpha 0.375, over ring counts",
}


def edit(run, change):
    record = json.loads((run / "run.json").read_text())
    change(record)
    (run / "run.json").write_text(json.dumps(record))


def text_of(run) -> str:
    return write_report(run).read_text()


def test_every_number_of_a_run_is_there(make_run):
    metrics = {"test_nll": 74.4321, "validity": 0.9512, "some_new_metric": 12.5}
    run = make_run(config=CONFIG, metrics=metrics, rounds=3)
    page = text_of(run)
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    for text in (
        "demo", "finished", "rounds 3", "sites 2", "diloco lr 0.8, momentum 0.1", "seed 41",
        "test NLL ↓ 74.43 nats", "validity ↑ 95.12 %", "some new metric 12.50",
        "time in rounds 1 min 20 s", "sent by sites 6.0 MiB", "sent to sites 15.0 MiB",
        "2,468 34", "1,234 17 0.02 s 11.2 s 11.3 s", "26.5 s 2.0 MiB 5.0 MiB", "3072.0 GiB",
        "partition.alpha 0.375", "vocabulary [&#34;C&#34;, &#34;N&#34;]",
    ):  # fmt: skip
        assert text in shown, text
    record = json.loads((run / "run.json").read_text())
    assert record["digest"] in shown
    assert all(entry["digest"][:12] in shown for entry in record["rounds"])
    assert all(f"{k} {v}" in shown for k, v in record["versions"].items())
    assert [page.count(f'aria-label="{t}') for t in ("NLL", "negative ELBO", "train loss")] == [
        1, 1, 1,
    ]  # fmt: skip


def test_partition_as_table_and_bars(make_run):
    run = make_run()
    (run / "partition.json").write_text(json.dumps(PARTITION))
    page = text_of(run)
    assert PARTITION["note"] in page
    assert all(number in page for number in ("8,210", "8,167", "114"))
    assert 'aria-label="Classes by site"' in page
    assert "</i>1 ring</li>" in page


def test_partition_without_classes_shows_the_splits(make_run):
    run = make_run()
    document = {"columns": ["site", "train", "val"], "rows": [["site-a", 5, 2]]}
    (run / "partition.json").write_text(json.dumps(document))
    page = text_of(run)
    assert 'aria-label="Items by site"' in page
    assert "</i>val</li>" in page


def test_pictures_are_embedded_and_samples_listed(make_run):
    run = make_run()
    samples = run / "samples"
    samples.mkdir()
    picture = grid_png(["CCO"])
    (samples / "grid.png").write_bytes(picture)
    with (samples / "samples.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["smiles", "valid"], *[["C" * i, 1] for i in range(1, 251)]])
    page = text_of(run)
    assert f"data:image/png;base64,{base64.b64encode(picture).decode()}" in page
    assert "250 samples, the first 200 listed" in page
    assert "<td>CCCC</td>" in page
    assert "data:image/gif" not in page


def test_missing_parts_are_absent(make_run):
    run = make_run(rounds=0, finish=False)
    page = text_of(run)
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == ["Curves", "Configuration"]  # the initial model was measured
    assert ">running</span>" in page


def test_run_with_nothing_measured(make_run):
    run = make_run(rounds=0, finish=False)
    edit(run, lambda record: record["initial"].update(metrics={}))
    assert re.findall(r"<h2>(.*?)</h2>", text_of(run)) == ["Configuration"]


def test_names_are_escaped_everywhere(make_run):
    evil = "<script>alert('x')</script>"
    run = make_run(
        config={"name": evil, "join": evil, evil: evil},
        metrics={evil: 1.0},
        sites=(evil, "b"),
    )
    edit(run, lambda record: record["rounds"][0]["metrics"].update({evil: 2.0}))
    edit(run, lambda record: record["rounds"][0]["sites"]["b"]["seconds"].update({evil: 2.0}))
    document = {"columns": ["site", evil], "rows": [[evil, 3]], "note": evil}
    (run / "partition.json").write_text(json.dumps(document))
    (run / "samples").mkdir()
    (run / "samples" / "samples.csv").write_text(f"{evil}\n{evil}\n")
    page = text_of(run)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 10


def test_nothing_is_loaded_from_anywhere(make_run):
    run = make_run()
    (run / "partition.json").write_text(json.dumps(PARTITION))
    page = text_of(run)
    assert "default-src 'none'" in page
    assert not re.search(r"https?://", page)
    for target in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert target.startswith(("data:", "#")), target
    assert all(u.startswith("url(#") for u in re.findall(r"url\([^)]*\)", page))


def test_metric_that_is_not_a_number(make_run):
    page = text_of(make_run(metrics={"novelty": float("nan")}))
    assert "novelty ↑</dt><dd>–" in page


def test_report_replaces_the_one_before_and_leaves_no_other_file(make_run):
    run = make_run()
    before = set(run.iterdir())
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert set(run.iterdir()) - before == {run / "report.html"}


def test_report_of_many_rounds_stays_small(make_run):
    run = make_run(rounds=1)

    def repeat(record):
        first = record["rounds"][0]
        record["rounds"] = [{**first, "round": r} for r in range(1, 201)]

    edit(run, repeat)
    assert write_report(run).stat().st_size < 3e6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON with columns and rows"),
        ("[]", "expected JSON with columns and rows"),
        ('{"columns": ["site"]}', "expected JSON with columns and rows"),
        (
            '{"columns": ["site", "train"], "rows": [["a", 1], ["b"]]}',
            "row 2 is .*, expected 2 values",
        ),
        ('{"columns": ["site", "train"], "rows": [["a", "x"]]}', "row 1, train is 'x'"),
    ],
)
def test_unreadable_partition_is_refused(make_run, content, message):
    run = make_run()
    (run / "partition.json").write_text(content)
    with pytest.raises(ValueError, match=rf"partition\.json: .*{message}"):
        write_report(run)


def test_empty_samples_are_refused(make_run):
    run = make_run()
    (run / "samples").mkdir()
    (run / "samples" / "samples.csv").touch()
    with pytest.raises(ValueError, match=r"samples\.csv: is empty"):
        write_report(run)


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no run\.json"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("local", "one site&#39;s data alone"), ("centralized", "the sites&#39; data pooled")],
)
def test_what_is_no_federation_says_what_it_is(make_run, kind, words):
    run = make_run()
    assert "<dt>kind</dt>" not in text_of(run)
    edit(run, lambda record: record.update(kind=kind))
    assert f"<dt>kind</dt><dd>{kind} <small>{words}</small>" in text_of(run)
