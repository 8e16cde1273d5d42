"""What was proved of the machines of a federation, round by round; or, loudly, that nothing was."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from openfl_flows.learners.base import Table

NOT_ATTESTED = (
    "No attestation. Nobody proved what ran at the aggregator: whoever controlled its machine "
    "could read and change every update (network.attestation.required=none)."
)


class Section(NamedTuple):
    """A run's attestation as it is shown."""

    warning: str
    sentence: str
    table: Table | None


def read_attestation(record: Mapping[str, Any]) -> Section | None:
    """The section of a run; None where there were no parties: a simulation, one site's own run.

    Args:
        record: The run's record.
    """
    rounds = [r for r in record["rounds"] if r["sites"]]
    # Only between machines there is something to bring.
    between = [r for r in rounds if any("upload" in s["seconds"] for s in r["sites"].values())]
    attested = [r for r in rounds if r.get("attestation") is not None]
    if not attested:
        return Section(NOT_ATTESTED, "", None) if between else None
    warning = ""
    if len(attested) < len(rounds):
        warning = f"Only {len(attested)} of {len(rounds)} rounds were under attestation."
    columns = (
        "site",
        "rounds",
        "its verdict on the aggregator",
        "the aggregator’s on it",
        "policy",
    )
    rows: dict[tuple[str, ...], list[int]] = {}
    for entry in attested:
        for site in sorted(entry["sites"]):
            found = entry["attestation"].get(site) or {}
            ours, theirs = found.get("aggregator"), found.get("site")
            policy = ours["policy"][:16] if ours else ""
            rows.setdefault((site, _said(ours), _said(theirs), policy), []).append(entry["round"])
    table = Table(
        columns=columns,
        rows=tuple(
            (site, f"{min(where)} to {max(where)}", ours, theirs, policy)
            for (site, ours, theirs, policy), where in sorted(rows.items())
        ),
    )
    sentence = (
        "Before a byte of an update left, each site verified the evidence of what ran at the "
        "aggregator by the signed policy. The ledger has every verdict with the digest of its "
        "evidence."
    )
    return Section(warning, sentence, table)


def _said(verdict: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return "none"
    return f"{verdict['kind']} {verdict['measurement'][:16]}, {verdict['status']}"
