"""Embeddings on disk by key, in one SQLite file that several processes may share.

A vector is there whole or not at all, whenever a process is killed.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Embedding = NDArray[np.float32]

_BLOCK = 500
"""Keys of a query: SQLite takes at most 999 in its oldest builds."""
_SECONDS = 60.0
"""How long to wait for another process that writes."""


class EmbeddingStore:
    """Arrays of float32 by key.

    Args:
        path: The file; made with its folder when something is stored.
        width: Last dimension of all its arrays: those of one dimension are of a sequence, those of
            two have a row per residue.
    """

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        self._width = width

    def get(self, keys: Sequence[str]) -> dict[str, Embedding]:
        """Those that are there.

        Raises:
            ValueError: The file is no such store, or an array in it is damaged.
        """
        if not self._path.is_file():
            return {}
        found: dict[str, Embedding] = {}
        with self._open() as connection:
            for start in range(0, len(keys), _BLOCK):
                block = keys[start : start + _BLOCK]
                marks = ",".join("?" * len(block))
                query = f"SELECT key, rows, data FROM embeddings WHERE key IN ({marks})"
                for key, rows, data in connection.execute(query, block):
                    found[key] = self._array(key, rows, data)
        return found

    def put(self, arrays: Mapping[str, Embedding]) -> None:
        """Store arrays, all or none; those that are there already stay.

        Raises:
            ValueError: The file is no such store.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        values = [
            (key, None if array.ndim == 1 else len(array), array.astype("<f4").tobytes())
            for key, array in arrays.items()
        ]
        with self._open() as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?, ?)", values)

    def _array(self, key: str, rows: int | None, data: bytes) -> Embedding:
        if len(data) != 4 * self._width * (1 if rows is None else rows):
            raise ValueError(
                f"{self._path}: embedding {key[:12]} has {len(data)} bytes, expected rows of "
                f"{self._width} numbers: delete the file, and it is made again"
            )
        array = np.frombuffer(data, dtype="<f4").astype(np.float32)
        return array if rows is None else array.reshape(rows, self._width)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=_SECONDS)) as connection:
                # Whoever is killed, or still writes, before its first commit leaves an empty file.
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS embeddings "
                    "(key TEXT PRIMARY KEY, rows INTEGER, data BLOB NOT NULL) WITHOUT ROWID"
                )
                yield connection
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self._path}: not a store of embeddings that can be used: {error}"
            ) from None
