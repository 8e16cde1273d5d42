"""The wheel: it carries all that a run needs, and runs without the checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build")
pytest.importorskip("hatchling")

ROOT = Path(__file__).resolve().parents[2]
# What `python -m openfl_flows ARGUMENTS` does, then where its code came from.
PROGRAM = """
import runpy, sys
try:
    runpy.run_module("openfl_flows", run_name="__main__", alter_sys=True)
finally:
    for name, module in sorted(sys.modules.items()):
        if name.startswith("openfl_flows"):
            print("from", module.__file__)
"""


def python(*arguments: str, cwd: Path, path: str = "") -> str:
    done = subprocess.run(
        (sys.executable, *arguments),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), cwd=ROOT)
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_carries_what_a_run_needs_and_nothing_else(wheel) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    plan = {
        f"openfl_flows/plan/{f.relative_to(ROOT / 'plan')}" for f in ROOT.glob("plan/**/*.yaml")
    }
    code = {str(file.relative_to(ROOT)) for file in ROOT.glob("openfl_flows/**/*.py")}
    data = {
        "openfl_flows/data/samples/molecules.csv",
        "openfl_flows/data/samples/structures/prepared/set.json",
        "openfl_flows/report/run.html.j2",
        "openfl_flows/report/viewer.js",
        "openfl_flows/report/study.html.j2",
        "openfl_flows/models/digress/native/kernels.cpp",
        "openfl_flows/models/digress/native/edge_block.h",
        "openfl_flows/py.typed",
    }
    assert len(plan) > 25
    assert plan | code | data <= names
    others = {name.partition("/")[0] for name in names} - {"openfl_flows"}
    assert all(name.endswith(".dist-info") for name in others)
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


def test_the_wheel_runs_without_the_checkout(wheel, tmp_path) -> None:
    target, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    pip = ("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target))
    python(*pip, str(wheel), cwd=empty)
    plan = target / "openfl_flows" / "plan" / "experiment" / "toy.yaml"
    plan.write_text(plan.read_text().replace("name: toy", "name: installed"))

    overrides = ("experiment=toy", "federation.rounds=1")
    printed = python("-c", PROGRAM, "simulate", *overrides, cwd=empty, path=str(target))
    sources = [line.split()[1] for line in printed.splitlines() if line.startswith("from ")]
    assert len(sources) > 20
    assert all(Path(source).is_relative_to(target) for source in sources), sources
    record = json.loads((empty / "runs" / "installed" / "run.json").read_text())
    assert record["status"] == "finished"
    assert [file.name for file in empty.iterdir()] == ["runs"]
