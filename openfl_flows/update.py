"""One site's contribution to a round, and what it reports beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from openfl_flows.state import State


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What a site sends to the aggregator for the join.

    Attributes:
        site: Name of the site; updates are joined in sorted name order.
        state: The site's model after local training.
        num_samples: Training samples seen this round; the weight in a weighted join.
        num_steps: Optimizer steps taken this round.
        metrics: Scalars of the site's training.

    Raises:
        ValueError: ``num_samples`` is not positive, or ``num_steps`` is negative.
    """

    site: str
    state: State
    num_samples: int
    num_steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse an update without weight."""
        if self.num_samples <= 0:
            raise ValueError(
                f"site {self.site!r} sent an update of {self.num_samples} samples, "
                "expected at least 1"
            )
        if self.num_steps < 0:
            raise ValueError(
                f"site {self.site!r} sent an update of {self.num_steps} steps, expected at least 0"
            )
