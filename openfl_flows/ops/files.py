"""Files that are whole or absent: atomic writes, and States as safetensors."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

from openfl_flows.state import State


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` so that a reader, or a kill at any moment, sees the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write ``document`` as indented JSON, atomically."""
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


def save_state(path: Path, state: State) -> None:
    """Write ``state`` as safetensors, its digest and frozen names in the metadata, atomically."""
    metadata = {"digest": state.digest(), "frozen": json.dumps(state.frozen)}
    write_atomically(path, safetensors.numpy.save(dict(state), metadata))


def load_state(path: Path) -> State:
    """Read a State that :func:`save_state` wrote.

    Raises:
        ValueError: The file is missing, is not safetensors, or its content is not what its digest
            says.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a State in safetensors format")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file: {error}") from None
    state = State(arrays, frozen=json.loads(metadata.get("frozen", "[]")))
    if state.digest() != metadata.get("digest", state.digest()):
        raise ValueError(
            f"{path}: content has digest {state.digest()[:12]}, "
            f"but was saved with {metadata['digest'][:12]}"
        )
    return state
