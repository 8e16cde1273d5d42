"""A site's FASTA file, record by record, held against a schema."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from openfl_flows.data.proteins.fasta import PRED, Record, parse_record
from openfl_flows.data.proteins.source import SITE_FILE
from openfl_flows.data.schema.findings import Finding, Findings, findings_of
from openfl_flows.data.schema.limits import ProteinsV1
from openfl_flows.data.schema.protein_row import ProteinRow
from openfl_flows.data.schema.quantities import Labels
from openfl_flows.data.schema.repeats import Repeats
from openfl_flows.data.text_files import open_text

_PAIR = re.compile(r"(?<!\S)([A-Za-z_]+)=(\S*)")
_PARTS = {"train": "train", "val": "val", PRED: PRED}


@dataclass(frozen=True, slots=True)
class Block:
    """A header with the sequence below it, as the file has them.

    Attributes:
        line: Of the header, from 1.
        header: Without the ``>``.
        sequence: Lines joined, in capitals.
    """

    line: int
    header: str
    sequence: str


def read_proteins(schema: ProteinsV1, place: Path, findings: Findings) -> dict[str, dict[str, int]]:
    """Look at every record of a FASTA file.

    Args:
        schema: What it must look like.
        place: The file, or the folder with :data:`~openfl_flows.data.proteins.source.SITE_FILE`.
        findings: Gets whatever is not as agreed.

    Returns:
        Exact counts by group and name, all of which the schema or this module names.

    Raises:
        OSError: The file cannot be read.
    """
    path = place / SITE_FILE if place.is_dir() else place
    names, sequences = Repeats(), Repeats()
    parts: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    values = None if schema.value is None else Labels("TARGET", schema.value)
    if not path.is_file():
        absent = Finding("absent", SITE_FILE, 0, "", "", "no such file", "proteins as FASTA")
        findings.later([absent])
    else:
        for block in _blocks(path, findings):
            record = _checked(schema, path, block, findings)
            if record is None:
                continue
            names.add(record.name, block.line)
            sequences.add(record.sequence, block.line)
            parts[_PARTS.get(record.part, "test")] += 1
            if record.target is not None and schema.classes:
                residues = schema.kind == "residue_to_class"
                classes.update({*record.target} if residues else (record.target,))
            elif record.target is not None and values is not None:
                values.known.append(float(record.target))
    for kind, key, repeats in (
        ("duplicate_name", "name", names),
        ("duplicate_sequence", "sequence", sequences),
    ):
        findings.later(
            Finding(kind, path.name, int(line), "", key, f"as at line {first}", "it once")
            for line, first in repeats.found()
        )
    usable = parts.total() - parts[PRED]
    findings.later(_of_the_whole(schema, path.name, usable, parts, values))
    return {
        "records": {"read": findings.rows, "usable": usable},
        "parts": {part: parts[part] for part in ("train", "val", "test", PRED)},
        "classes": {name: classes[name] for name in schema.classes},
    }


def _checked(schema: ProteinsV1, path: Path, block: Block, findings: Findings) -> Record | None:
    """The record if it is as agreed; else None."""
    words = block.header.split()
    name = words[0] if words else ""
    pairs = _PAIR.findall(block.header.strip()[len(name) :])
    given = dict(reversed(pairs))
    row: dict[str, object] = {"name": name, "keys": pairs, "sequence": block.sequence}
    row |= {key: given.get(key) for key in ("SET", "TARGET", "MASK")}
    try:
        ProteinRow.model_validate(row, context=schema)
        # Whatever the reader that training uses refuses besides.
        record = parse_record(path, block.line, block.header, [block.sequence], None)
    except ValidationError as error:
        findings.row(findings_of(error, file=path.name, line=block.line, row=name))
        return None
    except ValueError as error:
        what = Finding("header", path.name, block.line, name, "", block.header, str(error))
        findings.row([what])
        return None
    findings.row(())
    return record


def _blocks(path: Path, findings: Findings) -> Iterator[Block]:
    """Records as they stand; what is no FASTA at all is a finding."""
    header, start = "", 0
    lines: list[str] = []
    try:
        with open_text(path, expected="FASTA") as stream:
            for number, raw in enumerate(stream, start=1):
                line = raw.strip()
                if line.startswith(">"):
                    if start:
                        yield Block(start, header, "".join(lines).upper())
                    header, start, lines = line[1:], number, []
                elif line and not start:
                    expected = "FASTA: '>NAME TARGET=... SET=...', then the sequence"
                    before = Finding("unreadable", path.name, number, "", "", line[:60], expected)
                    findings.later([before])
                    return
                elif line:
                    lines.append(line)
    except ValueError as error:
        findings.later([Finding("unreadable", path.name, 0, "", "", str(error), "FASTA")])
        return
    if start:
        yield Block(start, header, "".join(lines).upper())


def _of_the_whole(
    schema: ProteinsV1, file: str, usable: int, parts: Counter[str], values: Labels | None
) -> list[Finding]:
    found = [] if values is None else values.findings(file, len(values.known))
    if not schema.records.holds(usable):
        what = f"{schema.records} proteins that can be used"
        found.append(Finding("rows", file, 0, "", "records", str(usable), what))
    return found + schema.parts.findings(file, parts)
