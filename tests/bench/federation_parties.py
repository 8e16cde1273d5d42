"""Federations of real processes over mTLS, ours and OpenFL's own, with memory seen from outside."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from openfl_flows.cli.plan import compose
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.parties import parties_stub
