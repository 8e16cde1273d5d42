"""What a deployment of one party needs to know of its workspace."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from openfl_flows.data.blind.config import KEY_FILE
from openfl_flows.deploy import Kind
from openfl_flows.pki.plan import Role, party_of
from openfl_flows.taskrunner.evaluation import BASELINE_FILE
from openfl_flows.taskrunner.lint import check_plan
from openfl_flows.taskrunner.workspace import DATA, data_folder, read_workspace

UID = 10001
"""User and group that a container runs as: none of the machine's own."""
FEDERATION = PurePosixPath("/federation")
"""Where a container has its workspace."""
PREFIX = PurePosixPath("/opt/openfl-flows")
"""Where Python's environment is, in an image and by default on a machine."""

# OpenFold3 imports RDKit's drawing, which is linked with these; bases of Python have them not.
_LIBRARIES = {
    "openfl_flows.learners.openfold3_task:OpenFold3Task": ("libxext6", "libxrender1"),
}
_LOCAL = re.compile(r"localhost|127\..*|0\.0\.0\.0")
_NUMBERS = re.compile(r"[0-9.]+")


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One party of a federation, and where it runs.

    Attributes:
        role: Of the party.
        site: Its name; None for the aggregator.
        name: Of what runs: ``openfl-aggregator`` or ``openfl-SITE``.
        address: Where sites reach the aggregator.
        port: The one port that is open, at the aggregator.
        metrics_port: Port of the loopback device that the aggregator's figures are at, or None.
        blind: Whether the split is blind, for which every site has the key.
        plan: First eight digits of the plan's hash, as OpenFL names the federation.
        sites: All sites that may take part.
        threads: Threads that a process computes with, as the plan says.
        workspace: The party's workspace on this machine.
        data: Folder of the site's data on this machine, as ``plan/data.yaml`` says; None for the
            aggregator, which has none.
        libraries: Debian's packages that the site's model needs beside Python's.
        prefix: Where Python's environment is.
    """

    role: Role
    site: str | None
    name: str
    address: str
    port: int
    metrics_port: int | None
    blind: bool
    plan: str
    sites: tuple[str, ...]
    threads: int
    workspace: Path
    data: Path | None
    libraries: tuple[str, ...]
    prefix: PurePosixPath = PREFIX

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of ``fx``, which starts the party."""
        if self.site is None:
            return "aggregator", "start"
        return "collaborator", "start", "-n", self.site

    @property
    def writes(self) -> tuple[str, ...]:
        """The folders of the workspace that the party writes to; no others."""
        return ("local_state", "logs", "save") if self.site is None else ("local_state", "logs")

    @property
    def secrets(self) -> dict[str, str]:
        """Files that are in no image, by name: certificate and keys; paths in the workspace."""
        party = party_of(self.workspace, self.site)
        folder = self.workspace
        return {
            "roots": "cert/cert_chain.crt",
            "certificate": str(party.file(folder, ".crt").relative_to(folder)),
            "key": str(party.file(folder, ".key").relative_to(folder)),
            **({"blind-key": KEY_FILE} if self.blind and self.site is not None else {}),
        }

    @property
    def initial(self) -> tuple[str, ...]:
        """The files of ``save/`` that a party starts from."""
        wanted = ("save/init.pbuf", "save/initial.safetensors", BASELINE_FILE)
        return tuple(file for file in wanted if (self.workspace / file).is_file())


def read_deployment(
    workspace: Path, *, kind: Kind, site: str | None, prefix: str | None = None
) -> Deployment:
    """Read what a deployment needs from a workspace.

    Args:
        workspace: The party's: exported and initialized, or imported from its archive.
        kind: What is to be written.
        site: Name of the site; None for the aggregator.
        prefix: Where Python's environment is on the machine of a ``systemd`` unit.

    Raises:
        ValueError: The workspace cannot be used, the plan is not safe or does not name the site,
            or nobody could reach the aggregator; one line that names file and key.
    """
    workspace = workspace.absolute()
    check_plan(workspace / "plan" / "plan.yaml")
    plan = read_workspace(workspace)
    aggregator, party = party_of(workspace, None), party_of(workspace, site)
    if kind != "systemd":
        if prefix is not None:
            raise ValueError(f"--prefix={prefix} is of --kind systemd, expected none: images know")
        _check_address(workspace, aggregator.name, kind, site)
    elif prefix is not None and not prefix.startswith("/"):
        raise ValueError(f"--prefix={prefix}, expected an absolute path")
    if not (workspace / "save" / "init.pbuf").is_file():
        raise ValueError(
            f"{workspace / 'save' / 'init.pbuf'}: no such file, expected the initial model: "
            "`fx plan initialize` writes it at the aggregator"
        )
    return Deployment(
        role=party.role,
        site=site,
        name=f"openfl-{site or 'aggregator'}",
        address=aggregator.name,
        port=plan.config["network"]["agg_port"],
        metrics_port=plan.config["network"]["metrics_port"],
        blind=plan.config.get("split", {}).get("name") == "blind",
        plan=plan.hash[:8],
        sites=plan.sites,
        threads=plan.config["runtime"]["threads"],
        workspace=workspace,
        data=None if site is None else _data(workspace, site),
        libraries=() if site is None else _LIBRARIES.get(plan.config["model"]["task"], ()),
        prefix=PurePosixPath(prefix) if prefix else PREFIX,
    )


def _data(workspace: Path, site: str) -> Path:
    if (found := data_folder(workspace, site)) is None:
        raise ValueError(f"{workspace / DATA}: no line of {site!r}, expected {site},FOLDER")
    return found


def _check_address(workspace: Path, address: str, kind: Kind, site: str | None) -> None:
    where = f"{workspace / 'plan' / 'plan.yaml'}: network.settings.agg_addr={address}"
    if _LOCAL.fullmatch(address):
        raise ValueError(
            f"{where}, expected the aggregator's name in the network: in a container this is the "
            "container itself"
        )
    if kind == "compose" and site is not None and _NUMBERS.fullmatch(address):
        raise ValueError(
            f"{where}, expected a host name: a site's only way out is a forwarder that stands "
            "under this name"
        )
