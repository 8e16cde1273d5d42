"""The command line: openfl-flows COMMAND. Everything heavy is imported by the command it serves."""

import argparse
import contextlib
import dataclasses
import io
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openfl_flows import __version__

EPILOG = """\
simulate and centralize take the plan's keys as overrides, and -m for sweeps:
  openfl-flows simulate experiment=demo
  openfl-flows simulate experiment=digress_qm9 join=diloco federation.sites=8 seed=1 out=DIR
  openfl-flows simulate experiment=demo seed=1,2,3 -m
  openfl-flows simulate resume=DIR
  openfl-flows simulate --cfg job              show the composed plan, run nothing
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0 done, 1 bad input, 2 bad usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    # Hydra has a command line of its own: what follows the command is its.
    if arguments[:1] in (["simulate"], ["centralize"]) and not {"-h", "--help"} & {*arguments}:
        return _reporting_errors(_plan_command, arguments[0], arguments[1:])
    options = parser.parse_args(arguments)
    return _reporting_errors(options.run, options)


def plan_folder() -> Path:
    """The plan/ tree: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "plan"
    return installed if installed.is_dir() else package.parent / "plan"


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The plan with overrides, as plain values.

    Raises:
        ValueError: An override does not fit the plan.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    with hydra.initialize_config_dir(str(plan_folder()), version_base="1.3"):
        try:
            return _plain(hydra.compose("config", overrides=list(overrides)))
        except (HydraException, OmegaConfBaseException) as error:
            raise ValueError(" ".join(str(error).split())) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="openfl-flows",
        description="Federated training for drug discovery on OpenFL.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in (
        ("simulate", "run a federation on this machine or on Ray: simulate [KEY=VALUE ...]"),
        (
            "centralize",
            "train the centralized baseline of the same plan: centralize [KEY=VALUE ...]",
        ),
    ):
        command = commands.add_parser(name, help=text, description=text, epilog=EPILOG)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        command.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    _add_compare(commands)
    _add_sample(commands)
    report = commands.add_parser("report", help="write report.html of a run again")
    report.add_argument("run_directory", metavar="RUN", type=Path)
    report.set_defaults(run=_report)
    return parser


def _add_compare(commands: Any) -> None:
    text = "table of two sets of finished runs: means, %%-differences, intervals over seeds"
    command = commands.add_parser("compare", help=text, description=text)
    command.add_argument("a", metavar="A", help="run directories, comma-separated: e.g. federated")
    command.add_argument("b", metavar="B", help="those to compare with: e.g. centralized")
    command.add_argument("--metrics", help="comma-separated names; the paper's by default")
    command.add_argument("--out", type=Path, help="write table.md, table.csv and table.html here")
    command.set_defaults(run=_compare)


def _add_sample(commands: Any) -> None:
    text = "draw molecules from a finished run"
    command = commands.add_parser("sample", help=text, description=text)
    command.add_argument("run_directory", metavar="RUN", type=Path)
    command.add_argument("--num", type=int, default=64, help="molecules to draw (64)")
    command.add_argument("--steps", type=int, help="denoising steps (all)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--weights", choices=("model", "ema"), default="model")
    command.add_argument("--mu", type=float, help="guide toward this dipole in Debye")
    command.add_argument("--homo", type=float, help="guide toward this orbital energy in eV")
    command.add_argument("--strength", type=float, default=10.0, help="of the guidance (10)")
    command.add_argument("--out", type=Path, help="folder to write to (RUN/drawn)")
    command.set_defaults(run=_sample)


def _plan_command(command: str, overrides: list[str]) -> None:
    resume = [o.split("=", 1)[1] for o in overrides if o.startswith("resume=")]
    if resume and resume[0] != "null":
        _run_plan(
            command, *_resumed(resume[0], [o for o in overrides if not o.startswith("resume=")])
        )
        return
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    @hydra.main(version_base="1.3", config_path=str(plan_folder()), config_name="config")
    def job(composed: Any) -> None:
        def run() -> None:
            config = _plain(composed)
            job_config = HydraConfig.get()
            if job_config.mode == RunMode.MULTIRUN:
                config["out"] = job_config.runtime.output_dir
            _run_plan(command, config, False)

        if _reporting_errors(run):
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
    recorded = _leaves(config)
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
    default, asked = _leaves(compose(())), _leaves(compose(overrides))
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
    from openfl_flows.report.html import write_report
    from openfl_flows.report.samples import draw_samples

    experiment = Experiment.from_config(config)
    if command == "simulate":
        run = experiment.simulate(config["out"], resume=resume)
    else:
        run = train_centralized(
            experiment.task,
            rounds=experiment.rounds,
            budget=experiment.budget,
            out=config["out"],
            match=config["federation"]["match"],
            threads=experiment.runtime.threads,
            config=config,
            resume=resume,
        )
    draw_samples(run.path / "samples")
    for name, value in run.record["metrics"].items():
        print(f"{name:>20}  {value:.4f}")
    print(f"digest {run.record['digest']}")
    print(f"report {write_report(run.path)}")


def _compare(options: argparse.Namespace) -> None:
    from openfl_flows.ops.files import write_atomically
    from openfl_flows.report.compare import compare

    a, b = ([Path(folder) for folder in side.split(",")] for side in (options.a, options.b))
    metrics = options.metrics.split(",") if options.metrics else None
    table = compare(a, b, metrics)
    print(table.to_markdown())
    if options.out:
        for name, text in (
            ("table.md", table.to_markdown()),
            ("table.csv", table.to_csv()),
            ("table.html", table.to_html()),
        ):
            write_atomically(options.out / name, text.encode())
        print(f"written to {options.out}")


def _sample(options: argparse.Namespace) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        from openfl_flows.experiment import Experiment
    from openfl_flows.learners.digress_task import DigressTask
    from openfl_flows.ops.files import load_state
    from openfl_flows.ops.run import RunDirectory
    from openfl_flows.report.samples import draw_samples

    if (options.mu is None) != (options.homo is None):
        raise ValueError("guidance needs both --mu and --homo")
    run = RunDirectory.open(options.run_directory)
    out = options.out or run.path / "drawn"
    state = load_state(run.path / f"{options.weights}.safetensors")
    task = Experiment.from_config(run.record["config"]).task
    if not isinstance(task, DigressTask):
        raise ValueError(f"{run.path} is a run of {type(task).__name__}, which draws no molecules")
    sampling = dataclasses.replace(
        task.sampling,
        num=options.num,
        steps=options.steps,
        target=None if options.mu is None else (options.mu, options.homo),
        strength=options.strength,
    )
    found = task.draw(state, out, sampling, seed=options.seed)
    draw_samples(out)
    for name, mean in found.items():
        print(f"{name:>20}  {mean.value:.4f}")
    print(f"molecules in {out}: " + ", ".join(sorted(file.name for file in out.iterdir())))


def _report(options: argparse.Namespace) -> None:
    from openfl_flows.report.html import write_report
    from openfl_flows.report.samples import draw_samples

    draw_samples(options.run_directory / "samples")
    print(f"report {write_report(options.run_directory)}")


def _reporting_errors(function: Any, *arguments: Any) -> int:
    """Call ``function``; what a user got wrong is one line on standard error and status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    try:
        function(*arguments)
    except (ValueError, OSError) as error:
        print(f"openfl-flows: error: {error}", file=sys.stderr)
        return 1
    return 0


def _plain(composed: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue

    try:
        plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ValueError(f"{error.full_key} is missing, expected a value: KEY=VALUE") from None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def _leaves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": leaf for inner, leaf in _leaves(value).items()}
        else:
            found[key] = value
    return found
