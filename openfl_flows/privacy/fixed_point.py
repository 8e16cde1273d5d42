"""Updates as integers whose sum is exact: what masks can be added to and cancel in.

A site with ``n`` samples sends ``q = round(n (θ_r − θ_i) 2²⁸)`` modulo 2⁶⁴. Sums of integers lose
nothing, so the aggregator gets ``Σ q`` to the last bit, whatever was added to hide each of them,
and ``θ_r − Σ q / (2²⁸ Σ n)``. That differs from the mean by at most ``S 2⁻²⁹ / Σ n`` for S sites,
and by the rounding of the result.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.state import Spec, State, TensorSpec
from openfl_flows.update import Update

FRACTION_BITS = 28

_ONE = 2.0**FRACTION_BITS
_PIECE = 2**17


def fixed_spec(spec: Spec) -> Spec:
    """The tensors that travel in place of those of ``spec``: integers of 64 bits.

    Raises:
        WithheldError: There are integers among them, which a sum does not join.
    """
    for tensor in spec:
        if tensor.reduce == "max":
            raise WithheldError(
                f"federation.secure_aggregation=true: tensor {tensor.name!r} is {tensor.dtype}, "
                "expected floating point: of integers the largest is taken, and a sum has none"
            )
    return Spec(
        TensorSpec(name=t.name, shape=t.shape, dtype="uint64", reduce="max")
        for t in spec
        if t.reduce == "mean"
    )


def to_fixed(trained: State, model: State, *, num_samples: int, sites: int) -> State:
    """An update as integers.

    Args:
        trained: What of the trained model is to be sent.
        model: The global model that the round began with.
        num_samples: The update's weight.
        sites: How many sites there are: their sum has to fit, too.

    Raises:
        WithheldError: A value is not finite, too large, or an integer already.
    """
    limit = 2.0 ** (63 - FRACTION_BITS) / (2 * sites)
    fixed = {}
    for tensor in fixed_spec(trained.spec):
        before, after = model[tensor.name].reshape(-1), trained[tensor.name].reshape(-1)
        whole = np.empty(tensor.shape, np.int64)
        flat = whole.reshape(-1)
        for piece in _pieces(before.size):
            change = np.subtract(before[piece], after[piece], dtype=np.float64)
            change *= num_samples
            largest = float(np.abs(change).max())
            # Said so that NaN is refused, too.
            if not largest <= limit:
                raise WithheldError(
                    f"federation.secure_aggregation=true: tensor {tensor.name!r} has a change of "
                    f"{largest / num_samples:.3g}, expected at most {limit / num_samples:.3g} at "
                    f"{num_samples} samples"
                )
            change *= _ONE
            flat[piece] = np.rint(change, out=change)
        fixed[tensor.name] = whole.view(np.uint64)
    return State(fixed)


def summed(model: State, updates: Iterable[Update]) -> Update:
    """The mean of all sites' updates as one update, which is all that anyone learns of them.

    Args:
        model: What of the global model the round synchronises.
        updates: Of all sites, as :func:`to_fixed` made them, with or without masks.

    Raises:
        ValueError: There is none, or one is of another model.
    """
    total: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint64]]] = {}
    num_samples = num_steps = 0
    spec = fixed_spec(model.spec)
    for update in updates:
        if update.state.spec != spec:
            difference = spec.difference(update.state.spec)
            raise ValueError(f"update of site {update.site!r} does not fit the model: {difference}")
        for name, array in update.state.items():
            if name in total:
                np.add(total[name], array, out=total[name])
            else:
                total[name] = array.copy()
        num_samples += update.num_samples
        num_steps = max(num_steps, update.num_steps)
        del update
    if not num_samples:
        raise ValueError("no updates to join, expected at least one site's")
    mean = {}
    for name in list(total):
        whole = np.empty(model[name].shape, model[name].dtype)
        before, after = model[name].reshape(-1), whole.reshape(-1)
        change = total.pop(name).reshape(-1).view(np.int64)
        for piece in _pieces(before.size):
            after[piece] = before[piece] - change[piece] / (_ONE * num_samples)
        mean[name] = whole
    state = model.with_arrays(mean)
    return Update(site="all sites", state=state, num_samples=num_samples, num_steps=num_steps)


def _pieces(size: int) -> Iterator[slice]:
    """Parts of a flat array that stay in cache."""
    return (slice(start, start + _PIECE) for start in range(0, size, _PIECE))
