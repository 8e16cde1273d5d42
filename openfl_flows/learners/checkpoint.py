"""Models that a run begins with, read from files of this package or of torch."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from openfl_flows.atomic import replacing
from openfl_flows.models.lightning import load_lightning
from openfl_flows.ops.files import load_state
from openfl_flows.state import Spec, State

SUFFIX = ".safetensors"
"""What a file of this package ends with; anything else is read as torch's."""


def load_own(path: Path, spec: Spec) -> State:
    """Read a model that this package saved.

    Args:
        path: The file.
        spec: What the model must look like.

    Raises:
        ValueError: The file is missing or corrupt, or holds another model; the message names the
            first tensor that differs.
    """
    return checked(path, load_state(path), spec)


def checked(path: Path, state: State, spec: Spec) -> State:
    """``state`` as it was read from ``path``.

    Raises:
        ValueError: It does not look like ``spec``; the message names the first tensor that differs.
    """
    difference = spec.difference(state.spec)
    if difference:
        raise ValueError(f"{path}: another model than the plan's: {difference}")
    return state


def load_torch(path: Path) -> Mapping[str, Any]:
    """Read a mapping of tensors and plain values that torch saved; nothing in it is executed.

    Of a Lightning checkpoint that holds other objects too, the state dict alone.

    Raises:
        ValueError: The file is missing, cannot be read, or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a model")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return _beside_objects(path)
    except (zipfile.BadZipFile, EOFError, RuntimeError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not readable by torch: {reason}") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a mapping of tensors")
    return content


def _beside_objects(path: Path) -> Mapping[str, Any]:
    try:
        return load_lightning(path)
    except ValueError:
        raise ValueError(
            f"{path}: not a file of tensors and plain values alone, which is all that is read "
            "because anything else could run code"
        ) from None


def save_torch(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values with torch, atomically."""
    with replacing(path) as temporary:
        torch.save(dict(content), temporary)
