"""Checkpoints of PyTorch Lightning, whose tensors lie beside objects of classes that are not here.

A published checkpoint carries its hyper-parameters as pickled objects of its own code. Here every
such object becomes an empty stand-in, so the tensors can be read and nothing in the file is run.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_TENSORS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}


def load_lightning(path: Path) -> Mapping[str, Any]:
    """The "state_dict" of a Lightning checkpoint: tensors by name.

    Raises:
        ValueError: The file holds no such thing.
    """
    content = None
    if zipfile.is_zipfile(path):
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_Inert)
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: holds no mapping 'state_dict' of tensors")
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


class _StandIn:
    """Takes all that unpickling does to an object, and does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def _ignore(self, *_args: Any, **_kwargs: Any) -> None: ...

    __setstate__ = __setitem__ = append = extend = add = __call__ = _ignore


class _Inert:
    """What `torch.load` takes for the pickle module."""

    class Unpickler(pickle.Unpickler):
        """Resolves the names that make up tensors; any other is the stand-in."""

        def find_class(self, module: str, name: str) -> Any:
            """The object that `module.name` stands for."""
            return _TENSORS.get((module, name), _StandIn)
