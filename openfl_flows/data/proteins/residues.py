"""What a protein language model sees of a sequence: letters that it knows, and not too many.

Sorting signals sit at both ends of a protein (signal and transit peptides at the start, KDEL and
SKL at the end), so a long one loses its middle.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LETTERS = "ACDEFGHIKLMNPQRSTVWYXBUZO"
"""Residues of ESM-2's vocabulary: the twenty, X (any), B (D or N), Z (E or Q), U, O.

Source: Lin et al., Science 379, 1123 (2023), and its ``vocab.txt``.
"""

UNKNOWN = "X"
"""The letter that stands for any residue."""

_FOREIGN = re.compile(f"[^{LETTERS}]")


@dataclass(frozen=True, slots=True)
class Seen:
    """What the model sees of a record, whether or not it has a target.

    Attributes:
        sequence: L letters of :data:`LETTERS`.
        replaced: Letters that became X, also in the middle of a cropped one.
        cropped: Residues cut from the middle.
    """

    sequence: str
    replaced: int
    cropped: int


def without_stop(sequence: str) -> str:
    """The sequence without the ``*`` that translated genes end with."""
    return sequence.rstrip("*")


def foreign_letter(sequence: str) -> tuple[int, str] | None:
    """Position (from 0) and letter of the first residue outside :data:`LETTERS`, if any."""
    found = _FOREIGN.search(sequence)
    return (found.start(), found[0]) if found else None


def replace_foreign(sequence: str) -> tuple[str, int]:
    """The sequence with :data:`UNKNOWN` for letters outside :data:`LETTERS`, and how many."""
    return _FOREIGN.subn(UNKNOWN, sequence)


def keep_ends(sequence: str, max_length: int | None) -> str:
    """Cut the middle out of a sequence.

    Args:
        sequence: One letter for each residue.
        max_length: Longest that is left whole; of a longer one the first ``ceil(max_length / 2)``
            and the last ``floor(max_length / 2)`` residues are kept. Nothing is cut where None.
    """
    if max_length is None or len(sequence) <= max_length:
        return sequence
    last = max_length // 2
    return sequence[: max_length - last] + sequence[len(sequence) - last :]


def kept_positions(length: int, max_length: int | None) -> NDArray[np.int64]:
    """Positions (from 0) of a sequence of `length` residues that :func:`keep_ends` keeps."""
    if max_length is None or length <= max_length:
        return np.arange(length)
    last = max_length // 2
    return np.concatenate([np.arange(max_length - last), np.arange(length - last, length)])
