"""Which rows repeat an earlier one: 16 bytes a row, whatever the rows are."""

from array import array
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


class Repeats:
    """Digests of 64 bits of rows with their lines.

    Two different ones of a million have the same digest with a probability of 3e-8.
    """

    def __init__(self) -> None:
        self._keys = array("Q")
        self._lines = array("Q")

    def add(self, key: str, line: int) -> None:
        """Add the row of ``line``, which is the same as any with the same ``key``."""
        digest = blake2b(key.encode(), digest_size=8).digest()
        self._keys.append(int.from_bytes(digest, "big"))
        self._lines.append(line)

    def found(self) -> NDArray[np.uint64]:
        """Which rows repeat an earlier one.

        Returns:
            (n, 2) line of each such row and line of the first that is the same, in order of lines.
        """
        keys, lines = np.frombuffer(self._keys, np.uint64), np.frombuffer(self._lines, np.uint64)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        again = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
        first = np.searchsorted(ordered, ordered[again])
        pairs = np.stack([lines[order[again]], lines[order[first]]], axis=1)
        return pairs[np.argsort(pairs[:, 0])]
