"""simulate and centralize: runs of a plan on this machine."""

import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openfl_flows.cli.errors import reporting_errors
from openfl_flows.cli.plan import compose, leaves, plain, plan_folder, register_resolvers
from openfl_flows.cli.results import show_run

PLAN_COMMANDS = {
    "simulate": "run a federation on this machine or on Ray: simulate [KEY=VALUE ...]",
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
        from openfl_flows.centralized import train_centralized
        from openfl_flows.experiment import Experiment
        from openfl_flows.flows.simulation import simulate_experiment

    experiment = Experiment.from_config(config)
    if command == "simulate":
        run = simulate_experiment(experiment, config["out"], resume=resume)
    else:
        run = train_centralized(
            experiment.task,
            rounds=experiment.rounds,
            budget=experiment.budget,
            out=config["out"],
            match=config["federation"]["match"],
            threads=experiment.runtime.threads,
            initial=None if resume else experiment.initial_state(),
            config=config,
            resume=resume,
        )
    show_run(run)
