"""The evaluation flow: a finished model measured on every site's own data, sums leaving only."""

from collections.abc import Sequence
from typing import Any

from openfl.experimental.workflow.interface import FLSpec
from openfl.experimental.workflow.placement import aggregator, collaborator

from openfl_flows.learners.site import Site
from openfl_flows.metrics.mean import Means, merge
from openfl_flows.state import State


class EvaluationFlow(FLSpec):
    """start → measure → join → end.

    Args:
        model: The model to measure.
        next_round: Number of the round that would train it further: it tells the sites which local
            state is theirs.
        on_validation: Whether to measure it on validation data.
        on_test: Whether to measure it on test data.

    Attributes:
        validated: Validation metrics pooled over sites, once the flow has run.
        tested: Test metrics pooled over sites, once the flow has run.
    """

    site: Site

    def __init__(
        self, model: State, *, next_round: int, on_validation: bool = True, on_test: bool = True
    ) -> None:
        super().__init__(checkpoint=False)
        self.model = model
        self.next_round = next_round
        self.on_validation = on_validation
        self.on_test = on_test
        self.validated: Means = {}
        self.tested: Means = {}

    @aggregator
    def start(self) -> None:
        """Send the model to all sites."""
        self.sites = self.runtime.collaborators
        self.next(self.measure, foreach="sites")

    @collaborator
    def measure(self) -> None:
        """Validate and test the model on the site's data, or one of the two."""
        self.validated, self.tested = self.site.measure(
            self.model, self.next_round, validate=self.on_validation, test=self.on_test
        )
        self.name = self.site.name
        self.next(self.join)

    @aggregator
    def join(self, inputs: Sequence[Any]) -> None:
        """Pool the sites' sums."""
        inputs = sorted(inputs, key=lambda site: str(site.name))
        self.validated = merge(site.validated for site in inputs)
        self.tested = merge(site.tested for site in inputs)
        self.next(self.end)

    @aggregator
    def end(self) -> None:
        """Nothing is left to do."""
