"""The Gaussian mechanism on a whole update: its norm is clipped, then noise is added.

``Δ = θ_r − θ_i`` over the trained tensors, ``Δ' = Δ min(1, C/‖Δ‖₂) + N(0, (zC)² I)``, and the site
sends ``θ_r − Δ'`` (McMahan et al. 2018, arXiv:1710.06963, with the noise at the site). What any two
data sets of a site make of ``Δ`` differs by at most ``2C`` after clipping, so that for the account
the noise is ``z/2`` times the sensitivity.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pydantic import ConfigDict

from openfl_flows.privacy.keystream import Keystream
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.state import Array, State

_PIECE = 2**18


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """How much noise, and how much of the budget it may cost.

    Attributes:
        clip_norm: ``C``, the most that an update's L2 norm may be.
        noise_multiplier: ``z``: standard deviation of the noise in every value, over ``C``.
        delta: The probability that the guarantee leaves out.
        max_epsilon: A site sends nothing that would spend more; None for no bound.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    clip_norm: float
    noise_multiplier: float
    delta: float = 1e-5
    max_epsilon: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no mechanism."""
        for name in ("clip_norm", "noise_multiplier", "max_epsilon"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"privacy.{name}={value}, expected a number above 0")
        if not 0 < self.delta < 1:
            raise ValueError(f"privacy.delta={self.delta}, expected a number between 0 and 1")


class Released(NamedTuple):
    """An update that may leave the site.

    Attributes:
        state: The model with the noise in it.
        norm: L2 norm of the update before clipping. It says something of the data, so it stays.
    """

    state: State
    norm: float


def release(trained: State, model: State, how: Gaussian, key: bytes) -> Released:
    """Clip the update of ``trained`` and add noise.

    Args:
        trained: What of the trained model is to be sent.
        model: The global model that the round began with.
        how: The mechanism.
        key: The secret that the noise is made of.

    Raises:
        WithheldError: A value is not finite, or there is a tensor that noise cannot be added to.
    """
    for tensor in trained.spec:
        if tensor.reduce == "max":
            raise WithheldError(
                f"privacy.name=gaussian: tensor {tensor.name!r} is {tensor.dtype}, expected "
                "floating point: integers would leave the site without noise"
            )
    names = [tensor.name for tensor in trained.spec if tensor.reduce == "mean"]
    square = sum(float(piece @ piece) for name in names for piece in _changes(trained, model, name))
    norm = math.sqrt(square)
    if not math.isfinite(norm):
        raise WithheldError("privacy.name=gaussian: the update is not finite, expected numbers")
    share = min(1.0, how.clip_norm / norm) if norm else 1.0
    deviation, stream = how.noise_multiplier * how.clip_norm, Keystream(key)
    noisy = {}
    for name in names:
        own = model[name].reshape(-1)
        flat, start = np.empty_like(own), 0
        for change in _changes(trained, model, name):
            change *= share
            change += deviation * stream.normal(change.size)
            stop = start + change.size
            flat[start:stop] = own[start:stop] - change
            start = stop
        noisy[name] = flat.reshape(model[name].shape)
    return Released(trained.with_arrays(noisy), norm)


def _changes(trained: State, model: State, name: str) -> Iterator[Array]:
    """``θ_r − θ_i`` of one tensor in float64, piece by piece."""
    before, after = model[name].reshape(-1), trained[name].reshape(-1)
    for start in range(0, before.size, _PIECE):
        piece = slice(start, start + _PIECE)
        yield np.subtract(before[piece], after[piece], dtype=np.float64)
