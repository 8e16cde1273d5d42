"""What is found in a site's data: lines that stay at the site, and how many there are of a kind."""

import csv
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, LiteralString

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from openfl_flows.atomic import SECRET, replacing
from openfl_flows.data.schema.kinds import FILE_KINDS, KINDS

_COLUMNS = ("kind", "file", "line", "row", "key", "value", "expected")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as agreed.

    Attributes:
        kind: A key of :data:`~openfl_flows.data.schema.kinds.KINDS`.
        file: Name of the file, without its folder.
        line: Line of the file, from 1; 0 where it concerns no single one.
        row: Name of the row, if it has one.
        key: Column, header key or field.
        value: What stands there.
        expected: What should.
    """

    kind: str
    file: str
    line: int
    row: str
    key: str
    value: str
    expected: str

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind


class Findings:
    """Counts what is found, and writes it down as it comes: memory does not depend on how much.

    Attributes:
        rows: Rows that were looked at.
        counts: By kind: rows that it was found in; for kinds of the data as a whole, findings.
    """

    def __init__(self, writer: Any = None) -> None:
        self.rows = 0
        self.counts: Counter[str] = Counter()
        self._writer = writer

    @classmethod
    @contextmanager
    def writing(cls, path: Path | None) -> Iterator["Findings"]:
        """Findings that are a CSV file at ``path`` at the end, which only its owner may read."""
        if path is None:
            yield cls()
            return
        with replacing(path) as temporary:
            temporary.touch(mode=SECRET)
            with temporary.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(_COLUMNS)
                yield cls(writer)

    def row(self, found: Collection[Finding]) -> None:
        """Count one row, and what was found in it."""
        self.rows += 1
        self.counts.update({finding.kind for finding in found})
        self._write(found)

    def later(self, found: Iterable[Finding]) -> None:
        """Add what was found in rows that are counted already, or in the data as a whole."""
        for finding in found:
            self.counts[finding.kind] += 1
            self._write((finding,))

    def broken(self, tolerated: Mapping[str, float]) -> list[str]:
        """Kinds in a larger share of the rows than is tolerated, sorted; of others, all."""
        return sorted(
            kind
            for kind, number in self.counts.items()
            if number and (kind in FILE_KINDS or number > tolerated.get(kind, 0.0) * self.rows)
        )

    def _write(self, found: Collection[Finding]) -> None:
        if self._writer is not None:
            self._writer.writerows(astuple(finding) for finding in found)


def refusal(kind: LiteralString, expected: str) -> PydanticCustomError:
    """What a validator of a row model raises: becomes a :class:`Finding` of that kind."""
    return PydanticCustomError(kind, "expected {expected}", {"expected": expected})


def findings_of(error: ValidationError, *, file: str, line: int, row: str) -> list[Finding]:
    """All findings that a row model raised.

    Args:
        error: Of the row.
        file: Name of the file.
        line: Of the row.
        row: Its name.
    """
    found = []
    for each in error.errors(include_url=False):
        told = each.get("ctx", {}).get("expected")
        kind = each["type"] if told is not None else "entry"
        key = ".".join(str(part) for part in each["loc"])
        value = "" if each["type"] == "missing" else str(each["input"])
        found.append(Finding(kind, file, line, row, key, value, told or each["msg"]))
    return found
