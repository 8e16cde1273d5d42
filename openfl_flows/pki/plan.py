"""The parties that a plan names: the only source of the names in certificates."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

Role = Literal["aggregator", "collaborator"]

SITE = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
"""A site's name: a file name and a common name, lower-case as ``fx`` makes it."""
ADDRESS = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?")
"""The aggregator's address: a host name or an IPv4 address."""

NAME_RULE = "lower-case letters, digits, . _ or -"
"""What :func:`is_site_name` asks for, in words."""

_STEM = {"aggregator": "server/agg_", "collaborator": "client/col_"}


@dataclass(frozen=True, kw_only=True)
class Party:
    """One party of a federation.

    Attributes:
        role: What its certificate is good for.
        name: The site's name, or the aggregator's address in lower case.
    """

    role: Role
    name: str

    def file(self, workspace: Path, suffix: str) -> Path:
        """Where OpenFL looks for this party's file with an ending such as ``.crt``."""
        return workspace / "cert" / f"{_STEM[self.role]}{self.name}{suffix}"

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


def is_address(value: object) -> bool:
    """Whether a value can be the aggregator's address; OpenFL's ``auto`` is none."""
    return isinstance(value, str) and value != "auto" and ADDRESS.fullmatch(value) is not None


def is_site_name(value: object) -> bool:
    """Whether a value can be a site's name."""
    return isinstance(value, str) and SITE.fullmatch(value) is not None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: There is no such file, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a part of a plan")
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{path}: holds no mapping, expected a part of a plan")
    return document


def aggregator_of(workspace: Path) -> Party:
    """The aggregator that ``plan/plan.yaml`` names.

    Raises:
        ValueError: It names none.
    """
    path = workspace / "plan" / "plan.yaml"
    found: Any = read_yaml(path)
    for key in ("network", "settings", "agg_addr"):
        found = found.get(key) if isinstance(found, Mapping) else None
    if not is_address(found):
        raise ValueError(
            f"{path}: network.settings.agg_addr={found}, expected the aggregator's host name"
        )
    return Party(role="aggregator", name=found.lower())


def sites_of(workspace: Path) -> list[Party]:
    """The sites that ``plan/cols.yaml`` names, in its order.

    Raises:
        ValueError: It names none, or one by what cannot be a name.
    """
    path = workspace / "plan" / "cols.yaml"
    names = read_yaml(path).get("collaborators")
    if not isinstance(names, list) or not names:
        raise ValueError(f"{path}: collaborators={names}, expected a list of sites' names")
    for name in names:
        if not is_site_name(name):
            raise ValueError(f"{path}: collaborators: {name!r}, expected {NAME_RULE}")
    return [Party(role="collaborator", name=name) for name in names]


def parties_of(workspace: Path) -> list[Party]:
    """All parties of the plan in a workspace, the aggregator first.

    Raises:
        ValueError: The plan is missing, or a name is.
    """
    return [aggregator_of(workspace), *sites_of(workspace)]


def party_of(workspace: Path, site: str | None) -> Party:
    """The site of that name, or with None the aggregator.

    Raises:
        ValueError: The plan does not name it.
    """
    if site is None:
        return aggregator_of(workspace)
    known = sites_of(workspace)
    for party in known:
        if party.name == site:
            return party
    raise ValueError(
        f"{workspace / 'plan' / 'cols.yaml'}: no site {site!r}, expected one of "
        + ", ".join(party.name for party in known)
    )
