"""Keep parsed arrays on disk under a key, so that a large file is parsed once."""

import hashlib
import json
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[np.generic]]


def cache_key(content: bytes, options: Mapping[str, object]) -> str:
    """Name what was parsed and how: SHA-256 of the content and of the options.

    Args:
        content: The file's bytes.
        options: Everything else that decides the result (JSON types only).

    Returns:
        64 hexadecimal digits.
    """
    return _key(hashlib.sha256(content).digest(), options)


def file_key(path: Path, options: Mapping[str, object]) -> str:
    """The `cache_key` of a file's content, which is not held in memory.

    Args:
        path: The file.
        options: Everything else that decides the result (JSON types only).

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as stream:
        return _key(hashlib.file_digest(stream, "sha256").digest(), options)


def _key(content: bytes, options: Mapping[str, object]) -> str:
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    digest.update(content)
    return digest.hexdigest()


def load_arrays(path: Path) -> dict[str, NDArray[np.generic]] | None:
    """Read the arrays at `path`.

    Args:
        path: A file that `store_arrays` wrote.

    Returns:
        The arrays by name; None where the file is absent, or damaged (a warning is logged, and
        the caller parses again).
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        _log.warning("cache file %s is damaged (%s) and will be rebuilt", path, error)
        return None


def store_arrays(path: Path, arrays: Arrays) -> None:
    """Write the arrays to `path` so that a reader sees either the whole file or none.

    Args:
        path: Where; its folder is made if absent.
        arrays: By name; no object arrays.

    Raises:
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **dict(arrays))
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
