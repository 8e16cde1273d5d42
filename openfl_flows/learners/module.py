"""The exchange between a torch module and a State."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from openfl_flows.state import State


def module_state(module: nn.Module) -> State:
    """A copy of the module's parameters and buffers; those that do not train are frozen.

    Raises:
        ValueError: A tensor has an element type that numpy lacks, e.g. bfloat16.
    """
    tensors = module.state_dict()
    trains = {name: p.requires_grad for name, p in module.named_parameters()}
    return tensors_state(tensors, frozen=[n for n in tensors if not trains.get(n, True)])


def load_module_state(module: nn.Module, state: State) -> None:
    """Copy ``state`` into the module's own memory, so that training cannot write to the State.

    Raises:
        ValueError: A tensor is missing, unexpected or of another shape or type.
    """
    load_tensors(module.state_dict(), state)


def tensors_state(tensors: Mapping[str, Tensor], frozen: list[str] | None = None) -> State:
    """A copy of some tensors.

    Raises:
        ValueError: A tensor has an element type that numpy lacks, e.g. bfloat16.
    """
    arrays = {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bfloat16:
            raise ValueError(
                f"tensor {name!r} is bfloat16: keep the weights that travel in float32"
            )
        arrays[name] = tensor.detach().cpu().numpy().copy()
    return State(arrays, frozen=frozen or [])


@torch.no_grad()
def load_tensors(own: Mapping[str, Tensor], state: State) -> None:
    """Copy ``state`` into tensors of the same names.

    Raises:
        ValueError: A tensor is missing, unexpected or of another shape or type.
    """
    for name in sorted(own.keys() | state.keys()):
        if name not in own or name not in state:
            raise ValueError(f"tensor {name!r} is {'unexpected' if name in state else 'missing'}")
        target, source = own[name], state[name]
        if tuple(target.shape) != source.shape or str(target.dtype) != f"torch.{source.dtype}":
            raise ValueError(
                f"tensor {name!r} is {source.dtype}{source.shape}, "
                f"expected {target.dtype}{tuple(target.shape)}"
            )
        if target.device.type == "cpu":
            np.copyto(target.detach().numpy(), source)
        else:
            target.copy_(torch.from_numpy(source.copy()))
