"""A site's own data held against the plan's schema: a card of counts, or a line of refusal."""

import json
from collections.abc import Mapping
from pathlib import Path

from rdkit.rdBase import rdkitVersion

from openfl_flows import __version__
from openfl_flows.atomic import write_json
from openfl_flows.data.array_cache import file_key
from openfl_flows.data.proteins.source import SITE_FILE
from openfl_flows.data.schema.card import Card, told
from openfl_flows.data.schema.findings import Findings
from openfl_flows.data.schema.kinds import FILE_KINDS
from openfl_flows.data.schema.limits import MoleculesV1, ProteinsV1, Schema, schema_digest
from openfl_flows.data.source import SITE_TABLE

DETAILS, CARD, SEEN = "validation.csv", "card.json", "validated.json"
"""Names of what is written: the second may leave the site, the others stay there."""


def site_card(schema: Schema, folder: Path, out: Path | None = None) -> Card:
    """Validate a site's data; rows are read one after the other.

    A file that was found to fit is not read again while neither it nor the schema changes.

    Args:
        schema: What the plan says that they must look like.
        folder: The site's data as they lie for the federation, or the one file of them.
        out: Folder that gets :data:`DETAILS`, with every finding, :data:`CARD` and :data:`SEEN`;
            None to write nothing.

    Returns:
        Counts that may leave the site.

    Raises:
        ValueError: The data do not fit. The line names kinds of findings and how often they occur,
            above the floor of the schema: no value, name or path of the data.
        OSError: A file cannot be read or written.
    """
    key = _key(schema, folder)
    if out is not None and key is not None and (known := _known(out / SEEN, key)):
        return known
    card, counts = examine(schema, folder, out)
    if not card.fits:
        raise ValueError(refusal_line(schema, card, counts, out))
    if out is not None and key is not None:
        write_json(out / SEEN, {"key": key, "card": card.document()})
    return card


def refusal_line(schema: Schema, card: Card, counts: Mapping[str, int], out: Path | None) -> str:
    """What is said of data that do not fit: kinds, and how often they were found at least."""
    told_kinds = ", ".join(
        kind if kind in FILE_KINDS else f"{kind} ({told(counts[kind], schema.floor)})"
        for kind in card.broken
    )
    where = f"; each is a line of {out / DETAILS}" if out is not None else ""
    return f"the data do not fit the plan's schema {schema.name}: {told_kinds}{where}"


def examine(
    schema: Schema, folder: Path, out: Path | None = None
) -> tuple[Card, Mapping[str, int]]:
    """As :func:`site_card`, but the card may be of data that do not fit.

    Returns:
        The card, and how often each kind was found, exactly, which stays at the site.

    Raises:
        OSError: A file cannot be read or written.
    """
    with Findings.writing(None if out is None else out / DETAILS) as findings:
        counts = _read(schema, folder, findings)
    # All kinds, found or not: that one is there at all would tell of a single row.
    told_counts = {**counts, "findings": {kind: findings.counts[kind] for kind in schema.kinds}}
    card = Card.of(schema, told_counts, findings.broken(schema.tolerated))
    if out is not None:
        card.write(out / CARD)
    return card, findings.counts


def _read(schema: Schema, folder: Path, findings: Findings) -> dict[str, dict[str, int]]:
    """Each modality's reader is imported where there is such data: two of them take seconds."""
    if isinstance(schema, MoleculesV1):
        from openfl_flows.data.schema.molecules import read_molecules

        return read_molecules(schema, folder, findings)
    if isinstance(schema, ProteinsV1):
        from openfl_flows.data.schema.proteins import read_proteins

        return read_proteins(schema, folder, findings)
    from openfl_flows.data.schema.structures import read_structures

    return read_structures(schema, folder, findings)


def _key(schema: Schema, folder: Path) -> str | None:
    """What the card of a file depends on; None where the data are no single file."""
    names = {"molecules_v1": SITE_TABLE, "proteins_v1": SITE_FILE}
    name = names.get(schema.name)
    file = folder / name if name is not None and folder.is_dir() else folder
    if name is None or not file.is_file():
        return None
    versions = {"schema": schema_digest(schema), "package": __version__, "rdkit": rdkitVersion}
    return file_key(file, versions)


def _known(path: Path, key: str) -> Card | None:
    try:
        document = json.loads(path.read_text())
        return Card.read(document["card"]) if document["key"] == key else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
