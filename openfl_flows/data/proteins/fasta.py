"""Proteins in the FASTA of biotrainer: what is to be learned stands in the header.

``>P63033 TARGET=Cell_membrane SET=train KINGDOM=Metazoa``: the first word is the name, the others
are ``KEY=VALUE`` with keys in capitals and values up to the next space; words of another kind are
comments. ``SET`` is ``train``, ``val``, ``pred`` (no target needed) or the name of a test set. The
old spelling of a validation set, ``SET=train VALIDATION=True``, is understood.

Unlike biotrainer 1.4, which keeps only the last line of a wrapped sequence and passes over keys in
small letters, wrapped lines are joined and such keys refused.

Source: https://github.com/sacdallago/biotrainer, ``docs/data_standardization.md``.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern

from openfl_flows.atomic import replacing
from openfl_flows.data.text_files import open_text

PRED = "pred"
"""The part of proteins to predict; they need no target."""

KEYS = ("TARGET", "SET", "MASK", "VALIDATION")
"""Keys with a meaning; all others are attributes."""

_ANY_KEY = f"(?:{'|'.join(KEYS)})"
_ATTRIBUTE = re.compile(r"(?<!\S)([A-Z_]+)=(\S+)")
_MISSPELT = re.compile(rf"(?<!\S)(?!{_ANY_KEY}=)((?i:{_ANY_KEY}))=")
_SEQUENCE = re.compile(r"[A-Za-z*-]+")
_PART = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_MEANT = {"training": "train", "validation": "val", "valid": "val", "prediction": PRED}
_FORMATS = (
    (re.compile(r"[{\[]"), "JSON"),
    (re.compile(r"LOCUS\s"), "GenBank"),
    (re.compile(r"ID   \S"), "a flat file of UniProt or EMBL"),
    (re.compile(r"<"), "XML or HTML"),
    (re.compile(r"@"), "FASTQ"),
    (re.compile(r"(data_|HEADER\s|ATOM\s)"), "a structure"),
    (re.compile(r"(CLUSTAL|# STOCKHOLM)"), "an alignment"),
    (re.compile(r"version https://git-lfs"), "a pointer of Git LFS, not the file itself"),
    (re.compile(r"[^,;\t]+[,;\t]"), "a table (CSV)"),
)


@dataclass(frozen=True, slots=True)
class Record:
    """One protein as the file has it.

    Attributes:
        name: First word of the header.
        sequence: Wrapped lines joined, in capitals.
        target: Value of ``TARGET``; None only where `part` is ``pred``.
        part: Value of ``SET`` in small letters: ``train``, ``val``, ``pred`` or a test set's name.
        mask: Value of ``MASK``, ``0`` where a residue is not learned: as long as the sequence; a
            final ``*`` may count or not.
        attributes: All other keys, such as ``{"KINGDOM": "Metazoa"}``.
        line: Of the header, from 1.
    """

    name: str
    sequence: str
    target: str | None
    part: str
    mask: str | None
    attributes: Mapping[str, str]
    line: int


def read_fasta(path: Path, *, default_part: str | None = None) -> tuple[Record, ...]:
    """Read all proteins, in file order; the same record may occur twice.

    Args:
        path: UTF-8 text, plain or gzip-compressed.
        default_part: Part of records without ``SET``, such as ``pred`` for any FASTA there is;
            where None, they are an error.

    Raises:
        ValueError: The file is no such FASTA; or a name stands for two different records.
        OSError: The file cannot be read.
    """
    records: list[Record] = []
    first: dict[str, Record] = {}
    for record in _records(path, default_part):
        records.append(record)
        known = first.setdefault(record.name, record)
        for field in ("sequence", "target", "part", "mask"):
            if getattr(known, field) != getattr(record, field):
                raise ValueError(
                    f"{path}, line {record.line}: {record.name} is also at line {known.line} with "
                    f"another {'set' if field == 'part' else field}, expected one record of a name"
                )
    if not records:
        raise ValueError(f"{path}: the file is empty, expected FASTA: '>NAME TARGET=... SET=...'")
    return tuple(records)


def write_fasta(path: Path, records: Iterable[Record]) -> None:
    """Write proteins with current headers and one line per sequence, atomically.

    Args:
        path: Where; its folder is made if absent.
        records: What :func:`read_fasta` gives back, apart from `line`.

    Raises:
        ValueError: A header could not be read back as this record.
        OSError: The file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(f"{_header(record)}\n{record.sequence}\n")


def _header(record: Record) -> str:
    fields = {"TARGET": record.target, "SET": record.part, "MASK": record.mask}
    if clash := record.attributes.keys() & set(KEYS):
        raise ValueError(f"{record.name}: {min(clash)} is no name for an attribute, it has its own")
    words = [record.name]
    for key, value in (*fields.items(), *record.attributes.items()):
        if value is None:
            continue
        if not _ATTRIBUTE.fullmatch(f"{key}={value}"):
            raise ValueError(
                f"{record.name}: {key}={value!r} cannot be written, expected a key of capitals and "
                "a value without spaces"
            )
        words.append(f"{key}={value}")
    if len(record.name.split()) != 1 or "=" in record.name:
        raise ValueError(f"name {record.name!r} cannot be written, expected one word without '='")
    return ">" + " ".join(words)


def _records(path: Path, default_part: str | None) -> Iterator[Record]:
    header, start = "", 0
    chunks: list[str] = []
    with open_text(path, expected="FASTA") as stream:
        for number, raw in enumerate(stream, start=1):
            line = raw.strip()
            if line.startswith(">"):
                if start:
                    yield parse_record(path, start, header, chunks, default_part)
                header, start, chunks = line[1:], number, []
            elif line and not start:
                raise ValueError(_unlike_fasta(path, number, line))
            elif line:
                if not _SEQUENCE.fullmatch(line):
                    raise ValueError(_bad_letter(path, number, line))
                chunks.append(line)
    if start:
        yield parse_record(path, start, header, chunks, default_part)


def parse_record(
    path: Path, line: int, header: str, chunks: Sequence[str], default_part: str | None
) -> Record:
    """Read one record.

    Args:
        path: The file, for messages.
        line: Of the header, from 1.
        header: Without the ``>``.
        chunks: Lines of the sequence.
        default_part: As that of :func:`read_fasta`.

    Raises:
        ValueError: It is none; the message names file, line and name.
    """
    where = f"{path}, line {line}"
    name = header.split(maxsplit=1)[0] if header.strip() else ""
    if not name or _ATTRIBUTE.fullmatch(name):
        raise ValueError(f"{where}: header {header[:60]!r} has no name, expected '>NAME KEY=VALUE'")
    rest = header.strip()[len(name) :]
    if wrong := _MISSPELT.search(rest):
        raise ValueError(
            f"{where}: {name} has the key {wrong[1]!r}, expected {wrong[1].upper()!r} in capitals"
        )
    values: dict[str, str] = {}
    for key, value in _ATTRIBUTE.findall(rest):
        if values.setdefault(intern(key), value) != value:
            raise ValueError(
                f"{where}: {name} has {key}={values[key]} and {key}={value}, expected one {key}"
            )
    part = _part(f"{where}: {name}", values.pop("SET", default_part), values)
    target = values.pop("TARGET", None)
    if target is None and part != PRED:
        raise ValueError(f"{where}: {name} has no TARGET, expected TARGET=VALUE (or SET={PRED})")
    sequence = "".join(chunks).upper()
    if not sequence.strip("*-"):
        raise ValueError(f"{where}: {name} has no sequence, expected one below its header")
    mask = values.pop("MASK", None)
    if mask is not None:
        _check_mask(f"{where}: {name}", mask, sequence)
    return Record(
        name=name,
        sequence=sequence,
        target=None if target is None else intern(target),
        part=part,
        mask=mask,
        attributes=values,
        line=line,
    )


def _part(where: str, given: str | None, values: dict[str, str]) -> str:
    validation = values.pop("VALIDATION", None)
    if given is None:
        raise ValueError(f"{where} has no SET, expected SET=train, val, {PRED} or a test set")
    part = intern(given.lower())
    if part in _MEANT:
        raise ValueError(f"{where} has SET={given}, expected SET={_MEANT[part]}")
    if not _PART.fullmatch(part):
        raise ValueError(f"{where} has SET={given}, expected letters, digits, '_', '-' and '.'")
    if validation not in (None, "True", "False"):
        raise ValueError(f"{where} has VALIDATION={validation}, expected True or False")
    return "val" if part == "train" and validation == "True" else part


def _check_mask(where: str, mask: str, sequence: str) -> None:
    if mask.strip("01") or "1" not in mask:
        raise ValueError(f"{where} has a MASK that is not of 0 and 1 with at least one 1")
    if len(mask) not in (len(sequence), len(sequence.rstrip("*"))):
        raise ValueError(
            f"{where} has a MASK of {len(mask)} characters, expected {len(sequence)}, one for each "
            "residue"
        )


def _unlike_fasta(path: Path, number: int, line: str) -> str:
    expected = "expected FASTA: '>NAME TARGET=... SET=...', then the sequence"
    if "\0" in line:
        return f"{path}: this is a binary file, {expected}"
    for pattern, kind in _FORMATS:
        if pattern.match(line):
            return f"{path}, line {number}: this looks like {kind}, {expected}"
    return f"{path}, line {number}: {line[:40]!r} stands before the first header, {expected}"


def _bad_letter(path: Path, number: int, line: str) -> str:
    good = _SEQUENCE.match(line)
    column = good.end() if good else 0
    return (
        f"{path}, line {number}: {line[column]!r} at position {column + 1} of the line, expected a "
        "sequence of letters, '*' and '-'"
    )
