"""What a manifest depends on in a workspace, read without a YAML library.

A plan that was exported has one key or one item in a line. This reads no more than that; the file
itself is measured, so that a misreading could make an enclave too small, never another one.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["aggregator", "collaborator"]

_KEY = re.compile(r"( *)([A-Za-z_][\w.-]*):(?: +(.*))?")
_SITE = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
INITIAL = ("save/init.pbuf", "save/initial.safetensors", "save/baseline.safetensors")


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """One party's workspace.

    Attributes:
        folder: Absolute.
        role: Of the party.
        site: Its name; None for the aggregator.
        sites: Number of sites that may take part.
        threads: Threads that a process computes with.
        task: Name of the model's task.
        noise: Whether the plan adds noise, whose cost is accounted for.
        attested: Whether the plan asks for attestation: the aggregator then makes its TLS key.
        model_bytes: Size of the initial model.
    """

    folder: Path
    role: Role
    site: str | None
    sites: int
    threads: int
    task: str
    noise: bool
    attested: bool
    model_bytes: int


def read_party(folder: Path, *, role: Role, site: str | None) -> Workspace:
    """Read what a party's manifest depends on.

    Raises:
        ValueError: The workspace cannot be used or does not know the site; names file and key.
    """
    folder = folder.absolute()
    plan, cols = folder / "plan" / "plan.yaml", folder / "plan" / "cols.yaml"
    values = scalars(plan)
    names = [line.strip()[2:].strip(" '\"") for line in _lines(cols) if line.strip()[:2] == "- "]
    if not names:
        raise ValueError(f"{cols}: no item under collaborators, expected the sites")
    if role == "aggregator" and site is not None:
        raise ValueError(f"--name={site} with --role aggregator, expected none: the plan names it")
    if role == "collaborator":
        if site is None or _SITE.fullmatch(site) is None or site not in names:
            raise ValueError(f"--name={site}, expected one of {', '.join(names)} as in {cols}")
        _check_data(folder, site)
    initial = folder / INITIAL[0]
    if not initial.is_file():
        raise ValueError(
            f"{initial}: no such file, expected the initial model: `fx plan initialize` writes it"
        )
    experiment = "task_runner.settings.experiment"
    if values.get(f"{experiment}.model.training.kernels") == "native":
        raise ValueError(
            f"{plan}: model.training.kernels=native, expected torch: an enclave starts no compiler"
        )
    threads = _value(plan, values, f"{experiment}.runtime.threads")
    if not threads.isdecimal() or not 1 <= int(threads) <= 1024:
        raise ValueError(f"{plan}: runtime.threads={threads}, expected 1 to 1024")
    return Workspace(
        folder=folder,
        role=role,
        site=site,
        sites=len(names),
        threads=int(threads),
        task=_value(plan, values, f"{experiment}.model.task"),
        noise=any(key.startswith(f"{experiment}.privacy.") for key in values),
        attested=values.get("network.settings.attestation.required", "none") != "none",
        model_bytes=initial.stat().st_size,
    )


def scalars(path: Path) -> dict[str, str]:
    """The values in a YAML file of one key a line, by dotted key, as they are written.

    Keys of mappings inside lists are left out.

    Raises:
        ValueError: There is no such file.
    """
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    item = math.inf
    for line in _lines(path):
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith("-"):
            item = indent
        match = _KEY.fullmatch(line.rstrip())
        if match is None or indent > item:
            continue
        item = math.inf
        above = [(depth, key) for depth, key in above if depth < indent]
        if match[3] is None:
            above.append((indent, match[2]))
        else:
            found[".".join([*(key for _, key in above), match[2]])] = match[3].strip("'\"")
    return found


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a part of a plan")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.lstrip().startswith("#")]


def _value(path: Path, values: dict[str, str], key: str) -> str:
    if key not in values:
        raise ValueError(f"{path}: no {key}, expected a plan that `openfl-flows export` wrote")
    return values[key]


def _check_data(folder: Path, site: str) -> None:
    path = folder / "plan" / "data.yaml"
    for line in _lines(path):
        name, _, data = (part.strip() for part in line.partition(","))
        if name == site:
            if not data.startswith("data/") or ".." in Path(data).parts:
                raise ValueError(
                    f"{path}: {line!r}, expected {site},data/…: the enclave sees its workspace only"
                )
            return
    raise ValueError(f"{path}: no line of {site!r}, expected {site},data/{site}")
