"""Records of a file that are not among its proteins, and why."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that is left out.

    Attributes:
        line: Of its header in the file, from 1.
        name: First word of the header.
        reason: One clause.
    """

    line: int
    name: str
    reason: str


def write_rejections(path: str | Path, rejections: Iterable[Rejection]) -> None:
    """Write what was left out as CSV with the columns line, name, reason.

    Args:
        path: Where.
        rejections: In file order; a header alone is written where there are none.

    Raises:
        OSError: The file cannot be written.
    """
    with Path(path).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("line", "name", "reason"))
        writer.writerows((r.line, r.name, r.reason) for r in rejections)
