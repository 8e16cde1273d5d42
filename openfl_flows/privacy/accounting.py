"""What releases of noisy updates cost: ε at a δ, by Opacus' accountant of Rényi privacy."""

import math
from collections.abc import Sequence

from openfl_flows.privacy.gaussian import Gaussian

_ORDERS = [1 + x / 20 for x in range(1, 200)] + [*range(11, 64)] + [2**n for n in range(6, 16)]
# Of the sensitivity, which is 2C: see gaussian.py.
_SENSITIVITY = 2.0


def spent_epsilon(multipliers: Sequence[float], delta: float) -> float:
    """ε of the releases of one site's data so far, each with all of them.

    Whoever sees all releases tells two data sets of the site apart only as ``(ε, δ)`` allows:
    ``P[A] ≤ exp(ε) P'[A] + δ`` for every event A and any two data sets, not only those that differ
    in one sample. A Gaussian release of noise ``s`` times the sensitivity has Rényi divergence
    ``α / 2s²`` of order α (Mironov 2017, arXiv:1702.07476, proposition 7); those of several add up.

    Args:
        multipliers: ``z`` of every release.
        delta: δ.

    Returns:
        ε; 0 where nothing was released.
    """
    if not multipliers:
        return 0.0
    from opacus.accountants.analysis import rdp

    divergence = sum(
        rdp.compute_rdp(q=1.0, noise_multiplier=z / _SENSITIVITY, steps=count, orders=_ORDERS)
        for z, count in ((z, list(multipliers).count(z)) for z in sorted(set(multipliers)))
    )
    epsilon, _ = rdp.get_privacy_spent(orders=_ORDERS, rdp=divergence, delta=delta)
    return max(0.0, float(epsilon))


def epsilon_after(how: Gaussian, releases: int) -> float:
    """ε of so many releases under one mechanism."""
    return spent_epsilon([how.noise_multiplier] * releases, how.delta)


def affordable(how: Gaussian) -> float:
    """How many releases ``privacy.max_epsilon`` allows; infinity without a bound."""
    if how.max_epsilon is None:
        return math.inf
    least, most = 0, 1
    while epsilon_after(how, most) <= how.max_epsilon:
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        if epsilon_after(how, middle) <= how.max_epsilon:
            least = middle
        else:
            most = middle
    return least
