"""benchmark: finished models on every site's own test data, only sums leaving the sites."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openfl_flows.cli.plan import compose


def add_benchmark(commands: Any) -> None:
    """Add the command to a parser's."""
    text = (
        "measure a release candidate, a baseline and the sites' own models at every site: "
        "benchmark evaluation=... evaluation.candidate=FILE [KEY=VALUE ...]"
    )
    command = commands.add_parser("benchmark", help=text, description=text)
    command.add_argument("words", nargs="*", metavar="KEY=VALUE")
    command.set_defaults(run=_benchmark)


def _benchmark(options: argparse.Namespace) -> None:
    from openfl_flows.evaluation.simulation import evaluate_federated
    from openfl_flows.experiment import Experiment

    config = compose(options.words)
    if not config.get("evaluation"):
        raise ValueError(
            "evaluation=none, expected toy, molecules, proteins or structures, and the model to "
            "measure: evaluation.candidate=FILE"
        )
    experiment = Experiment.from_config(config)
    policy = experiment.evaluation
    assert policy is not None
    task = experiment.task
    if policy.benchmark is not None:
        # A site's own folder does not say what was counted on the data of all sites.
        model = {**config["model"], **task.agreement()}
        task = Experiment.from_config({**config, "model": model}).task
    out, threads = Path(config["out"]), experiment.runtime.threads
    for warning in policy.warnings(task.sites):
        print(f"openfl-flows: warning: {warning}", file=sys.stderr)
    show_evaluation(evaluate_federated(task, policy, out, threads=threads), out)


def show_evaluation(record: Mapping[str, Any], folder: Path) -> None:
    """Print the table of an evaluation and write its page."""
    from openfl_flows.report.evaluation import to_text, write_page

    print(to_text(record))
    print(f"digest {record['digest']}")
    print(f"report {write_page(record, folder)}")
