"""The command line: openfl-flows COMMAND. Everything heavy is imported by the command it serves."""

import argparse
import sys
from collections.abc import Sequence

from openfl_flows import __version__
from openfl_flows.cli.attest import add_attest
from openfl_flows.cli.benchmark import add_benchmark
from openfl_flows.cli.check import add_check
from openfl_flows.cli.data import add_data
from openfl_flows.cli.deploy import add_deploy
from openfl_flows.cli.domain import add_domain
from openfl_flows.cli.errors import reporting_errors
from openfl_flows.cli.evaluate import add_evaluate
from openfl_flows.cli.federation import add_federation
from openfl_flows.cli.guide import add_guide
from openfl_flows.cli.ledger import add_ledger
from openfl_flows.cli.plan_link import add_plan_link
from openfl_flows.cli.predict import add_predict
from openfl_flows.cli.ranks import add_ranks
from openfl_flows.cli.release import add_release
from openfl_flows.cli.results import add_results
from openfl_flows.cli.runs import PLAN_COMMANDS, run_plan_command
from openfl_flows.cli.status import add_status
from openfl_flows.cli.study import add_study
from openfl_flows.cli.tee import add_tee

EPILOG = """\
simulate, local and centralize take the plan's keys as overrides, and -m for sweeps:
  openfl-flows simulate experiment=demo
  openfl-flows simulate experiment=digress_qm9 join=diloco federation.sites=8 seed=1 out=DIR
  openfl-flows simulate experiment=demo seed=1,2,3 -m
  openfl-flows local experiment=demo site=site-1,site-2 -m   each site alone
  openfl-flows simulate resume=DIR
  openfl-flows simulate --cfg job              show the composed plan, run nothing

many runs of one plan over seeds, and one report; started again, it goes on where it was:
  openfl-flows study experiment=digress_qm9_paper_quick out=DIR

which codec, steps between syncs and fragments a thin link asks for; nothing is trained:
  openfl-flows plan-link experiment=demo --bandwidth 10mbit --round-seconds 60

from a plan to a real federation:
  openfl-flows export experiment=demo DIR      a workspace for OpenFL's fx
  openfl-flows rehearse DIR                    the whole federation on this machine
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0 done, 1 bad input, 2 bad usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    # Hydra has a command line of its own: what follows the command is its.
    if arguments and arguments[0] in PLAN_COMMANDS and not {"-h", "--help"} & {*arguments}:
        return reporting_errors(run_plan_command, arguments[0], arguments[1:])
    options, more = parser.parse_known_args(arguments)
    # argparse takes no second group of words after an option.
    if more and (not hasattr(options, "words") or any(word.startswith("-") for word in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    options.words = [*getattr(options, "words", ()), *more]
    return reporting_errors(options.run, options)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="openfl-flows",
        description="Federated training for drug discovery on OpenFL.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in PLAN_COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, epilog=EPILOG)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        command.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    add_study(commands)
    add_data(commands)
    add_federation(commands)
    add_check(commands)
    add_deploy(commands)
    add_ranks(commands)
    add_plan_link(commands)
    add_ledger(commands)
    add_release(commands)
    add_attest(commands)
    add_tee(commands)
    add_status(commands)
    add_results(commands)
    add_evaluate(commands)
    add_benchmark(commands)
    add_domain(commands)
    add_predict(commands)
    add_guide(commands)
    return parser
