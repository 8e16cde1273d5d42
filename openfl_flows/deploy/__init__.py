"""Containers, charts and units for the parties of a workspace, written out to be read and run."""

from typing import Literal, get_args

Kind = Literal["compose", "helm", "systemd"]
KINDS: tuple[Kind, ...] = get_args(Kind)
