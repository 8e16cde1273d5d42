"""export, rehearse, parity, lint, pki and save: from a plan to a real federation and back."""

import argparse
import contextlib
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openfl_flows.cli.benchmark import show_evaluation
from openfl_flows.cli.plan import compose
from openfl_flows.cli.results import show_run
from openfl_flows.pki.commands import add_pki

if TYPE_CHECKING:
    from openfl_flows.learners.base import Task
    from openfl_flows.ops.run import RunDirectory


def add_federation(commands: Any) -> None:
    """Add the commands to a parser's."""
    text = "write a Task Runner workspace of a plan: export [KEY=VALUE ...] DIR"
    export = commands.add_parser("export", help=text, description=text)
    export.add_argument("words", nargs="+", metavar="KEY=VALUE ... DIR")
    export.add_argument("--replace", action="store_true", help="replace a workspace in DIR")
    export.add_argument(
        "--counts", nargs="+", type=Path, metavar="FILE", help="what every site has counted"
    )
    export.set_defaults(run=_export)

    text = "count a site's own training molecules for the plan: count [KEY=VALUE ...] FOLDER"
    counting = commands.add_parser("count", help=text, description=text)
    counting.add_argument("words", nargs="+", metavar="KEY=VALUE ... FOLDER")
    counting.add_argument("--site", required=True, metavar="NAME")
    counting.add_argument("--out", required=True, type=Path, metavar="FILE")
    counting.set_defaults(run=_count)

    text = "run a workspace's federation on this machine: a process for every party, mutual TLS"
    rehearse = commands.add_parser("rehearse", help=text, description=text)
    rehearse.add_argument("workspace", metavar="DIR", type=Path)
    rehearse.add_argument("--sites", type=int, help="that many sites, if not those of the plan")
    rehearse.add_argument("--out", type=Path, help="folder of all parties (runs/rehearsal-DIR)")
    rehearse.add_argument("--resume", action="store_true", help="go on with the parties in OUT")
    rehearse.add_argument("--quiet", action="store_true", help="show no progress")
    rehearse.set_defaults(run=_rehearse)

    text = "simulate and rehearse a plan, and compare the model after every round"
    parity = commands.add_parser("parity", help=text, description=text)
    parity.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parity.add_argument("--quiet", action="store_true", help="show no progress")
    parity.set_defaults(run=_parity)

    text = "check a workspace's plan for what would make the federation unsafe"
    lint = commands.add_parser("lint", help=text, description=text)
    lint.add_argument("workspace", metavar="DIR", type=Path)
    lint.set_defaults(run=_lint)

    text = "write a run's model as safetensors and in its native format"
    save = commands.add_parser("save", help=text, description=text)
    save.add_argument("folder", metavar="DIR", type=Path, help="a workspace or a run directory")
    save.add_argument("--weights", choices=("model", "best", "ema"), default="model")
    text = "also what OpenFold3's own trainer goes on with: the model and its moving average"
    save.add_argument("--training", action="store_true", help=text)
    save.add_argument("--out", type=Path, help="folder to write to (DIR/saved)")
    save.set_defaults(run=_save)

    add_pki(commands).set_defaults(run=_pki)


def _export(options: argparse.Namespace) -> None:
    from openfl_flows.learners.digress_counts import statistics_of_files
    from openfl_flows.taskrunner.export import export_workspace

    config, folder = _config_and_folder("export", options.words)
    if options.counts:
        config["model"]["statistics"] = statistics_of_files(options.counts)
    export_workspace(config, folder, replace=options.replace, deal=not options.counts)
    print(f"workspace {folder}")


def _count(options: argparse.Namespace) -> None:
    from openfl_flows.experiment import Experiment
    from openfl_flows.learners.digress_counts import write_counts
    from openfl_flows.learners.digress_task import DigressTask

    config, folder = _config_and_folder("count", options.words)
    task = Experiment.from_config(config).task
    if not isinstance(task, DigressTask):
        raise ValueError(f"{type(task).__name__} has nothing to count, expected a DiGress plan")
    counts = task.site_counts(options.site, folder)
    write_counts(options.out, counts)
    for name, numbers in counts.items():
        print(f"{name:>20}  {' '.join(f'{number:g}' for number in numbers)}")
    print(f"written {options.out}: these numbers, and nothing else, leave the site")


def _config_and_folder(command: str, words: list[str]) -> tuple[dict[str, Any], Path]:
    folders = [word for word in words if "=" not in word]
    if len(folders) != 1:
        raise ValueError(
            f"{command} got {len(folders)} folders ({', '.join(folders)}), expected "
            "KEY=VALUE ... FOLDER"
        )
    return compose([word for word in words if "=" in word]), Path(folders[0])


def _rehearse(options: argparse.Namespace) -> None:
    from openfl_flows.evaluation.record import FILE as EVALUATION
    from openfl_flows.taskrunner.rehearsal import rehearse

    run = rehearse(
        options.workspace,
        out=options.out or Path("runs") / f"rehearsal-{options.workspace.resolve().name}",
        sites=options.sites,
        quiet=options.quiet,
        resume=options.resume,
    )
    if (file := run.path / EVALUATION).is_file():
        show_evaluation(json.loads(file.read_text()), run.path)
    else:
        show_run(run)


def _parity(options: argparse.Namespace) -> None:
    # OpenFL prints a line for every task that a module registers, at import.
    with contextlib.redirect_stdout(io.StringIO()):
        from openfl_flows.flows.simulation import simulate_experiment
    from openfl_flows.experiment import Experiment
    from openfl_flows.taskrunner.export import export_workspace
    from openfl_flows.taskrunner.parity import compare_rounds, to_text
    from openfl_flows.taskrunner.rehearsal import rehearse

    config = compose(options.overrides)
    config["runtime"]["quiet"] = config["runtime"]["quiet"] or options.quiet
    out = Path(config["out"])
    simulated = simulate_experiment(Experiment.from_config(config), out / "simulation")
    export_workspace(config, out / "workspace")
    rehearsed = rehearse(out / "workspace", out=out / "rehearsal", quiet=options.quiet)
    rows = compare_rounds(simulated, rehearsed)
    print(to_text(rows, a="simulated", b="rehearsed"))
    if different := [row.round for row in rows if not row.equal]:
        raise ValueError(
            f"{out}: simulation and federation differ first after round {different[0]}"
        )


def _lint(options: argparse.Namespace) -> None:
    from openfl_flows.taskrunner.lint import findings

    found = findings(options.workspace / "plan" / "plan.yaml")
    for finding in found:
        print(finding)
    if found:
        raise ValueError(f"{options.workspace}: {len(found)} findings, expected none")
    print(f"{options.workspace}: nothing to object to")


def _pki(options: argparse.Namespace) -> None:
    for line in options.lines(options):
        print(line)


def _save(options: argparse.Namespace) -> None:
    from openfl_flows.experiment import Experiment
    from openfl_flows.ops.files import load_state, save_state
    from openfl_flows.ops.record import run_in
    from openfl_flows.ops.run import RunDirectory

    run = RunDirectory.open(run_in(options.folder))
    file = run.path / f"{options.weights}.safetensors"
    if not run.finished or not file.is_file():
        raise ValueError(f"{file}: no such file: the run is {run.record['status']}")
    state = load_state(file)
    task = Experiment.from_config(run.record["config"]).task
    out = options.out or options.folder / "saved"
    if options.training:
        _save_training(run, task, out / "training.ckpt")
    save_state(out / f"{options.weights}.safetensors", state)
    task.save_native(state, out / f"{options.weights}.pt")
    print(f"digest {state.digest()}")
    for suffix in (".safetensors", ".pt"):
        print(f"written {out / options.weights}{suffix}")


def _save_training(run: "RunDirectory", task: "Task", file: Path) -> None:
    from openfl_flows.learners.openfold3_task import OpenFold3Task

    if not isinstance(task, OpenFold3Task):
        raise ValueError(f"--training: {run.path} is a run of {type(task).__name__}, not OpenFold3")
    steps = (max(s["num_steps"] for s in r["sites"].values()) for r in run.record["rounds"])
    task.save_training(run.model(), run.average(), file, steps=sum(steps))
    print(f"written {file}")
