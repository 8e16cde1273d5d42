"""The ledger of a run: one line a round, each of which carries the SHA-256 of the line before.

A line is a JSON object in canonical form (sorted keys, no spaces, ASCII). Its hash is the SHA-256
of that form without ``time``, so that a run which was killed and resumed, or made again, ends with
the same head; when a line was written stands beside the chain, not in it. A change, removal or
exchange of any line changes the head, but only who has kept a head can tell: ``run.json``, every
checkpoint and every release have it.
"""

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openfl_flows.atomic import write_atomically
from openfl_flows.strict_json import canonical, digest_of, parse

LEDGER = "ledger.jsonl"
"""The ledger's name in a run directory and in a release."""
FIRST = "0" * 64
"""What the first line carries in place of a hash."""
FORMAT = 1

_MAX_LINE = 2**24
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_KEYS = {"format", "kind", "previous", "time"}
# Where a run is computed and reached, what it reads from which path, how far it goes and what is
# measured of it later, change nothing of what a round does.
_FREE = ("evaluation", "initial", "name", "network", "out", "resume")
_FREE_IN = {"data": {"path"}, "federation": {"rounds"}, "split": {"clusters", "key_file"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line.

    Attributes:
        kind: What it is about: ``start``, ``round``; readers let kinds pass that they do not know.
        body: What it says.
        hash: SHA-256 of its canonical form without ``time``, in hexadecimal.
        raw: The line as it stands in the file, with its end.
    """

    kind: str
    body: Mapping[str, Any]
    hash: str
    raw: bytes

    @property
    def time(self) -> str:
        """When it was written, in UTC."""
        return str(json.loads(self.raw)["time"])


@dataclass(frozen=True, slots=True)
class Ledger:
    """A chain of lines; immutable.

    Attributes:
        lines: From the oldest to the newest.
    """

    lines: tuple[Line, ...] = ()

    @property
    def head(self) -> str:
        """Hash of the last line."""
        return self.lines[-1].hash if self.lines else FIRST

    @property
    def rounds(self) -> list[Mapping[str, Any]]:
        """What the lines of rounds say, in order."""
        return [line.body for line in self.lines if line.kind == "round"]

    def append(self, kind: str, body: Mapping[str, Any]) -> "Ledger":
        """This ledger with one line more, written now."""
        now = dt.datetime.now(dt.UTC)
        entry = {
            **body,
            "format": FORMAT,
            "kind": kind,
            "previous": self.head,
            "time": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        }
        return Ledger((*self.lines, _line(entry, canonical(entry) + b"\n")))

    def upto(self, lines: int) -> "Ledger":
        """The oldest ``lines`` of it."""
        return Ledger(self.lines[:lines])

    def summary(self) -> dict[str, Any]:
        """What a record keeps of it."""
        return {"lines": len(self.lines), "head": self.head}

    def file_digest(self) -> str:
        """SHA-256 of the file that it is written as, in hexadecimal."""
        whole = hashlib.sha256()
        for line in self.lines:
            whole.update(line.raw)
        return whole.hexdigest()

    def write(self, path: Path) -> None:
        """Replace ``path`` by this ledger, atomically."""
        write_atomically(path, b"".join(line.raw for line in self.lines))


def read_ledger(path: Path) -> Ledger:
    """Read a ledger and recompute its chain.

    Raises:
        ValueError: There is none, or a line is broken; the message names the first.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a ledger")
    lines: list[Line] = []
    head, reached = FIRST, (-1, "")
    with path.open("rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), 1):
            try:
                line = _checked(raw, head)
                reached = _follow(line, *reached)
            except ValueError as error:
                raise ValueError(f"{path}: line {number}: {error}") from None
            lines.append(line)
            head = line.hash
    if not lines:
        raise ValueError(f"{path}: no lines, expected at least that of the start")
    return Ledger(tuple(lines))


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan says of the computation, and nothing of where one party keeps what.

    Left out are name, paths, network, evaluation, the number of rounds, and of ``runtime`` all but
    ``threads``: a run may be resumed with others and gives the same bits.
    """
    kept = {key: value for key, value in config.items() if key not in _FREE}
    for group, own in kept.items():
        if isinstance(own, Mapping):
            free = own.keys() - {"threads"} if group == "runtime" else _FREE_IN.get(group, set())
            kept[group] = {key: value for key, value in own.items() if key not in free}
    return kept


def plan_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 over what is :func:`decisive` in a plan, in hexadecimal."""
    return digest_of(decisive(config))


def _line(entry: Mapping[str, Any], raw: bytes) -> Line:
    chained = {key: value for key, value in entry.items() if key != "time"}
    body = {key: value for key, value in entry.items() if key not in _KEYS}
    return Line(kind=entry["kind"], body=body, hash=digest_of(chained), raw=raw)


def _checked(raw: bytes, head: str) -> Line:
    """The line of these bytes, once it is known to follow the one with the hash ``head``."""
    if not raw.endswith(b"\n"):
        raise ValueError("it has no end, expected a whole line")
    entry = parse(raw)
    if not isinstance(entry, dict) or canonical(entry) + b"\n" != raw:
        raise ValueError("not as it was written, expected a JSON object in canonical form")
    if missing := sorted(_KEYS - entry.keys()):
        raise ValueError(f"{missing[0]!r} is missing")
    if entry["format"] != FORMAT or not isinstance(entry["kind"], str):
        raise ValueError(f"format={entry['format']!r}, kind={entry['kind']!r}, expected {FORMAT}")
    if not (isinstance(entry["time"], str) and _TIME.fullmatch(entry["time"])):
        raise ValueError(f"time={entry['time']!r}, expected YYYY-MM-DDThh:mm:ssZ")
    if entry["previous"] != head:
        raise ValueError(
            f"it follows a line with hash {str(entry['previous'])[:12]}, but the line before has "
            f"{head[:12]}: one of them was changed, moved or removed"
        )
    return _line(entry, raw)


def _follow(line: Line, round_: int, model: str) -> tuple[int, str]:
    """The round and the model that a line leads to, from those of the line before it."""
    begins = round_ < 0
    if begins != (line.kind == "start"):
        raise ValueError(f"kind={line.kind!r}, expected 'start' first, and nowhere else")
    if line.kind not in ("start", "round"):
        return round_, model
    found, before, after = (line.body.get(key) for key in ("round", "before", "after"))
    if not isinstance(found, int) or not isinstance(after, str):
        raise ValueError(f"round={found!r}, after={after!r}, expected a round and a digest")
    if not begins and (found, before) != (round_ + 1, model):
        raise ValueError(
            f"round {found} from the model {str(before)[:12]}, expected round {round_ + 1} from "
            f"{model[:12]}, which the round before made"
        )
    return found, after
