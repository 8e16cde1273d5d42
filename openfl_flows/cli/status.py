"""status: what a federation does, what it waits for, and what its slowest sites cost."""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 2.0
"""How often ``--watch`` looks."""


def add_status(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "round, time left, seconds by site and part, costs, alerts and memory of a federation"
    command = commands.add_parser("status", help=text, description=text)
    command.add_argument(
        "folder", metavar="DIR", type=Path, help="the aggregator's workspace, a rehearsal or a run"
    )
    command.add_argument("--watch", action="store_true", help="go on until the run is finished")
    command.add_argument("--json", action="store_true", help="print a document for machines")
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page of it, too")
    command.set_defaults(run=_status)


def _status(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.live import Live

    from openfl_flows.report.dashboard import write_dashboard
    from openfl_flows.report.monitoring import Watched, read_federation
    from openfl_flows.report.status_table import status_view

    console = Console()

    def once(show: Callable[[Watched], object]) -> bool:
        watched = read_federation(options.folder)
        if options.html is not None:
            write_dashboard(watched, options.html, seconds=SECONDS if options.watch else None)
        show(watched)
        return watched.finished

    def print_json(watched: Watched) -> None:
        found = {"name": watched.name, "warning": watched.warning, **watched.document}
        print(json.dumps(found), flush=True)

    if options.json:
        while not once(print_json) and options.watch:
            time.sleep(SECONDS)
    elif not options.watch:
        once(lambda watched: console.print(status_view(watched)))
    else:
        with Live(console=console, auto_refresh=False) as live:
            while not once(lambda watched: live.update(status_view(watched), refresh=True)):
                time.sleep(SECONDS)
