"""Named joins: compositions of the pieces, nothing more. The plan's ``join`` group names them."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from openfl_flows.joins import ema, outer, robust
from openfl_flows.joins.base import Join, chain, screened
from openfl_flows.joins.mean import weighted_mean


def fedavg() -> Join:
    """Weighted FedAvg (McMahan et al. 2017)."""
    return weighted_mean()


def diloco(*, lr: float = 0.8, momentum: float = 0.1) -> Join:
    """DiLoCo (Douillard et al. 2023): Nesterov SGD on the pseudo-gradient of the mean."""
    return chain(weighted_mean(), outer.sgd(lr=lr, momentum=momentum, nesterov=True))


def fedavgm(*, lr: float = 1.0, momentum: float = 0.3) -> Join:
    """FedAvgM (Hsu et al. 2019): heavy-ball SGD on the pseudo-gradient."""
    return chain(weighted_mean(), outer.sgd(lr=lr, momentum=momentum, nesterov=False))


def fedadam(
    *, lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> Join:
    """FedAdam (Reddi et al. 2021)."""
    return chain(weighted_mean(), outer.adam(lr=lr, betas=(beta1, beta2), tau=tau))


def fedyogi(
    *, lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> Join:
    """FedYogi (Reddi et al. 2021)."""
    return chain(weighted_mean(), outer.yogi(lr=lr, betas=(beta1, beta2), tau=tau))


T = TypeVar("T")

JOINS: Mapping[str, Callable[..., Join]] = {
    "fedavg": fedavg,
    "diloco": diloco,
    "fedavgm": fedavgm,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
    "median": robust.median,
    "trimmed_mean": robust.trimmed_mean,
}

EMAS: Mapping[str, Callable[..., ema.Ema]] = {
    "at_sync": ema.at_sync,
    "interpolated": ema.interpolated,
}


def build_join(name: str, *, max_norm: float | None = None, **options: Any) -> Join:
    """The named join behind the guard against non-finite updates and, if asked, a norm clip.

    Raises:
        ValueError: The name is unknown, or an option does not belong to it.
    """
    checks = [robust.finite()]
    if max_norm is not None:
        checks.append(robust.clip_norm(max_norm))
    return screened(_build("join", JOINS, name, options), *checks)


def build_ema(name: str, **options: Any) -> ema.Ema | None:
    """The named moving average; None for ``none``.

    Raises:
        ValueError: The name is unknown, or an option does not belong to it.
    """
    if name == "none":
        return None
    return _build("ema", EMAS, name, options)


def _build(
    group: str, table: Mapping[str, Callable[..., T]], name: str, options: Mapping[str, Any]
) -> T:
    if name not in table:
        raise ValueError(f"{group}.name={name!r} is unknown, expected one of {', '.join(table)}")
    try:
        return table[name](**options)
    except TypeError as error:
        raise ValueError(f"{group}.name={name!r}: {error}") from None
