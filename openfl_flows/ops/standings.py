"""Under which verdicts parties stand: kept by the aggregator for the ledger, across restarts.

A verdict alone is what the aggregator says of it. So what the site has signed is kept in the run,
too, and the evidence that it judged: anybody can judge both again.
"""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from openfl_flows.atomic import write_atomically, write_json
from openfl_flows.strict_json import parse

FOLDER = "attested"
"""Beside the aggregator's run directory: a file for every site that has come."""
PROOFS = "proofs"
"""In a run: what sites have signed, and evidence, each in a file named by its SHA-256."""


def note_standing(
    folder: Path, site: str, verdicts: Mapping[str, Any], *, signed: bytes, evidence: bytes
) -> None:
    """Keep a site's verdict on the aggregator, and the aggregator's on the site.

    Args:
        folder: Where they are kept.
        site: The site.
        verdicts: ``aggregator`` and ``site``, each a verdict; the latter None where sites are not
            attested.
        signed: What the site has signed, with its verdict in it.
        evidence: The aggregator's, which the site's verdict is on.
    """
    proofs = {"signed": signed.decode(), "evidence": evidence.decode()}
    write_json(folder / f"{site}.json", {**verdicts, **proofs})


def standings(folder: Path, sites: Iterable[str], run: Path) -> dict[str, Any] | None:
    """The verdicts of the sites of a round, by site; None where nobody is attested.

    Args:
        folder: Where :func:`note_standing` has kept them.
        sites: Of the round.
        run: Run directory, where proofs are put; ``signed`` of a site names its own.

    Raises:
        ValueError: A file is not readable.
    """
    if not folder.is_dir():
        return None
    found: dict[str, Any] = {}
    for site in sites:
        file = folder / f"{site}.json"
        try:
            kept = parse(file.read_bytes()) if file.is_file() else None
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        if kept is not None:
            _put(run, kept.pop("evidence").encode())
            kept["signed"] = _put(run, kept["signed"].encode())
        found[site] = kept
    return found


def proof(run: Path, sha256: str) -> bytes:
    """What has that SHA-256.

    Raises:
        ValueError: It is not there, or another content is.
    """
    path = run / PROOFS / f"{sha256}.json"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}, expected what a ledger's line names") from None
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{path}: its SHA-256 is {found}, expected {sha256}")
    return content


def forget_standings(folder: Path) -> None:
    """Forget all: they were for a run that somebody has moved away."""
    shutil.rmtree(folder, ignore_errors=True)


def _put(run: Path, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    path = run / PROOFS / f"{digest}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content)
    return digest
