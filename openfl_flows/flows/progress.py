"""Progress bars of a running simulation, read from the files that its sites write.

Files, and not calls, because sites may run in other processes, whose consoles nobody sees.
"""

import json
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Eta


class ProgressBars:
    """One bar for the run and one per site, with round, loss and the time that is left.

    Args:
        folder: The run directory.
        sites: Names of the sites.
        first_round: The round that the run starts with.
        rounds: The last round.
        quiet: Show nothing.
    """

    def __init__(
        self, folder: Path, *, sites: tuple[str, ...], first_round: int, rounds: int, quiet: bool
    ) -> None:
        self._folder = folder
        self._first, self._rounds = first_round, rounds
        # The stream of the process itself: OpenFL captures sys.stdout and sys.stderr in tasks.
        console = Console(file=sys.__stderr__, quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            Eta(),
            console=console,
            disable=quiet or not console.is_terminal,
            # What OpenFL prints at every step belongs in the log, not above the bars.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._announced = first_round - 1
        self._run = self._progress.add_task("rounds", total=1.0, detail="")
        self._sites: dict[str, TaskID] = {
            site: self._progress.add_task(site, total=1.0, detail="") for site in sites
        }
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Start to watch."""
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show where things ended and stop."""
        self._stopped.set()
        self._thread.join()
        self._refresh()
        self._progress.stop()

    def _watch(self) -> None:
        while not self._stopped.wait(0.5):
            self._refresh()

    def _announce(self) -> None:
        try:
            rounds = json.loads((self._folder / "run.json").read_text())["rounds"]
        except (OSError, ValueError):
            return
        for record in rounds[self._announced :]:
            losses = (
                f"{site} loss {part['metrics'].get('train_loss', float('nan')):.4g}"
                for site, part in record["sites"].items()
            )
            self._progress.console.print(
                f"round {record['round']} of {self._rounds}: {record['seconds']:.1f} s, "
                f"{', '.join(losses)}, model {record['digest'][:12]}"
            )
        self._announced = len(rounds)

    def _refresh(self) -> None:
        self._announce()
        done = 0.0
        for site, bar in self._sites.items():
            try:
                seen = json.loads((self._folder / "sites" / site / "progress.json").read_text())
            except (OSError, ValueError):
                continue
            if seen["round"] < self._first:
                continue
            share = seen["step"] / seen["num_steps"]
            done += (seen["round"] - self._first + share) / len(self._sites)
            detail = f"round {seen['round']} step {seen['step']} loss {seen['loss']:.4g}"
            self._progress.update(bar, completed=share, detail=detail)
        total = self._rounds - self._first + 1
        current = min(self._rounds, self._first + int(done))
        detail = f"{current} of {self._rounds}"
        self._progress.update(self._run, completed=done, total=total, detail=detail)
