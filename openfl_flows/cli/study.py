"""study: many runs of one plan over seeds and a grid, and one report of them all."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openfl_flows.cli.plan import compose, compose_study, leaves
from openfl_flows.cli.runs import PLAN_COMMANDS, build_experiment

if TYPE_CHECKING:
    from openfl_flows.study.jobs import Failure, Job
    from openfl_flows.study.plan import Study

RECORD = "study.json"
"""The study as it was asked for; marks a folder as a study's."""

_FREE = ("out", "resume", "federation.rounds")
"""Keys in which a run may differ from its plan; so does ``runtime``, but for its threads."""

_SINCE = {"federation.tested": "last"}
"""What runs did of before these keys were in the plan."""


def add_study(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "run a plan's study, over seeds and choices, and compare: study [KEY=VALUE ...] out=DIR"
    command = commands.add_parser("study", help=text, description=text)
    command.add_argument("words", nargs="*", metavar="KEY=VALUE")
    command.add_argument(
        "--dry-run", action="store_true", help="compose and check every run, then list commands"
    )
    command.add_argument(
        "--report", action="store_true", help="run nothing: write the report of what is finished"
    )
    command.set_defaults(run=_study)


def _study(options: argparse.Namespace) -> None:
    from openfl_flows.atomic import write_json
    from openfl_flows.report.study import write_study_report
    from openfl_flows.study.jobs import make_runs

    study, jobs = plan_study(options.words)
    if options.dry_run:
        print("\n".join(shlex.join(("openfl-flows", *job.command)) for job in jobs))
        return
    out = jobs[0].out
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RECORD, {"format": 1, "overrides": options.words})
    failures: tuple[Failure, ...] = ()
    if not options.report:
        failures = make_runs(jobs, at_once=study.jobs, say=lambda line: print(line, flush=True))
    report = write_study_report(study, jobs, out)
    if report is not None:
        print((out / "table.md").read_text())
        print(f"report {report}")
    _show(failures)
    if failures:
        raise ValueError(f"{len(failures)} of {len(jobs)} runs failed")
    if report is None:
        raise ValueError(f"{out}: no run is finished, so there is nothing to report")


def plan_study(overrides: Sequence[str]) -> tuple["Study", tuple["Job", ...]]:
    """A study and all its runs, each composed and checked; nothing is written.

    Raises:
        ValueError: The study or one of its plans cannot be used, or the folder holds something
            else, or runs of other plans.
    """
    from openfl_flows.study.jobs import Job
    from openfl_flows.study.plan import read_study

    for word in overrides:
        if word.partition("=")[0] in ("seed", "resume"):
            raise ValueError(f"{word}: a study has study.seeds, and goes on by itself with its out")
    plan, values = compose_study(overrides)
    study = read_study(values)
    out = Path(plan["out"]).absolute()
    if out.exists() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise ValueError(f"out={out} exists and is no study's: choose another folder")
    shared = [word for word in overrides if not _is_of_the_study(word)]
    jobs: dict[tuple[str, int], Job] = {}
    # Those first that others begin with.
    for cell in sorted(study.cells(), key=lambda cell: study.runs[cell.run].start is not None):
        if cell.command not in PLAN_COMMANDS:
            raise ValueError(
                f"study.runs.{cell.run}.command={cell.command}, expected one of "
                + ", ".join(PLAN_COMMANDS)
            )
        words = (*shared, *cell.overrides)
        try:
            config = compose(words)
            experiment = build_experiment(cell.command, config)
        except ValueError as error:
            raise ValueError(f"study cell {cell.name}: {error}") from None
        start = study.start_of(cell)
        for seed in study.seeds:
            job = Job(
                cell=cell,
                seed=seed,
                out=out,
                overrides=words,
                rounds=experiment.rounds,
                tested=experiment.tested,
                start=None if start is None else jobs[start.name, seed],
            )
            jobs[cell.name, seed] = job
            _check_unchanged(job, leaves(config | {"seed": seed}))
    return study, tuple(jobs.values())


def _check_unchanged(job: "Job", expected: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was made from another plan."""
    run = job.run()
    if run is None:
        return
    recorded = _SINCE | leaves(run.record["config"])
    if job.start is not None:
        # A study may be moved as a whole.
        expected = {**expected, "initial": _in_study(job.start.model)}
        recorded["initial"] = _in_study(recorded.get("initial"))
    for key in sorted(recorded.keys() | expected.keys()):
        free = key in _FREE or (key.startswith("runtime.") and key != "runtime.threads")
        if not free and recorded.get(key) != expected.get(key):
            raise ValueError(
                f"{job.folder} was run with {key}={recorded.get(key)}, but the plan has "
                f"{key}={expected.get(key)}: choose another out"
            )
    if run.round > job.rounds:
        raise ValueError(
            f"{job.folder} has {run.round} rounds, but the plan has "
            f"federation.rounds={job.rounds}: choose another out"
        )


def _in_study(file: Any) -> str:
    """The model of a run as it is seen from the study's folder."""
    return str(Path(*Path(str(file)).parts[-3:]))


def _is_of_the_study(word: str) -> bool:
    key = word.partition("=")[0].lstrip("+~")
    return key in ("out", "study") or key.startswith("study.")


def _show(failures: Sequence["Failure"]) -> None:
    for failure in failures:
        job = failure.job
        if failure.status is None:
            print(f"{job.name} was not run: {' '.join(failure.lines)}", file=sys.stderr)
            continue
        print(
            f"{job.name} failed with status {failure.status}; its log {job.log} ends:\n  "
            + "\n  ".join(failure.lines),
            file=sys.stderr,
        )
