"""DiGress as one State: both networks, and the statistics that define the forward process."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openfl_flows.learners.checkpoint import SUFFIX, checked, load_own, load_torch, save_torch
from openfl_flows.learners.module import load_module_state, module_state
from openfl_flows.models.digress import (
    Denoiser,
    DigressConfig,
    GraphStatistics,
    Regressor,
    load_published,
    regressor_config,
    to_published,
)
from openfl_flows.models.precision import Kernels
from openfl_flows.state import State

_STATISTICS = "statistics."
_PARTS = ("denoiser", "regressor")


class Networks(nn.Module):
    """Denoiser and regressor, independent but for travelling together.

    Args:
        config: The denoiser's; the regressor's follows from it.
        statistics: What defines the forward process.
        kernels: What computes the layers.

    Raises:
        ValueError: Native kernels cannot be had here, or do not compute such networks.
    """

    def __init__(
        self, config: DigressConfig, statistics: GraphStatistics, kernels: Kernels = "torch"
    ) -> None:
        super().__init__()
        self.statistics = statistics
        self.denoiser = Denoiser(config, statistics)
        self.regressor = Regressor(regressor_config(config), statistics)
        if kernels == "native":
            self.denoiser.model.use_native_kernels()
            self.regressor.model.use_native_kernels()

    def state(self) -> State:
        """A copy of all parameters, with the statistics as frozen tensors.

        The statistics are part of the model: a site that held others would train another model.
        """
        known = {
            f"{_STATISTICS}{name}": np.asarray(getattr(self.statistics, name), dtype=np.float64)
            for name in GraphStatistics.__dataclass_fields__
        }
        return State({**module_state(self), **known}, frozen=tuple(known))

    def load(self, state: State) -> None:
        """Copy ``state`` into the parameters.

        Raises:
            ValueError: It is the state of another model, or was made with other statistics.
        """
        if statistics_of(state) != self.statistics:
            raise ValueError(
                "the model's statistics (graph sizes, marginals, target scale) are not those that "
                "this site was set up with: all sites must hold the same"
            )
        parameters = {n: a for n, a in state.items() if not n.startswith(_STATISTICS)}
        load_module_state(self, State(parameters))


def statistics_of(state: State) -> GraphStatistics:
    """The statistics that a model's state carries.

    Raises:
        ValueError: It carries none, so it is not a DiGress model of this package.
    """
    fields: dict[str, Any] = {
        name.removeprefix(_STATISTICS): tuple(array.tolist())
        for name, array in state.items()
        if name.startswith(_STATISTICS)
    }
    missing = sorted(GraphStatistics.__dataclass_fields__.keys() - fields.keys())
    if missing:
        raise ValueError(f"tensor '{_STATISTICS}{missing[0]}' is missing: not a DiGress state")
    return GraphStatistics(**fields)


def save_networks(state: State, config: DigressConfig, path: Path) -> None:
    """Write both networks under their published names, with what is needed to build them.

    The file is a mapping of ``denoiser`` and ``regressor`` (state dicts as in a published
    checkpoint, noise schedule included), ``config`` and ``statistics`` (plain values).
    """
    parts = {part: _tensors(state, part) for part in _PARTS}
    save_torch(
        path,
        {
            **{
                part: to_published(tensors, diffusion_steps=config.diffusion_steps)
                for part, tensors in parts.items()
            },
            "config": asdict(config),
            "statistics": asdict(statistics_of(state)),
        },
    )


def load_networks(
    path: Path, config: DigressConfig, initial: State, *, regressor: Path | None = None
) -> State:
    """Read a model to begin with.

    Args:
        path: What this package saved; or a published checkpoint of the denoiser, whose statistics
            are not in the file: those of ``initial`` are taken.
        config: What the model must be.
        initial: The model that a run would begin with otherwise; the regressor is taken from it
            where none is given.
        regressor: A published checkpoint of the regressor.

    Raises:
        ValueError: A file cannot be read or holds another model; the message names file and tensor.
    """
    if path.suffix == SUFFIX:
        return _with_statistics(path, load_own(path, initial.spec), initial)
    content = load_torch(path)
    if content.keys() >= {*_PARTS, "statistics"}:
        state = initial
        for part in _PARTS:
            state = _with_network(path, state, part, content[part], config)
        known = {f"{_STATISTICS}{k}": np.array(v) for k, v in content["statistics"].items()}
        return _with_statistics(path, state.with_arrays(known), initial)
    state = _with_network(path, initial, "denoiser", content, config)
    if regressor is not None:
        state = _with_network(regressor, state, "regressor", load_torch(regressor), config)
    return state


def _tensors(state: State, part: str) -> dict[str, Tensor]:
    prefix = f"{part}.model."
    return {
        name.removeprefix(prefix): torch.from_numpy(array.copy())
        for name, array in state.items()
        if name.startswith(prefix)
    }


def _with_network(
    path: Path, state: State, part: str, content: Mapping[str, Any], config: DigressConfig
) -> State:
    try:
        network = load_published(content, diffusion_steps=config.diffusion_steps)
    except ValueError as error:
        raise ValueError(f"{path}: no published {part}: {error}") from None
    prefix = f"{part}.model."
    others = {name: array for name, array in state.items() if not name.startswith(prefix)}
    loaded = {prefix + name: tensor.float().numpy() for name, tensor in network.items()}
    return checked(path, State({**others, **loaded}, frozen=state.frozen), state.spec)


def _with_statistics(path: Path, state: State, expected: State) -> State:
    found, own = statistics_of(state), statistics_of(expected)
    for name in GraphStatistics.__dataclass_fields__:
        if getattr(found, name) != getattr(own, name):
            raise ValueError(
                f"{path}: was trained with {name}={list(getattr(found, name))}, but "
                f"model.statistics has {list(getattr(own, name))}: state the model's in the plan"
            )
    return state
