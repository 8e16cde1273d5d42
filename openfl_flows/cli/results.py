"""compare, sample and report: what finished runs give."""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from openfl_flows.cli.benchmark import show_evaluation

if TYPE_CHECKING:
    from openfl_flows.learners.digress_task import DigressTask
    from openfl_flows.ops.run import RunDirectory

T = TypeVar("T")

_SAMPLER: tuple[tuple[str, type, str], ...] = (
    ("spacing", float, "of the levels that few steps visit: 1 even, above 1 denser near the end"),
    ("overshoot", float, "share by which a step denoises too far and noises back, 0 to 1"),
    ("corrector", int, "times that each stride is walked again, out of the same steps"),
    ("temperature", float, "of the predicted classes, below 1 sharper"),
)


def add_results(commands: Any) -> None:
    """Add the commands to a parser's."""
    _add_compare(commands)
    _add_sample(commands)
    report = commands.add_parser("report", help="write report.html of a run again")
    report.add_argument("run_directory", metavar="RUN", type=Path)
    report.set_defaults(run=_report)


def show_run(run: "RunDirectory") -> None:
    """Draw a finished run's molecules, write its report, and print what it came to."""
    from openfl_flows.metrics.class_scores import rate_of
    from openfl_flows.report.html import write_report
    from openfl_flows.report.samples import draw_samples

    draw_samples(run.path / "samples")
    for name, value in run.record["metrics"].items():
        # Each class's are in the report.
        if rate_of(name) is None:
            print(f"{name:>20}  {value:.4f}")
    print(f"digest {run.record['digest']}")
    print(f"report {write_report(run.path)}")


def drawing_task(run: "RunDirectory") -> "DigressTask":
    """The task of a run that draws molecules.

    Raises:
        ValueError: It is a run of another task.
    """
    from openfl_flows.learners.digress_task import DigressTask

    return task_of(run, DigressTask, "which draws no molecules")


def task_of(run: "RunDirectory", kind: type[T], otherwise: str) -> T:
    """The task of a run, which must be of one kind.

    Args:
        run: The run.
        kind: Class of the task.
        otherwise: What is wrong with a run of another, to end the message with.

    Raises:
        ValueError: It is a run of another task.
    """
    from openfl_flows.experiment import Experiment

    task = Experiment.from_config(run.record["config"]).task
    if not isinstance(task, kind):
        raise ValueError(f"{run.path} is a run of {type(task).__name__}, {otherwise}")
    return task


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
    for name, kind, meaning in _SAMPLER:
        command.add_argument(f"--{name}", type=kind, help=f"{meaning} (as the plan says)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--weights", choices=("model", "ema"), default="model")
    command.add_argument("--mu", type=float, help="guide toward this dipole in Debye")
    command.add_argument("--homo", type=float, help="guide toward this orbital energy in eV")
    command.add_argument("--guidance", choices=("selection", "gradient"), help="how to guide")
    command.add_argument("--strength", type=float, help="of the guidance")
    command.add_argument("--out", type=Path, help="folder to write to (RUN/drawn)")
    command.set_defaults(run=_sample)


def _compare(options: argparse.Namespace) -> None:
    from openfl_flows.atomic import write_atomically
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
    from openfl_flows.ops.files import load_state
    from openfl_flows.ops.run import RunDirectory
    from openfl_flows.report.samples import draw_samples

    run = RunDirectory.open(options.run_directory)
    out = options.out or run.path / "drawn"
    state = load_state(run.path / f"{options.weights}.safetensors")
    task = drawing_task(run)
    target = (options.mu, options.homo)
    said = ("guidance", "strength", *(name for name, _, _ in _SAMPLER))
    sampling = dataclasses.replace(
        task.sampling,
        num=options.num,
        steps=options.steps,
        target=None if target == (None, None) else target,
        **{name: value for name in said if (value := getattr(options, name)) is not None},
    )
    found = task.draw(state, out, sampling, seed=options.seed)
    draw_samples(out)
    for name, mean in found.items():
        print(f"{name:>20}  {mean.value:.4f}")
    print(f"molecules in {out}: " + ", ".join(sorted(file.name for file in out.iterdir())))


def _report(options: argparse.Namespace) -> None:
    from openfl_flows.evaluation.record import FILE as EVALUATION
    from openfl_flows.report.html import write_report
    from openfl_flows.report.samples import draw_samples

    if (file := options.run_directory / EVALUATION).is_file():
        show_evaluation(json.loads(file.read_text()), options.run_directory)
        return
    draw_samples(options.run_directory / "samples")
    print(f"report {write_report(options.run_directory)}")
