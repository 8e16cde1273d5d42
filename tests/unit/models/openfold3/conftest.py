"""Real structures and a small OpenFold3 for its tests."""

import pytest

from openfl_flows.data.structures.select import SAMPLE
from openfl_flows.data.structures.set import StructureSet
from openfl_flows.models.openfold3.config import OpenFold3Config
from tests.openfold3_set import TINY


@pytest.fixture(scope="session")
def structures() -> StructureSet:
    """The structures that the package ships."""
    return StructureSet.open(SAMPLE)


@pytest.fixture(scope="session")
def tiny() -> OpenFold3Config:
    """The smallest network, with as little diffusion as trains."""
    return OpenFold3Config(**TINY)
