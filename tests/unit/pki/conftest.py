"""A federation of one aggregator and two sites: its plan in a workspace, and its authority."""

from pathlib import Path

import pytest

from openfl_flows.pki.authority import create_authority

PLAN = "network: {settings: {agg_addr: Agg.Example.org}}\n"
COLS = "collaborators: [site-1, site-2]\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    plan = tmp_path / "workspace" / "plan"
    plan.mkdir(parents=True)
    (plan / "plan.yaml").write_text(PLAN)
    (plan / "cols.yaml").write_text(COLS)
    return plan.parent


@pytest.fixture(scope="session")
def authority(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pki") / "ca"
    create_authority(folder)
    return folder
