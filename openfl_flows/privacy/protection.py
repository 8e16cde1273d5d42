"""What a plan asks for to hide the sites' updates, and which plans cannot have it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openfl_flows.privacy.accounting import affordable, epsilon_after
from openfl_flows.privacy.gaussian import Gaussian

PRIVACY: Mapping[str, type[Gaussian] | None] = {"none": None, "gaussian": Gaussian}
"""What the plan's group ``privacy`` names."""

_LOOK_AT_EACH = frozenset({"median", "trimmed_mean"})


@dataclass(frozen=True, kw_only=True)
class Protection:
    """How updates are hidden.

    Attributes:
        noise: The mechanism of ``privacy``, None where there is none.
        summed: Whether the aggregator gets the sum of the updates alone
            (``federation.secure_aggregation``).
    """

    noise: Gaussian | None = None
    summed: bool = False


OPEN = Protection()
"""Updates are sent as they are."""


def mechanism(name: str, options: Mapping[str, Any]) -> type[Gaussian] | None:
    """What the options of ``privacy`` are of.

    Raises:
        ValueError: The name is unknown, or there are options where there is nothing to set.
    """
    if name not in PRIVACY:
        raise ValueError(f"privacy.name={name!r} is unknown, expected one of {', '.join(PRIVACY)}")
    kind = PRIVACY[name]
    for key in sorted(options) if kind is None else ():
        raise ValueError(f"privacy has {key}={options[key]!r}, which means nothing there")
    return kind


def check_budget(noise: Gaussian, rounds: int) -> None:
    """Refuse a plan that every site would have to leave before its end.

    Raises:
        ValueError: Its rounds spend more than ``privacy.max_epsilon``.
    """
    if noise.max_epsilon is None or rounds <= (most := affordable(noise)):
        return
    raise ValueError(
        f"federation.rounds={rounds} would spend epsilon {epsilon_after(noise, rounds):.4g} at "
        f"delta {noise.delta:g}, expected at most privacy.max_epsilon={noise.max_epsilon:g}, "
        f"which is enough for {most:g} rounds"
    )


def check_sum(config: Mapping[str, Any], *, exact: bool, sites: int) -> None:
    """Refuse secure aggregation in a plan that needs more than the sum of the updates.

    Args:
        config: The plan.
        exact: Whether its codec rounds nothing.
        sites: How many sites there are.

    Raises:
        ValueError: It does; the message names the key.
    """
    join, network = config["join"], config.get("network") or {}
    ratio = network.get("max_norm_ratio")
    reasons = {
        f"federation.sites={sites}, expected at least 2: the sum of one update is that update": (
            sites < 2
        ),
        f"codec.name={(config.get('codec') or {}).get('name')}, expected identity: a codec would "
        "round a masked update, and the masks would not cancel": not exact,
        f"join.name={join.get('name')}, expected a join of the mean, such as fedavg or diloco: it "
        "compares the updates": join.get("name") in _LOOK_AT_EACH,
        f"join.max_norm={join.get('max_norm')}, expected null: it looks at each update's norm": (
            join.get("max_norm") is not None
        ),
        f"network.max_norm_ratio={ratio}, expected null: the aggregator cannot see an update's "
        "norm, and so takes updates of any size": ratio is not None,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"federation.secure_aggregation=true with {reason}")
