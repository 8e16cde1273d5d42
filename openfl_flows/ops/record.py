"""``run.json`` as it is read: for whoever needs the record of a run and none of its models."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

FORMAT = 1
RECORD = "run.json"
PACKAGES = ("openfl-flows", "openfl", "torch", "rdkit", "numpy", "hydra-core", "ray")

_KEYS = frozenset({"kind", "status", "config", "initial", "rounds", "digest", "metrics"})
_PLACES = (".", "run", "local_state/run")


def read_record(path: Path) -> dict[str, Any]:
    """The record of the run in a folder, finished or not.

    Raises:
        ValueError: There is no readable ``run.json`` of this format.
    """
    file = path / RECORD
    if not file.is_file():
        raise ValueError(
            f"{path}: not a run directory, or of a run that was stopped before it began: "
            "it has no run.json"
        )
    try:
        record = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not readable as JSON: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{file}: expected format {FORMAT} of a run record")
    missing = sorted(_KEYS - record.keys())
    if missing:
        raise ValueError(f"{file}: {missing[0]!r} is missing, expected a whole run record")
    return record


def encoded(record: Mapping[str, Any], known: list[str]) -> bytes:
    """What ``run.json`` holds: a line for each round, so that many rounds are quickly written.

    Args:
        record: The record.
        known: The lines of rounds that change no more, all but the last; new ones are added to it.
    """
    rounds: Sequence[object] = record["rounds"]
    known += map(json.dumps, rounds[len(known) : -1])
    lines = [*known[: len(rounds) - 1], *map(json.dumps, rounds[-1:])]
    parts = {key: json.dumps(value, indent=1) for key, value in record.items() if key != "rounds"}
    texts = {key: parts[key].replace("\n", "\n ") for key in parts}
    texts["rounds"] = "[\n  " + ",\n  ".join(lines) + "\n ]"
    return ("{\n" + ",\n".join(f' "{key}": {texts[key]}' for key in record) + "\n}\n").encode()


def run_in(folder: Path) -> Path:
    """The run directory that a folder is, or that a workspace or a rehearsal has.

    Raises:
        ValueError: There is none.
    """
    for place in _PLACES:
        if (folder / place / RECORD).is_file():
            return folder / place
    raise ValueError(f"{folder}: no run in it, expected a run directory or a workspace")


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a run computes, as far as they are there."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
