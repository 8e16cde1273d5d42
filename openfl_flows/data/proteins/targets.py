"""What is learned of a protein, from the text of its header; what is not as agreed is said."""

import difflib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from openfl_flows.data.proteins.residues import without_stop

MASKED = -100
"""Class index of a residue that is not learned, which the losses of torch pass over."""


def class_index(where: str, text: str, classes: Sequence[str]) -> int:
    """Position of a class among those that the parties agreed on.

    Args:
        where: File, line and protein, for the message.
        text: Name of a class.
        classes: Agreed names, in order.

    Raises:
        ValueError: There is no such class.
    """
    try:
        return classes.index(text)
    except ValueError:
        near = [name for name in classes if name.lower().startswith(text.lower())]
        near = near or difflib.get_close_matches(text, classes, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"{where} has TARGET={text}, expected one of data.classes: {', '.join(classes)}{hint}"
        ) from None


def finite_value(where: str, text: str) -> float:
    """The number that a target states.

    Args:
        where: File, line and protein, for the message.
        text: Of the number.

    Raises:
        ValueError: It is none, or not finite.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where} has TARGET={text}, expected a finite number")
    return value


def residue_classes(
    where: str, text: str, mask: str | None, sequence: str, classes: Sequence[str]
) -> NDArray[np.int64]:
    """Class index of each of L residues, (L,), :data:`MASKED` where the mask says 0.

    Args:
        where: File, line and protein, for the message.
        text: One letter for each residue, anything where masked; a final ``*`` may count or not.
        mask: 0 or 1 for each of them; all 1 where None.
        sequence: As read: L residues and perhaps a final ``*``.
        classes: Agreed names of one ASCII letter, in order.

    Raises:
        ValueError: The text has another length, or a residue that is not masked no such class.
    """
    length = len(without_stop(sequence))
    if len(text) not in (length, len(sequence)):
        raise ValueError(
            f"{where} has a TARGET of {len(text)} characters, expected {length}, one for each "
            "residue"
        )
    table = np.full(256, -1, np.int64)
    table[[ord(name) for name in classes]] = range(len(classes))
    indices = table[np.frombuffer(text[:length].encode("latin-1", "replace"), np.uint8)]
    if mask is not None:
        indices[np.frombuffer(mask[:length].encode(), np.uint8) == ord("0")] = MASKED
    wrong = np.flatnonzero(indices == -1)
    if wrong.size:
        raise ValueError(
            f"{where} has class {text[wrong[0]]!r} at residue {wrong[0] + 1}, expected one of "
            f"data.classes: {', '.join(classes)}"
        )
    return indices
