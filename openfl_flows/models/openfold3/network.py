"""OpenFold3's module, and the exchange of its unique parameters with a State.

The state dict names a part of the parameters twice: ``sample_diffusion.diffusion_module`` is the
``diffusion_module`` itself. Only unique parameters travel; writing them in place serves all names.
"""

import contextlib
import itertools

import numpy as np
import torch
from openfold3.core.model.feature_embedders.input_embedders import FourierEmbedding
from openfold3.entry_points.experiment_runner import skip_random_init
from openfold3.projects.of3_all_atom.model import OpenFold3
from openfold3.projects.of3_all_atom.runner import OpenFold3AllAtom
from torch import Tensor

from openfl_flows.models.openfold3.config import CONFIDENCE_HEADS, OpenFold3Config
from openfl_flows.models.openfold3.randomness import seeded
from openfl_flows.state import Spec, State, TensorSpec

_CONSTANT_TOLERANCE = 1e-4
"""A hundred times what processors were found to differ by."""


def build(config: OpenFold3Config, *, seed: int | None = None) -> OpenFold3AllAtom:
    """OpenFold3's module, on the processor.

    Args:
        config: What to build.
        seed: Of the weights; None leaves them unset, which is quicker where they are loaded next.
    """
    module: OpenFold3AllAtom
    with seeded(seed or 0), skip_random_init() if seed is None else contextlib.nullcontext():
        module = OpenFold3AllAtom(config.settings())
    _freeze(module.model, config)
    return module


def outline(config: OpenFold3Config) -> OpenFold3:
    """The network without memory for its parameters: their names and shapes, and the constants."""
    settings = config.settings()
    with skip_random_init(), torch.device("meta"):
        network = OpenFold3(settings)
    conditioning = settings.architecture.diffusion_module.diffusion_conditioning
    network.diffusion_module.diffusion_conditioning.fourier_emb = FourierEmbedding(
        c=conditioning.c_fourier_emb, seed=conditioning.seed_fourier_emb
    )
    _freeze(network, config)
    return network


def network_spec(network: OpenFold3) -> Spec:
    """Names, shapes and reductions of the unique parameters and the constants; no copy is made."""
    return Spec(
        TensorSpec(
            name=name,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            reduce="mean" if tensor.requires_grad else "keep",
        )
        for name, tensor in sorted(unique_tensors(network).items())
    )


def network_state(network: OpenFold3) -> State:
    """A copy of the unique parameters and the constants; what does not train is frozen.

    Raises:
        ValueError: A parameter is not float32.
    """
    arrays, frozen = {}, []
    for name, tensor in unique_tensors(network).items():
        if tensor.dtype != torch.float32:
            raise ValueError(
                f"tensor {name!r} is {tensor.dtype}, expected float32: what travels is never lower"
            )
        arrays[name] = tensor.detach().to("cpu", copy=True).numpy()
        # Nobody else holds the copy: read-only, the State takes it over and makes no other.
        arrays[name].flags.writeable = False
        if not tensor.requires_grad:
            frozen.append(name)
    return State(arrays, frozen=frozen)


@torch.no_grad()
def load_network(network: OpenFold3, state: State) -> None:
    """Copy ``state`` into the network's own memory, under all names at once.

    The constants (the model's version and its Fourier embedding) are taken over too: torch draws
    the embedding, and its last bits depend on the processor.

    Raises:
        ValueError: A tensor is missing, unexpected or of another shape, or the constants are not
            this OpenFold3's.
    """
    own = unique_tensors(network)
    for name in sorted(own.keys() | state.keys()):
        if name not in own or name not in state:
            raise ValueError(f"tensor {name!r} is {'unexpected' if name in state else 'missing'}")
        target, source = own[name], state[name]
        if tuple(target.shape) != source.shape or source.dtype != np.float32:
            raise ValueError(
                f"tensor {name!r} is {source.dtype}{source.shape}, "
                f"expected float32{tuple(target.shape)}"
            )
        if not isinstance(target, torch.nn.Parameter):
            check_constant(name, target, source)
        _copy(target, source)


def check_constant(name: str, own: Tensor, other: np.ndarray) -> None:
    """Refuse a constant that is not this OpenFold3's.

    Raises:
        ValueError: It is not; the message tells the version of the model where that differs.
    """
    expected = own.cpu().numpy()
    if not np.allclose(expected, other, rtol=0, atol=_CONSTANT_TOLERANCE):
        detail = f" {other.tolist()}, expected {expected.tolist()}" if other.size < 10 else ""
        raise ValueError(f"tensor {name!r} is a constant, and not that of this OpenFold3{detail}")


def _freeze(network: OpenFold3, config: OpenFold3Config) -> None:
    if config.stage == "confidence":
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith(CONFIDENCE_HEADS))


def unique_tensors(network: OpenFold3) -> dict[str, Tensor]:
    """What travels, by the first of its names: parameters, then constants."""
    return dict(itertools.chain(network.named_parameters(), network.named_buffers()))


def state_dict_names(network: OpenFold3) -> dict[str, str]:
    """Every name of the state dict, in its order, with the name under which its tensor travels."""
    first = {id(tensor): name for name, tensor in unique_tensors(network).items()}
    return {name: first[id(t)] for name, t in network.state_dict(keep_vars=True).items()}


def _copy(target: Tensor, source: np.ndarray) -> None:
    if target.device.type == "cpu":
        np.copyto(target.numpy(), source)
    else:
        target.copy_(torch.from_numpy(source.copy()))
