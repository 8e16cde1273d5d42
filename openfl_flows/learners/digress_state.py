"""DiGress as one State: both networks, and the statistics that define the forward process."""

from typing import Any

import numpy as np
from torch import nn

from openfl_flows.learners.module import load_module_state, module_state
from openfl_flows.models.digress import (
    Denoiser,
    DigressConfig,
    GraphStatistics,
    Regressor,
    regressor_config,
)
from openfl_flows.state import State

_STATISTICS = "statistics."


class Networks(nn.Module):
    """Denoiser and regressor, independent but for travelling together.

    Args:
        config: The denoiser's; the regressor's follows from it.
        statistics: What defines the forward process.
    """

    def __init__(self, config: DigressConfig, statistics: GraphStatistics) -> None:
        super().__init__()
        self.statistics = statistics
        self.denoiser = Denoiser(config, statistics)
        self.regressor = Regressor(regressor_config(config), statistics)

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
