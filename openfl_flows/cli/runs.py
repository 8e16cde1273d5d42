"""simulate, local and centralize: runs of a plan on this machine."""

import contextlib
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openfl_flows.cli.errors import reporting_errors
from openfl_flows.cli.plan import compose, leaves, plain, plan_folder, register_resolvers
from openfl_flows.cli.results import show_run

if TYPE_CHECKING:
    from openfl_flows.experiment import Experiment

PLAN_COMMANDS = {
    "simulate": "run a federation on this machine or on Ray: simulate [KEY=VALUE ...]",
    "local": "train at one site alone, on its own data: local site=SITE [KEY=VALUE ...]",
    "centralize": "train the centralized baseline of the same plan: centralize [KEY=VALUE ...]",
}
"""Commands whose command line is Hydra's, with what they do."""


def run_plan_command(command: str, overrides: list[str]) -> None:
    """Run one of :data:`PLAN_COMMANDS`.

    Raises:
        ValueError: The plan, or the run to go on with, cannot be used.
    """
    resume = [o.split("=", 1)[1] for o in overrides if o.startswith("resume=")]
    if resume and resume[0] != "null":
        _run_plan(
            command, *_resumed(resume[0], [o for o in overrides if not o.startswith("resume=")])
        )
        return
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    register_resolvers()

    @hydra.main(version_base="1.3", config_path=str(plan_folder()), config_name="config")
    def job(composed: Any) -> None:
        def run() -> None:
            config = plain(composed)
            job_config = HydraConfig.get()
            if job_config.mode == RunMode.MULTIRUN:
                config["out"] = job_config.runtime.output_dir
            _run_plan(command, config, False)

        if reporting_errors(run):
            sys.exit(1)

    sys.argv = [f"openfl-flows {command}", *overrides]
    job()


def build_experiment(command: str, config: Mapping[str, Any]) -> "Experiment":
    """The experiment that one of :data:`PLAN_COMMANDS` runs.

    Raises:
        ValueError: A value of the plan cannot be used, or not by this command.
    """
    from openfl_flows.experiment import Experiment

    experiment = Experiment.from_config(config)
    if experiment.evaluation is not None:
        raise ValueError(
            f"evaluation is of the commands benchmark and export, expected none: {command} trains"
        )
    sites = ", ".join(experiment.task.sites)
    if command == "local" and experiment.site is None:
        raise ValueError(f"site=null, expected the site that trains alone, one of {sites}")
    if command != "local" and experiment.site is not None:
        raise ValueError(
            f"site={experiment.site} is of the command local, expected site=null: "
            f"{command} takes all sites, {sites}"
        )
    return experiment


def _resumed(folder: str, overrides: list[str]) -> tuple[dict[str, Any], bool]:
    """The plan of a run to go on with; overrides may repeat it, and change rounds and runtime.

    Raises:
        ValueError: There is no such run, or an override contradicts its plan.
    """
    from openfl_flows.ops.run import RunDirectory

    config = RunDirectory.open(Path(folder)).record["config"]
    recorded = leaves(config)
    for key, value in sorted(_said(overrides).items()):
        # The number of threads decides the last bits; the rest of the runtime decides none.
        if key == "federation.rounds" or key.startswith("runtime.") and key != "runtime.threads":
            group, _, name = key.partition(".")
            config[group][name] = value
        elif key not in ("out", "resume") and recorded.get(key) != value:
            raise ValueError(
                f"{key}={value} contradicts the run in {folder}, which has "
                f"{key}={recorded.get(key)}"
            )
    config["out"] = folder
    return config, True


def _said(overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides say of the plan: the keys that they name and those that they change."""
    if not overrides:
        return {}
    default, asked = leaves(compose(())), leaves(compose(overrides))
    named = tuple(override.partition("=")[0].lstrip("+~") for override in overrides)
    return {
        key: asked.get(key)
        for key in default.keys() | asked.keys()
        if asked.get(key) != default.get(key)
        or any(key == name or key.startswith(f"{name}.") for name in named)
    }


def _run_plan(command: str, config: dict[str, Any], resume: bool) -> None:
    # OpenFL prints a line for every task that a module registers, at import.
    with contextlib.redirect_stdout(io.StringIO()):
        from openfl_flows.baselines import train_centralized, train_local
        from openfl_flows.flows.simulation import simulate_experiment

    experiment = build_experiment(command, config)
    if command == "simulate":
        show_run(simulate_experiment(experiment, config["out"], resume=resume))
        return
    options: dict[str, Any] = {
        "rounds": experiment.rounds,
        "budget": experiment.budget,
        "out": config["out"],
        "threads": experiment.runtime.threads,
        "tested": experiment.tested,
        "initial": None if resume else experiment.initial_state(),
        "config": config,
        "resume": resume,
    }
    if experiment.site is not None:
        run = train_local(experiment.task, site=experiment.site, **options)
    else:
        match = config["federation"]["match"]
        run = train_centralized(experiment.task, match=match, **options)
    show_run(run)
