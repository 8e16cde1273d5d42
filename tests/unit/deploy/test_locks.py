"""The locks that images are built from: the tested versions, and all that a party imports."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from openfl_flows.deploy.render import LOCKS

ROOT = Path(__file__).parents[3]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)", flags=re.MULTILINE)
# Prints the distributions of all that an aggregator's process has loaded where nothing else is.
PROGRAM = """
import importlib.util, sys
from importlib import metadata

known = metadata.packages_distributions()
allowed = {name.replace("_", "-").lower() for name in sys.argv[1:]}

class OnlyTheLock:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        owners = {owner.replace("_", "-").lower() for owner in known.get(top, ())}
        if owners and not owners & allowed and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)

find_spec = importlib.util.find_spec
def forgiving(name, package=None):
    try:
        return find_spec(name, package)
    except ModuleNotFoundError:
        return None

importlib.util.find_spec = forgiving
sys.meta_path.insert(0, OnlyTheLock())
for name in (
    "openfl.interface.aggregator", "openfl.interface.collaborator", "openfl.interface.plan",
    "openfl_flows.cli", "openfl_flows.pki.commands", "openfl_flows.taskrunner.aggregator",
    "openfl_flows.taskrunner.aggregation", "openfl_flows.taskrunner.assigner",
    "openfl_flows.taskrunner.pipeline", "openfl_flows.taskrunner.lint",
    "openfl_flows.report.monitoring", "openfl_flows.report.status_table",
    "openfl_flows.report.dashboard", "openfl_flows.release.verify",
):
    importlib.import_module(name)
assert not {"torch", "rdkit", "ray", "transformers"} & sys.modules.keys()
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: Path) -> dict[str, str]:
    return {normal(name): version for name, version in PINNED.findall(file.read_text())}


@pytest.mark.parametrize("role", ["aggregator", "site"])
def test_a_lock_has_the_versions_that_were_tested(role: str) -> None:
    tested, locked = pins(ROOT / "constraints.txt"), pins(LOCKS / f"{role}.txt")
    assert len(locked) > 40
    other = {
        name: (version, tested[name])
        for name, version in locked.items()
        if name in tested and version.partition("+")[0] != tested[name].partition("+")[0]
    }
    assert not other, "run `make locks`"


@pytest.mark.parametrize("role", ["aggregator", "site"])
def test_every_file_of_a_lock_is_known_by_its_hash(role: str) -> None:
    requirements = re.split(r"\n(?=\S)", (LOCKS / f"{role}.txt").read_text().strip())
    bare = [text for text in requirements if not text.startswith("#") and "--hash=" not in text]
    assert not bare


def test_a_site_has_all_that_the_package_asks_for() -> None:
    required = (r for r in metadata.requires("openfl-flows") or () if "extra ==" not in r)
    names = {normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in required}
    assert names <= pins(LOCKS / "site.txt").keys(), "run `make locks`"


def test_the_locks_are_of_what_was_asked_for_and_agree() -> None:
    asked = re.findall(r"^[A-Za-z0-9._-]+", (LOCKS / "aggregator.in").read_text(), re.MULTILINE)
    required = {normal(re.split(r"[^\w.-]", r)[0]) for r in metadata.requires("openfl-flows") or ()}
    aggregator, site = pins(LOCKS / "aggregator.txt"), pins(LOCKS / "site.txt")
    assert {normal(name) for name in asked} <= aggregator.keys() & required, "run `make locks`"
    assert aggregator.items() <= site.items(), "run `make locks`"


def test_an_aggregator_needs_no_more_than_its_lock() -> None:
    allowed = pins(LOCKS / "aggregator.txt").keys() | {"openfl-flows", "pip"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *allowed],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "torch" not in allowed
