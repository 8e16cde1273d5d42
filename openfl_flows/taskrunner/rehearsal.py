"""Rehearse a federation on one machine: every party in a folder and a process of its own, mTLS.

Nothing is left out: plan initialized, workspace exported and imported, certificates issued, and
then what the parties would start on their own machines.
"""

import logging
import random
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from openfl_flows.data.blind.key_file import read_key
from openfl_flows.experiment import Experiment
from openfl_flows.learners.base import Task
from openfl_flows.learners.data_report import report_data
from openfl_flows.metrics.mean import values
from openfl_flows.ops.run import RunDirectory
from openfl_flows.pki.authority import create_authority, issue_party
from openfl_flows.readiness.machine import in_the_way_of_port
from openfl_flows.taskrunner.attested_party import rules_of
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.live_table import LiveTable
from openfl_flows.taskrunner.namespaces import ADDRESS as NARROW_ADDRESS
from openfl_flows.taskrunner.narrow import HostsMaker, as_hosts, narrowed
from openfl_flows.taskrunner.parties import Launch, Party, launch_fx, run_fx, run_parties
from openfl_flows.taskrunner.workspace import read_workspace

RUN = Path("aggregator") / "local_state" / "run"
"""The run directory, in the folder of a rehearsal; ``run`` beside the parties is a link to it."""

LINK = "link.json"
"""In the folder of a rehearsal over narrow links: how they were narrowed, and their bytes."""

ADDRESS = "localhost"
PORTS = range(20000, 30000)
"""The aggregator's port is one of these: below those that systems give to outgoing connections."""
PORT_SECONDS = 5.0
"""How long to wait for a port that is taken."""

_log = logging.getLogger(__name__)


def rehearse(
    workspace: Path,
    *,
    out: Path,
    sites: int | None = None,
    quiet: bool = False,
    resume: bool = False,
    launch: Launch = launch_fx,
    hosts: HostsMaker = as_hosts,
) -> RunDirectory:
    """Run the federation of a workspace with all its parties on this machine.

    Where the plan has a ``federation.link``, the sites' links are as narrow as it says.

    Args:
        workspace: An exported workspace; nothing is written into it.
        out: Gets a folder for every party, the authority of their certificates in ``ca``, and
            ``run``, a link to the aggregator's run directory.
        sites: Number of sites, if other than the workspace has: all data are dealt anew.
        quiet: Show no progress.
        resume: Go on with the parties that ``out`` has, where they stopped.
        launch: Starts a process.
        hosts: Makes the hosts between which links are narrowed.

    Returns:
        The finished run, with what only its final model can show.

    Raises:
        ValueError: The workspace cannot be used, ``out`` is taken, or a party failed.
    """
    out = Path(out).absolute()
    if not resume:
        required = rules_of(read_workspace(workspace)).required
        if required != "none":
            raise ValueError(
                f"{workspace}: network.attestation.required={required}, expected none to rehearse: "
                "on one machine nobody has an enclave to prove"
            )
        prepare(workspace, out, sites=sites, launch=launch)
    elif not (out / "run").is_symlink():
        raise ValueError(f"{out}: no rehearsal to go on with, expected a folder that has 'run'")
    plan = read_workspace(out / "aggregator")
    # What is told of all sites' data at the end needs a key, which the aggregator does not have.
    experiment = Experiment.from_config(_with_key(plan.config, out / plan.sites[0]))
    parties = parties_of(out, experiment.task.sites)
    if not (resume and _finished(out)):
        port = _checked_port(out / "aggregator")
        environment = {"OMP_NUM_THREADS": str(experiment.runtime.threads)}
        links = narrowed(
            experiment.task.sites, experiment.link,
            port=port, record=out / LINK, launch=launch, make=hosts,
        )  # fmt: skip
        with LiveTable(parties, quiet=quiet) as table, links as launch_there:
            run_parties(parties, launch=launch_there, environment=environment, watch=table.show)
    if not _finished(out):
        raise ValueError(f"all parties ended, but the run is not finished: see {parties[0].log}")
    return _conclude(RunDirectory.open(out / "run"), experiment)


def prepare(
    workspace: Path, out: Path, *, sites: int | None = None, launch: Launch = launch_fx
) -> None:
    """Make the parties' folders as they would be on their own machines: all of them, or none.

    Args:
        workspace: An exported workspace.
        out: A folder that does not exist or is empty.
        sites: Number of sites, if other than the workspace has.
        launch: Starts a process.

    Raises:
        ValueError: The workspace cannot be used, or ``out`` is taken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out} exists and is not empty: choose another folder, or resume it")
    plan = read_workspace(workspace)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        making = Path(temporary) / "out"
        making.mkdir()
        if sites not in (None, len(plan.sites)):
            given, workspace = workspace, making / "workspace"
            export_workspace(_with_sites(_with_key(plan.config, given), sites), workspace)
            plan = read_workspace(workspace)
            _give_key(given, workspace, plan.config)
        experiment = Experiment.from_config(_with_key(plan.config, workspace))
        address = NARROW_ADDRESS if experiment.link else ADDRESS
        _make_aggregator(workspace, making / "aggregator", address, launch)
        archive = making / "aggregator" / "aggregator.zip"
        for site in plan.sites:
            shutil.unpack_archive(archive, making / site)
            _give_key(workspace, making / site, plan.config)
        _deal_data(workspace, making, experiment.task)
        create_authority(making / "ca")
        issue_party(making / "ca", making / "aggregator", aggregator=address)
        for site in plan.sites:
            issue_party(making / "ca", making / site, site=site)
        (making / "run").symlink_to(RUN)
        making.rename(out)


def parties_of(out: Path, sites: tuple[str, ...]) -> tuple[Party, ...]:
    """The parties of a rehearsal, the aggregator first."""
    aggregator = Party(
        name="aggregator", folder=out / "aggregator", arguments=("aggregator", "start")
    )
    return aggregator, *(
        Party(name=site, folder=out / site, arguments=("collaborator", "start", "-n", site))
        for site in sites
    )


def _make_aggregator(workspace: Path, folder: Path, address: str, launch: Launch) -> None:
    # No data, and nothing that an earlier federation left in the workspace.
    folder.mkdir()
    for part in ("plan", "src", "save"):
        shutil.copytree(workspace / part, folder / part)
    for part in (".workspace", "requirements.txt"):
        shutil.copy2(workspace / part, folder / part)
    for part in ("cert", "data", "local_state", "logs"):
        (folder / part).mkdir()
    file = folder / "plan" / "plan.yaml"
    plan = yaml.safe_load(file.read_text())
    # Another port each time, so that rehearsals may run side by side.
    plan["network"]["settings"] |= {
        "agg_addr": address,
        "agg_port": _free_port(),
        "client_reconnect_interval": 1,
    }
    plan["aggregator"]["settings"]["poll_seconds"] = 1
    file.write_text(yaml.safe_dump(plan, sort_keys=False))
    run_fx(folder, "plan", "initialize", launch=launch)
    # It leaves its copy of the workspace behind.
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        run_fx(folder, "workspace", "export", launch=launch, environment={"TMPDIR": temporary})


def _deal_data(workspace: Path, out: Path, task: Task) -> None:
    """Give every site its own data: those in the workspace, or its share of the plan's."""
    for site in task.sites:
        own, folder = workspace / "data" / site, out / site / "data" / site
        if own.is_dir():
            shutil.copytree(own, folder)
        else:
            folder.mkdir(parents=True)
            task.write_site_data(site, folder)


def _conclude(run: RunDirectory, experiment: Experiment) -> RunDirectory:
    """Add to the aggregator's record what a simulation's has: the data, and what a model draws."""
    if experiment.evaluation is not None:
        return run
    torch.set_num_threads(experiment.runtime.threads)
    task, model = experiment.task, run.model()
    try:
        table = task.composition()
    except ValueError as error:
        # The sites have their data; those of the plan need not be here.
        _log.warning("%s: nothing is drawn from the model and judged: %s", run.path, error)
        return run
    report_data(task, table, run.path)
    drawn = values(task.evaluate(model, run.path / "samples"))
    average = run.average()
    if average is not None:
        found = values(task.evaluate(average, run.path / "samples_ema"))
        drawn |= {f"ema_{name}": value for name, value in found.items()}
    run.finish({**run.record["metrics"], **drawn})
    return run


def _with_key(config: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The plan with the files of a blind split where a party has them, in its own folder."""
    split = config.get("split") or {}
    found = {key: str(folder / split[key]) for key in ("key_file", "clusters") if split.get(key)}
    return {**config, "split": {**split, **found}} if found else config


def _give_key(source: Path, folder: Path, config: Mapping[str, Any]) -> None:
    """Give a site the key of a blind split, as its people would."""
    if not (name := (config.get("split") or {}).get("key_file")):
        return
    read_key(source / name)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / name, folder / name)


def _with_sites(config: Mapping[str, Any], sites: int | None) -> dict[str, Any]:
    return {**config, "federation": {**config["federation"], "sites": sites}}


def _finished(out: Path) -> bool:
    return (out / RUN / "run.json").is_file() and RunDirectory.open(out / RUN).finished


def _free_port() -> int:
    return next(port for port in random.sample(PORTS, len(PORTS)) if _is_free(port))


def _is_free(port: int) -> bool:
    return in_the_way_of_port(port) is None


def _checked_port(aggregator: Path) -> int:
    """The aggregator's port; one that is taken, gRPC would share, and the parties meet strangers.

    Raises:
        ValueError: It is taken.
    """
    file = aggregator / "plan" / "plan.yaml"
    port = yaml.safe_load(file.read_text())["network"]["settings"]["agg_port"]
    # An aggregator that was killed a moment ago may still hold it.
    end = time.monotonic() + PORT_SECONDS
    while not _is_free(port):
        if time.monotonic() > end:
            raise ValueError(
                f"{file}: network.settings.agg_port={port} is taken by another process"
            )
        time.sleep(0.05)
    return int(port)
