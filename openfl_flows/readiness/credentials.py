"""Probes of a party's key and certificate."""

import datetime as dt
from pathlib import Path

from openfl_flows.pki.check import MIN_DAYS, check_party
from openfl_flows.pki.plan import Party
from openfl_flows.readiness.findings import Finding

_REMEDY = "`openfl-flows pki request`, have it signed, `openfl-flows pki install`"


def certificate(workspace: Path, party: Party, *, now: dt.datetime | None = None) -> Finding:
    """Name, purpose, chain, key and rights of a party's certificate, and until when it is valid.

    Args:
        workspace: The party's.
        party: Whose certificate it is.
        now: The moment to judge at; this one by default.
    """
    path = party.file(workspace, ".crt")
    try:
        standing = check_party(workspace, party, days=0, now=now)
        soon = check_party(workspace, party, days=MIN_DAYS, now=now).finding
    except (ValueError, OSError) as error:
        return Finding(probe="certificate", green=False, found=str(error), remedy=_REMEDY)
    if standing.finding is not None:
        remedy = f"chmod 600 {party.file(workspace, '.key')}"
        rights = "has rights" in standing.finding
        return Finding(
            probe="certificate", green=False, found=standing.finding,
            remedy=remedy if rights else _REMEDY,
        )  # fmt: skip
    ends = f"{path}: of {party}, valid to {standing.expires:%Y-%m-%d %H:%M} UTC"
    found = ends if soon is None else f"{ends}; time to replace it"
    return Finding(probe="certificate", green=True, found=found)
