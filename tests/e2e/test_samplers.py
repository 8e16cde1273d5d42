"""A run with a moving average draws from both its models, and the samplers' table is made of it."""

import csv
import json
import math

import pytest

from openfl_flows.cli import main
from tests.bench import samplers
from tests.tiny import OVERRIDES


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run with a moving average, on the embedded molecules."""
    out = tmp_path_factory.mktemp("samplers") / "run"
    plan = ("experiment=demo", "ema=at_sync", "federation.rounds=1", "runtime.quiet=true")
    assert main(["simulate", *plan, *OVERRIDES, f"out={out}"]) == 0
    return out


def test_samples_of_model_and_average_are_reported_and_drawn_again(finished, tmp_path):
    record = json.loads((finished / "run.json").read_text())
    for prefix, folder, weights in (("", "samples", "model"), ("ema_", "samples_ema", "ema")):
        assert math.isfinite(record["metrics"][f"{prefix}validity"])
        drawn = (finished / folder / "samples.csv").read_text()
        again = tmp_path / weights
        command = ["sample", str(finished), "--weights", weights, "--num", "8", "--seed"]
        assert main([*command, str(record["config"]["seed"]), "--out", str(again)]) == 0
        assert (again / "samples.csv").read_text() == drawn
    assert "EMA validity" in (finished / "report.html").read_text()


def test_the_table_has_a_row_for_each_cell_and_draws_no_cell_twice(finished, tmp_path, capsys):
    cells = ["--num", "6", "--steps", "3,5", "--samplers", "even|spacing 3, overshoot 1"]
    for _ in range(2):
        samplers.main([str(finished), *cells, "--out", str(tmp_path)])
        found = sorted((file, file.stat().st_mtime_ns) for file in tmp_path.glob("*/*/cell.json"))
        assert len(found) == 4
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]
    rows = [line.split(" | ")[:2] for line in lines[2 : len(lines) // 2]]
    assert [(name.removeprefix("| "), steps) for name, steps in rows] == [
        ("even", "3"), ("even", "5"),
        ("spacing 3, overshoot 1", "3"), ("spacing 3, overshoot 1", "5"),
    ]  # fmt: skip
    with (tmp_path / "even 3" / "run" / "samples.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 6


def test_options_of_the_sampler_are_taken_and_refused(finished, tmp_path, capsys):
    command = ["sample", str(finished), "--num", "8", "--steps", "5", "--out"]
    chains = []
    for name, options in (("even", ()), ("other", ("--spacing", "3", "--overshoot", "1"))):
        assert main([*command, str(tmp_path / name), *options]) == 0
        chains.append((tmp_path / name / "chain.npz").read_bytes())
    assert chains[0] != chains[1]
    capsys.readouterr()
    assert main([*command, str(tmp_path / "no"), "--overshoot", "2"]) == 1
    assert "sampling.overshoot is 2.0; expected 0 to 1" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
