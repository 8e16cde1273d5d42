"""A live table of a running federation, read from the files that its parties write."""

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from openfl_flows.taskrunner.parties import Party, Statuses, last_lines

COLUMNS = ("party", "state", "round", "loss", "up", "down")
LINES = 15
"""How much of a dead party's log is shown."""


class LiveTable:
    """Shows what every party does; on no terminal, a line for every finished round instead.

    Args:
        parties: The aggregator, then the sites.
        quiet: Show nothing.
        console: Where to; standard error by default.
    """

    def __init__(
        self, parties: tuple[Party, ...], *, quiet: bool = False, console: Console | None = None
    ) -> None:
        self._aggregator, self._sites = parties[0], parties[1:]
        self._console = console or Console(stderr=True, quiet=quiet)
        self._live = Live(console=self._console, auto_refresh=False)
        self._is_live = self._console.is_terminal and not quiet
        self._announced = len(self._status().get("seconds", []))
        self._statuses: Statuses = {}

    def __enter__(self) -> Self:
        """Start to show."""
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, with the last words of whoever died."""
        if self._is_live:
            self._live.stop()
        if kind is not None and not issubclass(kind, ValueError):
            return
        for party in (self._aggregator, *self._sites):
            if self._statuses.get(party.name):
                self._console.rule(f"the end of {party.log}")
                for line in last_lines(party.log, LINES):
                    self._console.print(line, markup=False, highlight=False)

    def show(self, statuses: Statuses) -> None:
        """Show the present state.

        Args:
            statuses: Exit statuses by party, None while it runs.
        """
        self._statuses = statuses
        status = self._status()
        seconds = status.get("seconds", [])
        for number in range(self._announced, len(seconds)):
            self._console.print(
                f"round {number + 1} of {status['rounds']}: {seconds[number]:.1f} s"
            )
        self._announced = len(seconds)
        if self._is_live:
            self._live.update(self._table(status, statuses), refresh=True)

    def _status(self) -> dict[str, Any]:
        return _read(self._aggregator.folder / "local_state" / "status.json")

    def _table(self, status: dict[str, Any], statuses: Statuses) -> Table:
        table = Table(*COLUMNS, title="rehearsal")
        for column in table.columns[2:]:
            column.justify = "right"
        for row in rows(self._aggregator, self._sites, status, statuses):
            table.add_row(*row)
        return table


def rows(
    aggregator: Party, sites: tuple[Party, ...], status: Mapping[str, Any], statuses: Statuses
) -> list[tuple[str, ...]]:
    """The table: one row for the aggregator, one for each site, columns as in ``COLUMNS``.

    Args:
        aggregator: The aggregator.
        sites: The sites.
        status: The aggregator's ``status.json``, empty before it writes one.
        statuses: Exit statuses by party, None while it runs.
    """
    seconds = status.get("seconds", [])
    doing = status.get("state", "starts")
    if seconds:
        doing += f", last round {seconds[-1]:.1f} s"
    round_ = f"{status['round']}/{status['rounds']}" if status else ""
    found: list[tuple[str, ...]] = [
        (aggregator.name, _ended(statuses[aggregator.name]) or doing, round_, "", "", "")
    ]
    for site in sites:
        seen = status.get("sites", {}).get(site.name, {})
        progress = _read(site.folder / "local_state" / site.name / "progress.json")
        found.append(
            (
                site.name,
                _ended(statuses[site.name]) or _doing(status, seen, progress),
                str(progress.get("round", "")),
                f"{progress['loss']:.4g}" if progress else "",
                _megabytes(seen.get("bytes_up", 0)),
                _megabytes(seen.get("bytes_down", 0)),
            )
        )
    return found


def _doing(status: Mapping[str, Any], seen: Mapping[str, Any], progress: dict[str, Any]) -> str:
    if seen.get("refused"):
        return f"refused: {seen['refused']}"
    if sending := seen.get("sending"):
        of = f" of {_megabytes(sending['of'])}" if sending["of"] else ""
        return f"sends, {sending['bytes'] / 1e6:.1f} MB{of}"
    if seen.get("last_heard") is None and not progress:
        return "starts"
    if progress and progress["round"] == status.get("round"):
        if progress["step"] < progress["num_steps"]:
            return f"trains {progress['step']}/{progress['num_steps']}"
        return "waits"
    return "validates" if progress else "prepares"


def _ended(status: int | None) -> str:
    if status is None:
        return ""
    if status < 0:
        return f"dead ({signal.Signals(-status).name})"
    return f"dead (exit status {status})" if status else "done"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count else ""


def _read(file: Path) -> dict[str, Any]:
    """A JSON file that another process writes; empty where it is not there."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return found
