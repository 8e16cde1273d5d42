"""Under which verdicts parties stand: kept by the aggregator for the ledger, across restarts."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from openfl_flows.atomic import write_json
from openfl_flows.strict_json import parse

FOLDER = "attested"
"""Beside the aggregator's run directory: a file for every site that has come."""


def note_standing(folder: Path, site: str, standing: Mapping[str, Any]) -> None:
    """Keep a site's verdict on the aggregator, and the aggregator's on the site.

    Args:
        folder: Where they are kept.
        site: The site.
        standing: ``aggregator`` and ``site``, each a verdict; the latter None where sites are not
            attested.
    """
    write_json(folder / f"{site}.json", standing)


def standings(folder: Path, sites: Iterable[str]) -> dict[str, Any] | None:
    """The verdicts of the sites of a round, by site; None where nobody is attested.

    Raises:
        ValueError: A file is not readable.
    """
    if not folder.is_dir():
        return None
    found = {}
    for site in sites:
        file = folder / f"{site}.json"
        try:
            found[site] = parse(file.read_bytes()) if file.is_file() else None
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    return found


def forget_standings(folder: Path) -> None:
    """Forget all: they were for a run that somebody has moved away."""
    shutil.rmtree(folder, ignore_errors=True)
