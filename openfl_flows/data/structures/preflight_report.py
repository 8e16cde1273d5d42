"""Reports of a pre-flight: details for the site, and counts that may leave it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openfl_flows.atomic import write_atomically, write_json
from openfl_flows.data.structures.findings import NOTES, REFUSALS, REPAIRS

OUTCOMES = ("accepted", "repaired", "refused")


def count(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """How many structures had each outcome and each kind of finding: nothing that names any.

    Args:
        records: Outcome and findings of each structure.
    """
    outcomes = Counter(record["outcome"] for record in records.values())
    kinds = Counter(
        kind
        for record in records.values()
        for kind in {finding["kind"] for finding in record["findings"]}
    )
    return {
        "format": 1,
        "structures": len(records),
        "outcomes": {outcome: outcomes[outcome] for outcome in OUTCOMES},
        **{
            name: {kind: kinds[kind] for kind in known if kinds[kind]}
            for name, known in (("refusals", REFUSALS), ("repairs", REPAIRS), ("notes", NOTES))
        },
    }


def write_reports(
    folder: Path, records: Mapping[str, Mapping[str, Any]], unused: Sequence[str]
) -> dict[str, Any]:
    """Write ``counts.json`` for the other parties, ``site.json`` and ``site.md`` for the site.

    Args:
        folder: Where to.
        records: Of all structures.
        unused: Definitions and alignments that no structure needed.

    Returns:
        The counts.
    """
    counts = count(records)
    ordered = [records[name] for name in sorted(records)]
    details = [_details(record) for record in ordered]
    write_json(folder / "site.json", {"format": 1, "structures": details, "unused": [*unused]})
    write_atomically(folder / "site.md", _page(counts, details, unused).encode())
    write_json(folder / "counts.json", counts)
    return counts


def table(counts: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Rows of group, meaning and number of structures, for a person to read."""
    rows = [("outcome", name, number) for name, number in counts["outcomes"].items()]
    groups = (("refused", "refusals", REFUSALS), ("repaired", "repairs", REPAIRS))
    for group, key, meaning in (*groups, ("noted", "notes", NOTES)):
        rows += [(group, meaning[kind], number) for kind, number in counts[key].items()]
    return rows


def _details(record: Mapping[str, Any]) -> dict[str, Any]:
    metadata = record.get("metadata", {})
    sequences = record.get("sequences", {})
    return {
        "id": record["id"],
        "file": record["file"],
        "sha256": record["sha256"],
        "outcome": record["outcome"],
        "findings": record["findings"],
        "release_date": metadata.get("release_date"),
        "resolution": metadata.get("resolution"),
        "num_tokens": metadata.get("token_count"),
        "chains": [
            {
                "chain": chain,
                "author": data["auth_asym_id"],
                "type": data["molecule_type"],
                "length": len(sequences[chain]) if chain in sequences else None,
                "ligand": data.get("reference_mol_id"),
            }
            for chain, data in metadata.get("chains", {}).items()
        ],
    }


def _page(
    counts: Mapping[str, Any], details: Sequence[Mapping[str, Any]], unused: Sequence[str]
) -> str:
    lines = ["# Pre-flight of the structures", "", "This page stays at the site.", ""]
    lines += ["| | what | structures |", "|---|---|---|"]
    lines += [f"| {group} | {what} | {number} |" for group, what, number in table(counts)]
    for outcome in reversed(OUTCOMES):
        chosen = [entry for entry in details if entry["outcome"] == outcome]
        if chosen:
            lines += ["", f"## {outcome.capitalize()}", ""]
        for entry in chosen:
            size = f", {entry['num_tokens']} tokens" if entry["num_tokens"] else ""
            lines.append(f"- **{entry['id']}** ({entry['file']}{size})")
            lines += [f"  - {finding['kind']}: {finding['text']}" for finding in entry["findings"]]
    if unused:
        lines += ["", "## Not used", "", *(f"- {name}" for name in unused)]
    return "\n".join(lines) + "\n"
