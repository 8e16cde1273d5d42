"""Rows of a CSV table with their line numbers; what is malformed is said, never skipped."""

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


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

    Yields:
        The data rows in file order.

    Raises:
        ValueError: Damaged gzip, not UTF-8, a required column is missing, a column name occurs
            twice, or a row has more or fewer cells than the header.
    """
    reader = csv.reader(io.StringIO(_text(path, content), newline=""))
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
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text at byte {error.start}") from error
