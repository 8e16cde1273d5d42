"""Write a deployment: templates filled in, and what an image is built from beside them."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2

from openfl_flows import __version__
from openfl_flows.atomic import put_copy
from openfl_flows.deploy import Kind
from openfl_flows.deploy.deployment import FEDERATION, UID, Deployment

TEMPLATES = Path(__file__).parent / "templates"
LOCKS = Path(__file__).parent / "locks"
PAGE = "README.md"

_SUFFIX = ".j2"


def write_deployment(deployment: Deployment, kind: Kind, out: Path) -> list[Path]:
    """Write the files of a deployment; the folder is there whole or not at all.

    Containers get the party's workspace in their image: plan, code and initial model, but no data,
    no keys and nothing that an earlier run left. The same workspace gives the same bytes.

    Args:
        deployment: The party.
        kind: What runs it.
        out: The folder; absent or empty.

    Returns:
        The files, but for those of the workspace.

    Raises:
        ValueError: The folder is in use.
    """
    out = out.absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out={out} is in use, expected an empty folder or none")
    building = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        written = _write(deployment, kind, building)
        if out.exists():
            out.rmdir()
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return [out / file for file in written]


def _write(deployment: Deployment, kind: Kind, folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    rendered = dict(_rendered(deployment, kind))
    if kind != "systemd":
        rendered |= dict(_rendered(deployment, "image"))
        lock = f"{'site' if deployment.site else 'aggregator'}.txt"
        rendered[Path("requirements.lock")] = (LOCKS / lock).read_text()
        _copy_workspace(deployment, folder / "workspace")
        # What builds the image looks for the wheel of this package here.
        (folder / "wheels").mkdir()
    for file, text in rendered.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    return sorted(rendered)


def _rendered(deployment: Deployment, part: str) -> Iterator[tuple[Path, str]]:
    """Every template of a part that has something to say of the party."""
    # Helm's own templates, which are among them, have the usual braces.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES / part),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
    )
    for name in environment.list_templates(extensions=[_SUFFIX[1:]]):
        text = environment.get_template(name).render(_values(deployment))
        if text.strip():
            yield Path(name.removesuffix(_SUFFIX).replace("UNIT", deployment.name)), text


def _values(deployment: Deployment) -> dict[str, Any]:
    return {
        "party": deployment,
        "site": deployment.site,
        "sites": list(deployment.sites),
        "uid": UID,
        "federation": FEDERATION,
        "version": __version__,
    }


def _copy_workspace(deployment: Deployment, folder: Path) -> None:
    source = deployment.workspace
    for part in ("plan", "src"):
        ignored = shutil.ignore_patterns("__pycache__", "plan_*.yaml", ".*")
        shutil.copytree(source / part, folder / part, ignore=ignored)
    for name in (".workspace", "requirements.txt"):
        shutil.copy2(source / name, folder / name)
    for name in deployment.initial:
        put_copy(source / name, folder / name)
    data = folder / "plan" / "data.yaml"
    if deployment.site is None:
        data.unlink(missing_ok=True)
    else:
        # A container has the site's data under one path, wherever they are on the machine.
        data.write_text(f"{deployment.site},data/{deployment.site}\n")
