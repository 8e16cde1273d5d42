"""Files that torch saved, read as tensors and plain values alone, and only if they are whole."""

import zipfile
from pathlib import Path
from typing import Any

import torch


def load_whole(path: Path, **options: Any) -> Any:
    """``torch.load`` of a file whose checksums are right; nothing in it is executed.

    torch itself reads a tensor with a damaged byte as if nothing were wrong.

    Raises:
        ValueError: A part of the file is damaged; the message names the part.
        OSError, RuntimeError, EOFError, zipfile.BadZipFile: It cannot be read.
        pickle.UnpicklingError: It holds other things than tensors and plain values.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")
    return torch.load(path, weights_only=True, **options)
