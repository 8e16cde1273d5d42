"""The workspaces that are checked in are what the export writes."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from openfl_flows import __version__
from openfl_flows.cli import build_parser
from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.workspace import read_workspace

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = {"digress": "demo", "esm": "esm_scl", "openfold3": "of3_demo", "toy": "toy"}
"""Folder in workspaces/ to experiment, as in `openfl-flows export experiment=demo DIR`."""


def checked_in(workspace: Path) -> dict[str, bytes]:
    """The files that the workspace's own .gitignore does not keep out, by name."""
    patterns = (workspace / ".gitignore").read_text().split()
    folders = tuple(p.removeprefix("/") for p in patterns if p.endswith("/"))
    ignored = {
        file for p in patterns if not p.endswith("/") for file in workspace.glob(p.lstrip("/"))
    }
    files = {
        str(path.relative_to(workspace)): path
        for path in workspace.rglob("*")
        if path.is_file() and path not in ignored and "__pycache__" not in path.parts
    }
    return {n: path.read_bytes() for n, path in files.items() if not n.startswith(folders)}


def requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in project["dependencies"]}
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    versions = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    pins = {name: versions[name] for name in names} | {"openfl-flows": __version__}
    return [f"{name}=={pins[name]}" for name in sorted(pins)]


def test_all_of_them_are_looked_at() -> None:
    assert {path.name for path in (ROOT / "workspaces").iterdir()} == EXPERIMENTS.keys()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_exported_again_it_is_the_same(name, tmp_path) -> None:
    export_workspace(compose((f"experiment={EXPERIMENTS[name]}",)), tmp_path / name)
    expected, found = checked_in(ROOT / "workspaces" / name), checked_in(tmp_path / name)
    # Other versions may be installed here than those that the project pins.
    assert expected.pop("requirements.txt").decode().splitlines() == requirements()
    found.pop("requirements.txt")
    assert found.keys() == expected.keys()
    for file in expected:
        assert found[file].decode() == expected[file].decode(), file


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_builds_the_experiment_of_its_name(name) -> None:
    experiment = Experiment.from_config(read_workspace(ROOT / "workspaces" / name).config)
    composed = Experiment.from_config(compose((f"experiment={EXPERIMENTS[name]}",)))
    assert experiment.config["name"] == EXPERIMENTS[name]
    assert experiment.initial_state().digest() == composed.initial_state().digest()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_code_is_only_names_for_the_packages(name) -> None:
    files = sorted((ROOT / "workspaces" / name / "src").glob("*.py"))
    assert [file.name for file in files] == ["__init__.py", "dataloader.py", "taskrunner.py"]
    assert all(len(file.read_text().splitlines()) <= 20 for file in files)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_it_names_no_path_and_no_machine(name) -> None:
    files = checked_in(ROOT / "workspaces" / name)
    plan = yaml.safe_load(files["plan/plan.yaml"])
    assert plan["network"]["settings"]["agg_addr"] == "localhost"
    # Patterns of .gitignore begin with a slash, versions may look like addresses.
    for file in files.keys() - {".gitignore", "requirements.txt"}:
        text = files[file].decode()
        assert not re.findall(r"(?:^|[\s\"'=:,(])(/\w\S*)", text), file
        assert not re.findall(r"\d+(?:\.\d+){3}|\w\.(?:com|org|net|local|internal)\b", text), file


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_commands_of_its_readme_exist(name) -> None:
    readme = (ROOT / "workspaces" / name / "README.md").read_text()
    commands = re.findall(r"^openfl-flows (.*)", readme, flags=re.MULTILINE)
    assert len(commands) >= 6
    for command in commands:
        assert build_parser().parse_args(shlex.split(command, comments=True)).run
