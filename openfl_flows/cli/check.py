"""check: whether a party is ready for its federation, before anything starts."""

import argparse
import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openfl_flows.readiness.findings import Finding


def add_check(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "is a party ready for its federation? check [WORKSPACE] --site NAME"
    check = commands.add_parser("check", help=text, description=text)
    check.add_argument("workspace", nargs="?", type=Path, default=Path(), metavar="WORKSPACE")
    party = check.add_mutually_exclusive_group(required=True)
    party.add_argument("--site", metavar="NAME", help="the site whose workspace this is")
    party.add_argument("--aggregator", action="store_true", help="this is the aggregator's")
    check.add_argument("--offline", action="store_true", help="leave out what asks the aggregator")
    check.add_argument("--json", action="store_true", help="print findings as JSON")
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> None:
    # The plan's paths are relative to the workspace, as `fx` is started there.
    with contextlib.chdir(options.workspace):
        _check_here(options)


def _check_here(options: argparse.Namespace) -> None:
    if options.aggregator:
        from openfl_flows.taskrunner.aggregator_readiness import aggregator_findings

        _tell(aggregator_findings(Path()), options, who="the aggregator")
        return
    from openfl_flows.readiness.machine import Machine
    from openfl_flows.taskrunner.readiness import case_of, direct_line, show
    from openfl_flows.taskrunner.workspace import read_workspace

    plan = read_workspace(Path())
    line = None
    if not options.offline:
        # Without a key there is no line, as the probe of the certificate says.
        with contextlib.suppress(ValueError):
            line = direct_line(Path(), options.site, plan)
    case = case_of(Path(), options.site, plan=plan)
    findings, _ = show(case, Machine.here(Path(), case.pins), line)
    _tell(findings, options, who=options.site)


def _tell(findings: "Sequence[Finding]", options: argparse.Namespace, *, who: str) -> None:
    from openfl_flows.readiness.findings import to_text

    red = [finding for finding in findings if not finding.green]
    if options.json:
        rows = [
            {"probe": f.probe, "green": f.green, "found": f.found, "remedy": f.remedy}
            for f in findings
        ]
        print(json.dumps({"ready": not red, "findings": rows}, indent=1))
    else:
        print(to_text(findings))
    if red:
        raise ValueError(
            f"{who} is not ready: {', '.join(finding.probe for finding in red)}, expected green"
        )
