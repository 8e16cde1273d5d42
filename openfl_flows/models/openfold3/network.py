"""OpenFold3's module, and the exchange of its unique parameters with a State.

The state dict names a part of the parameters twice: ``sample_diffusion.diffusion_module`` is the
``diffusion_module`` itself. Only unique parameters travel; writing them in place serves all names.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from openfold3.entry_points.experiment_runner import skip_random_init
from openfold3.projects.of3_all_atom.model import OpenFold3
from openfold3.projects.of3_all_atom.runner import OpenFold3AllAtom
from torch import Tensor

from openfl_flows.models.openfold3.config import CONFIDENCE_HEADS, OpenFold3Config
from openfl_flows.models.openfold3.randomness import seeded
from openfl_flows.state import State


def build(config: OpenFold3Config, *, seed: int | None = None) -> OpenFold3AllAtom:
    """OpenFold3's module, on the processor.

    Args:
        config: What to build.
        seed: Of the weights; None leaves them unset, which is quicker where they are loaded next.
    """
    module: OpenFold3AllAtom
    with seeded(seed or 0), skip_random_init() if seed is None else contextlib.nullcontext():
        module = OpenFold3AllAtom(config.settings())
    if config.stage == "confidence":
        for name, parameter in module.model.named_parameters():
            parameter.requires_grad_(name.startswith(CONFIDENCE_HEADS))
    return module


def network_state(network: OpenFold3) -> State:
    """A copy of the unique parameters and the constants; what does not train is frozen.

    Raises:
        ValueError: A parameter is not float32.
    """
    arrays, frozen = {}, []
    for name, tensor in _tensors(network):
        if tensor.dtype != torch.float32:
            raise ValueError(
                f"tensor {name!r} is {tensor.dtype}, expected float32: what travels is never lower"
            )
        arrays[name] = tensor.detach().cpu().numpy().copy()
        if not tensor.requires_grad:
            frozen.append(name)
    return State(arrays, frozen=frozen)


@torch.no_grad()
def load_network(network: OpenFold3, state: State) -> None:
    """Copy ``state`` into the parameters' own memory, under all their names at once.

    Raises:
        ValueError: A tensor is missing, unexpected or of another shape, or the constants (the
            model's version and its Fourier embedding) are not this OpenFold3's.
    """
    own = dict(_tensors(network))
    for name in sorted(own.keys() | state.keys()):
        if name not in own or name not in state:
            raise ValueError(f"tensor {name!r} is {'unexpected' if name in state else 'missing'}")
        target, source = own[name], state[name]
        if tuple(target.shape) != source.shape or source.dtype != np.float32:
            raise ValueError(
                f"tensor {name!r} is {source.dtype}{source.shape}, "
                f"expected float32{tuple(target.shape)}"
            )
        if isinstance(target, torch.nn.Parameter):
            _copy(target, source)
        elif not np.array_equal(target.cpu().numpy(), source):
            raise ValueError(f"tensor {name!r} is a constant, and not that of this OpenFold3")


def _tensors(network: OpenFold3) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _copy(target: Tensor, source: np.ndarray) -> None:
    if target.device.type == "cpu":
        np.copyto(target.numpy(), source)
    else:
        target.copy_(torch.from_numpy(source.copy()))
