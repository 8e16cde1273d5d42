"""Parties of federations, made once and copied for every test that needs them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from openfl_flows.cli.plan import compose
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.rehearsal import prepare
from tests.fx_processes import TOY, launch


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``prepared(*overrides)``: the parties' folders of a plan; the same ones at every call."""
    made: dict[tuple[str, ...], Path] = {}

    def prepare_once(*overrides: str) -> Path:
        if overrides not in made:
            folder = tmp_path_factory.mktemp("federation")
            export_workspace(compose(overrides), folder / "workspace")
            prepare(folder / "workspace", folder / "parties", launch=launch)
            made[overrides] = folder / "parties"
        return made[overrides]

    return prepare_once


@pytest.fixture
def federation(prepared: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """``federation(*overrides)``: the parties' folders of a plan, to run and to break."""

    def copy(*overrides: str) -> Path:
        return Path(shutil.copytree(prepared(*overrides), tmp_path / "parties", symlinks=True))

    return copy


@pytest.fixture
def toy_federation(federation: Callable[..., Path]) -> Path:
    """Parties ``aggregator``, ``site-1``, ``site-2`` of three rounds of the toy with DiLoCo."""
    return federation(*TOY)
