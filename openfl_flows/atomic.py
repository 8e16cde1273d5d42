"""Files that are whole or absent: a reader, or a kill at any time, sees the old or the new one."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SECRET = 0o600
"""Rights of a file that only its owner reads."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path that takes the place of ``path`` once it is written and on disk."""
    with _taking_its_place(path) as temporary:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())


def put_copy(source: Path, path: Path) -> None:
    """Replace ``path`` by a copy of ``source``, a file that is only ever replaced as a whole.

    Where the file system can, both are one file on disk: a model is large.
    """
    with replacing(path) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def write_atomically(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace ``path`` by ``content``; at no moment does it have wider rights than ``mode``."""
    with _taking_its_place(path) as temporary:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def write_json(path: Path, document: Mapping[str, Any], mode: int = 0o666) -> None:
    """Write ``document`` as indented JSON, as :func:`write_atomically` does."""
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode(), mode)


@contextlib.contextmanager
def _taking_its_place(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
