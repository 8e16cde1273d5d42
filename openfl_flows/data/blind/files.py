"""The part of everything in a file of a site, written to a table beside it."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openfl_flows.atomic import replacing
from openfl_flows.data.blind.split import NO_PART, BlindSplit
from openfl_flows.data.proteins.fasta import PRED, read_fasta
from openfl_flows.data.structures.set import RECORD
from openfl_flows.data.table import SMILES_SUFFIXES, stream_rows, stream_smiles

COLUMNS = ("line", "name", "part", "reason")
"""Of the table; a reason is there where a part is not."""

_FASTA = (".fasta", ".fa", ".faa", ".fasta.gz", ".fa.gz", ".faa.gz")
_DISAGREE = "its chains and ligands are in different parts"


@dataclass(frozen=True)
class Assigned:
    """One row of a file.

    Attributes:
        line: Where it is in the file; 0 for a structure, which has none.
        name: Of the protein or structure, or the ``mol_id`` of a molecule if it has one.
        what: SMILES or sequence; the name of a structure.
        part: Its part; empty if it has none.
        reason: Why not.
    """

    line: int
    name: str
    what: str
    part: str
    reason: str = ""


def kind_of(source: Path) -> str:
    """``molecules``, ``proteins`` or ``structures``, by the name of a file or what a folder holds.

    Raises:
        ValueError: It is none of them, or not there.
    """
    name = source.name.lower()
    if source.is_dir():
        if not (source / RECORD).is_file():
            raise ValueError(
                f"{source}: no {RECORD} in it, expected what `openfl-flows data prepare` writes"
            )
        return "structures"
    if not source.is_file():
        raise ValueError(f"{source}: no such file, expected CSV, SMILES, FASTA or a prepared set")
    if name.endswith(_FASTA):
        return "proteins"
    if name.endswith((".csv", ".csv.gz", *SMILES_SUFFIXES)):
        return "molecules"
    raise ValueError(f"{source}: expected .csv, .smi or .fasta (or .gz of one), or a prepared set")


def assign(source: Path, split: BlindSplit, smiles_column: str = "smiles") -> Iterator[Assigned]:
    """The part of everything in a file, in its order.

    Args:
        source: Table of molecules (``.csv``, ``.smi``), proteins as FASTA, or a set of structures.
        split: Tells parts.
        smiles_column: Column of a table.

    Raises:
        ValueError: The file cannot be read; the message names file and line.
    """
    kind = kind_of(source)
    if kind == "proteins":
        for record in read_fasta(source, default_part=PRED):
            part = split.protein_parts([record.name], [record.sequence])[0]
            yield Assigned(record.line, record.name, record.sequence, part)
    elif kind == "structures":
        yield from _structures(source, split)
    else:
        yield from _molecules(source, split, smiles_column)


def write_parts(path: Path, assigned: list[Assigned]) -> None:
    """Write a table of :data:`COLUMNS`, atomically."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((row.line, row.name, row.part, row.reason) for row in assigned)


def _molecules(source: Path, split: BlindSplit, column: str) -> Iterator[Assigned]:
    table = source.name.lower().endswith((".csv", ".csv.gz"))
    rows = stream_rows(source, required=(column,)) if table else stream_smiles(source)
    for row in rows:
        smiles, name = row.cells[column if table else "smiles"], row.cells.get("mol_id", "")
        try:
            part, reason = split.molecule_parts([smiles])[0], ""
        except ValueError as error:
            part, reason = NO_PART, str(error)
        yield Assigned(row.line, name, smiles, part, reason)


def _structures(source: Path, split: BlindSplit) -> Iterator[Assigned]:
    # Reads OpenFold3, which takes seconds.
    from openfl_flows.data.blind.structures import structure_parts
    from openfl_flows.data.structures.select import read_structures
    from openfl_flows.data.structures.set import StructureSet

    prepared = StructureSet.open(source)
    for name, part in structure_parts(split, prepared, read_structures(prepared)).items():
        yield Assigned(0, name, name, part, "" if part else _DISAGREE)
