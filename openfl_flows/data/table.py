"""Rows of a file of molecules with their line numbers; what is malformed is said."""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from openfl_flows.data.text_files import GZIP, open_text

SMILES_SUFFIXES = (".smi", ".smiles", ".smi.gz", ".smiles.gz")
"""Names of files that are no tables but have one SMILES, and perhaps a name, on each line."""


@dataclass(frozen=True)
class Row:
    """One data row.

    Attributes:
        path: The file, for messages.
        line: Line of the file (the last one where a quoted cell spans several); the header is 1.
        cells: Text by column name.
    """

    path: Path
    line: int
    cells: Mapping[str, str]

    def number(self, column: str) -> float:
        """Read a cell as a number.

        Args:
            column: Name of a column.

        Returns:
            The value; NaN where the cell is empty or says `nan`.

        Raises:
            ValueError: The cell is no finite number.
        """
        cell = self.cells[column].strip()
        try:
            value = float(cell) if cell else math.nan
        except ValueError:
            value = math.inf
        if math.isinf(value):
            raise ValueError(
                f"{self.path}, line {self.line}: {column} is {cell!r}, "
                "expected a finite number or nothing"
            )
        return value

    def flag(self, column: str) -> bool:
        """Read a cell as true/false or 1/0, in any case.

        Args:
            column: Name of a column.

        Returns:
            The value.

        Raises:
            ValueError: The cell is none of these.
        """
        cell = self.cells[column].strip().lower()
        if cell not in ("true", "false", "1", "0"):
            raise ValueError(
                f"{self.path}, line {self.line}: {column} is {self.cells[column]!r}, "
                "expected True or False"
            )
        return cell in ("true", "1")


def read_rows(path: Path, content: bytes, *, required: Sequence[str]) -> Iterator[Row]:
    """Parse a CSV table with a header; blank lines are no rows.

    Args:
        path: Where the content came from, for messages.
        content: UTF-8 text, plain or gzip-compressed.
        required: Columns that must be there.

    Returns:
        The data rows in file order.

    Raises:
        ValueError: Damaged gzip, not UTF-8, a required column is missing, a column name occurs
            twice, or a row has more or fewer cells than the header.
    """
    return _parse(path, io.StringIO(_text(path, content), newline=""), required)


def stream_rows(path: Path, *, required: Sequence[str]) -> Iterator[Row]:
    """Parse a CSV table as :func:`read_rows` does, holding one row in memory at a time.

    Args:
        path: UTF-8 text, plain or gzip-compressed.
        required: Columns that must be there.

    Yields:
        The data rows in file order.

    Raises:
        ValueError: As :func:`read_rows`, once the row is reached.
        OSError: The file cannot be read.
    """
    with open_text(path) as stream:
        yield from _parse(path, stream, required)


def stream_smiles(path: Path) -> Iterator[Row]:
    """Read a file with a SMILES, and perhaps a name, on each line; blank lines are no rows.

    Args:
        path: UTF-8 text, plain or gzip-compressed.

    Yields:
        Rows with the cells ``smiles`` and ``mol_id``, the name, in file order.

    Raises:
        ValueError: Damaged gzip or not UTF-8.
        OSError: The file cannot be read.
    """
    with open_text(path) as stream:
        for line, text in enumerate(stream, start=1):
            if words := text.split(maxsplit=1):
                name = words[1].strip() if len(words) > 1 else ""
                yield Row(path, line, {"smiles": words[0], "mol_id": name})


def _parse(path: Path, stream: IO[str], required: Sequence[str]) -> Iterator[Row]:
    reader = csv.reader(stream)
    header = next(reader, [])
    for name in required:
        if name not in header:
            raise ValueError(f"{path}: no column {name!r}; the columns are {', '.join(header)}")
    if len(set(header)) != len(header):
        raise ValueError(f"{path}: a column name occurs twice in {', '.join(header)}")
    for cells in reader:
        if not cells:
            continue
        if len(cells) != len(header):
            raise ValueError(
                f"{path}, line {reader.line_num}: {len(cells)} cells, "
                f"expected {len(header)} as in the header"
            )
        yield Row(path, reader.line_num, dict(zip(header, cells, strict=True)))


def _text(path: Path, content: bytes) -> str:
    try:
        if content[:2] == GZIP:
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text at byte {error.start}") from error
