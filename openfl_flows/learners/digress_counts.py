"""A site's counts as a file: what sites exchange once, before round 1, in place of molecules.

Each site counts its own training molecules; the sum of the files gives the constants that all
sites put in their plan as ``model.statistics``. The numbers survive JSON to the last bit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from openfl_flows.atomic import write_json
from openfl_flows.models.digress.statistics import (
    COUNTS,
    GraphStatistics,
    merge_counts,
    statistics_from_counts,
)


def write_counts(path: Path, counts: Mapping[str, np.ndarray]) -> None:
    """Write what :func:`openfl_flows.models.digress.count_statistics` found, as JSON.

    Args:
        path: The file.
        counts: Of one site, or merged.
    """
    write_json(path, {name: counts[name].tolist() for name in COUNTS})


def read_counts(path: Path) -> dict[str, np.ndarray]:
    """Read what :func:`write_counts` wrote, at another site perhaps.

    Raises:
        ValueError: The file is missing or is not of that form; the message names file and key.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a site's counts as JSON")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(document, dict) or document.keys() != COUNTS.keys():
        raise ValueError(f"{path}: expected a mapping of {', '.join(COUNTS)}, and nothing else")
    return {name: _numbers(path, name, document[name]) for name in COUNTS}


def statistics_of_files(paths: Sequence[Path]) -> dict[str, list[float]]:
    """The constants that go into the plan as ``model.statistics``, from all sites' files.

    Args:
        paths: One file of each site; they are summed in the order of their names.

    Raises:
        ValueError: A file cannot be used, or two sites counted different classes or sizes.
    """
    counts = merge_counts([read_counts(path) for path in sorted(paths)])
    return plain_statistics(statistics_from_counts(counts))


def plain_statistics(statistics: GraphStatistics) -> dict[str, list[float]]:
    """Statistics as lists of numbers, for YAML and JSON."""
    return {name: list(values) for name, values in asdict(statistics).items()}


def _numbers(path: Path, name: str, values: object) -> np.ndarray:
    kind = COUNTS[name]
    allowed = int if kind is np.int64 else (int, float)
    numbers = isinstance(values, list) and all(
        isinstance(value, allowed) and not isinstance(value, bool) for value in values
    )
    array = np.array(values if numbers else [], dtype=np.float64)
    signed = name == "target_sums"
    if not array.size or not np.isfinite(array).all() or (not signed and array.min() < 0):
        least = "finite numbers" if signed else "numbers of at least 0"
        raise ValueError(f"{path}: {name} is {values}, expected a list of {least}")
    return np.array(values, dtype=kind)
