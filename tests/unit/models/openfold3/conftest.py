"""Real structures and a small OpenFold3 for its tests."""

from pathlib import Path

import pytest

from openfl_flows.data.structures.set import StructureSet
from openfl_flows.models.openfold3.config import OpenFold3Config
from tests.openfold3_set import TINY, link_set


@pytest.fixture(scope="session")
def structures(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> StructureSet:
    """Seven prepared PDB entries."""
    return StructureSet.open(link_set(shared_data, tmp_path_factory.mktemp("of3") / "set"))


@pytest.fixture(scope="session")
def tiny() -> OpenFold3Config:
    """The smallest network, with as little diffusion as trains."""
    return OpenFold3Config(**TINY)
