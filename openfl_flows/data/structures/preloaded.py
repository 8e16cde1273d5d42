"""Imported for its effect: OpenFold3 and the component dictionary, in memory that forks share."""

from openfl_flows.data.structures import prepare  # noqa: F401
from openfl_flows.data.structures.components import public_component

public_component("ALA")
