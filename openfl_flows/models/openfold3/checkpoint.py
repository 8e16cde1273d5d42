"""Checkpoints of OpenFold3: weights that a run begins with, and models that OpenFold3 takes up.

OpenFold3 publishes a bare state dict of averaged weights; its trainer writes Lightning's
checkpoints, with the state dict under ``model.`` and the moving average in ``ema``. In both, every
tensor of the diffusion module has two names. Files are only ever read as tensors and plain values,
and mapped into memory; OpenFold3's own loader would run code that it finds in them.
"""

import pickle
import warnings
import zipfile
from collections.abc import Mapping, Set
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from openfold3.projects.of3_all_atom import safe_globals  # noqa: F401  a trainer's settings
from openfold3.projects.of3_all_atom.model import OpenFold3
from torch import Tensor

from openfl_flows.atomic import replacing
from openfl_flows.models.openfold3.config import OpenFold3Config
from openfl_flows.models.openfold3.network import (
    check_constant,
    network_spec,
    outline,
    state_dict_names,
    unique_tensors,
)
from openfl_flows.models.torch_files import load_whole
from openfl_flows.state import Array, State

Weights = Literal["ema", "model"]

_PREFIX = "model."


def load_weights(path: Path, config: OpenFold3Config, *, which: Weights = "ema") -> State:
    """Read the weights of a checkpoint that OpenFold3 published, wrote or would load.

    The State's arrays are the file, mapped into memory: it may be deleted or replaced meanwhile,
    but not written into.

    Args:
        path: A bare state dict, or a checkpoint of OpenFold3's trainer.
        config: What the weights must be of.
        which: Of a trainer's checkpoint, its moving average or the weights that it trained. A bare
            state dict holds one of them, which is taken.

    Raises:
        ValueError: The file is missing, damaged, or no checkpoint; it holds other things than
            tensors and plain values; or the weights are of another network, another version of it,
            or not finite, or the two names of a tensor have different values. The message names
            file and tensor.
    """
    network = outline(config)
    found = _named_tensors(path, read_torch(path), which)
    names = state_dict_names(network)
    _check_names(path, found.keys(), names, config)
    arrays = {name: _array(path, name, found[name]) for name in names}
    state = State({name: arrays[name] for name, unique in names.items() if name == unique})
    state = _fitted(path, state, network, config)
    for name, unique in names.items():
        if not _same(arrays[name], arrays[unique]):
            raise ValueError(
                f"{path}: tensors {unique!r} and {name!r} differ, expected two names of one: "
                "OpenFold3 would take the second"
            )
    return state


def fitted(path: Path, state: State, config: OpenFold3Config) -> State:
    """``state``, read from ``path``, as a model of ``config``: frozen is what its stage freezes.

    Raises:
        ValueError: It is of another network or version of it, or not finite; the message names the
            first tensor.
    """
    return _fitted(path, state, outline(config), config)


def read_torch(path: Path) -> Mapping[str, Any]:
    """Read a mapping of tensors and plain values that torch saved, mapped into memory.

    Raises:
        ValueError: The file is missing or damaged, or holds anything else, which is not looked at
            because it could run code.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a checkpoint of OpenFold3")
    try:
        content = load_whole(path, map_location="cpu", mmap=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: holds other things than tensors and plain values, which is all that is read "
            "because anything else could run code"
        ) from None
    except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not a readable checkpoint: {reason}") from None
    return _by_name(path, content)


def save_inference(state: State, config: OpenFold3Config, path: Path) -> None:
    """Write what OpenFold3 publishes: a bare state dict, which its inference loads strictly.

    Args:
        state: The model, or its moving average.
        config: What it is of.
        path: The file, replaced atomically.

    Raises:
        ValueError: ``state`` is not of ``config``.
    """
    _save(path, _all_names(path, state, config))


def save_training(
    state: State,
    average: State | None,
    config: OpenFold3Config,
    path: Path,
    *,
    global_step: int,
) -> None:
    """Write a checkpoint that OpenFold3's own trainer goes on with.

    It does so with either of its ways: ``restart_checkpoint_path`` alone, or with
    ``manual_checkpoint_loading``, which also can restore the learning rate's place by
    ``global_step``. There is no optimizer's state in it, since every site has its own.

    Args:
        state: The model.
        average: Its moving average; None begins one at the model, as OpenFold3 would.
        config: What they are of. The decay of the moving average is OpenFold3's setting.
        path: The file, replaced atomically.
        global_step: Optimizer steps taken.

    Raises:
        ValueError: A state is not of ``config``.
    """
    weights = _all_names(path, state, config)
    averaged = weights if average is None else _all_names(path, average, config)
    _save(
        path,
        {
            "pytorch-lightning_version": metadata.version("pytorch-lightning"),
            "epoch": 0,
            "global_step": global_step,
            "state_dict": {_PREFIX + name: tensor for name, tensor in weights.items()},
            "ema": {"params": averaged, "decay": config.settings().settings.ema.decay},
            "optimizer_states": [],
            "lr_schedulers": [],
        },
    )


def _named_tensors(path: Path, content: Mapping[str, Any], which: Weights) -> Mapping[str, Any]:
    if "state_dict" not in content:
        return content
    if which == "model":
        state = _by_name(path, content["state_dict"])
        found: Mapping[str, Any] = {n.removeprefix(_PREFIX): t for n, t in state.items()}
    else:
        found = _by_name(path, _by_name(path, content.get("ema", {})).get("params", {}))
    # OpenFold3's average holds the version alone before its first step.
    if len(found) < 2:
        raise ValueError(f"{path}: holds no weights for which={which}")
    return found


def _by_name(path: Path, content: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected tensors by name")
    return content


def _check_names(
    path: Path, found: Set[str], names: Mapping[str, str], config: OpenFold3Config
) -> None:
    for name in sorted(found ^ names.keys()):
        fault = "missing" if name in names else "unexpected"
        second = names.get(name, name) != name
        raise ValueError(
            f"{path}: tensor {name!r} is {fault}, expected OpenFold3's state dict of "
            f"network.size={config.size}"
            + (f", in which this is the second name of {names[name]!r}" if second else "")
        )


def _array(path: Path, name: str, tensor: Any) -> Array:
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{path}: tensor {name!r} is {kind}, expected torch.float32")
    array: Array = tensor.detach().numpy()
    # Nothing writes into what is mapped: read-only, the State makes no copy of it.
    array.flags.writeable = False
    return array


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and (a.ctypes.data == b.ctypes.data or np.array_equal(a, b))


def _fitted(path: Path, state: State, network: OpenFold3, config: OpenFold3Config) -> State:
    spec, own = network_spec(network), unique_tensors(network)
    frozen = [t.name for t in spec if t.reduce == "keep"]
    thawed = State(state, frozen=[name for name in frozen if name in state])
    difference = spec.difference(thawed.spec)
    if difference:
        raise ValueError(f"{path}: not weights of network.size={config.size}: {difference}")
    for name, array in thawed.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: tensor {name!r} is not finite")
        if not isinstance(own[name], torch.nn.Parameter):
            try:
                check_constant(name, own[name], array)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
    return thawed


def _all_names(path: Path, state: State, config: OpenFold3Config) -> dict[str, Tensor]:
    """Tensors that share the State's memory, under every name of OpenFold3's state dict."""
    network = outline(config)
    fit = _fitted(path, state, network, config)
    with warnings.catch_warnings():
        # That a State's arrays cannot be written to: nobody does.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        tensors = {name: torch.from_numpy(array) for name, array in fit.items()}
    return {name: tensors[unique] for name, unique in state_dict_names(network).items()}


def _save(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path) as temporary:
        torch.save(content, temporary)
