"""The federated flow: the six tasks of a round as an OpenFL Workflow, for any model and join."""

import time
from collections.abc import Sequence
from typing import Any

from openfl.experimental.workflow.interface import FLSpec
from openfl.experimental.workflow.placement import aggregator, collaborator

from openfl_flows.learners.site import Site
from openfl_flows.ops.aggregation import Aggregation, Contribution
from openfl_flows.ops.memory import peak_rss_bytes
from openfl_flows.state import State
from openfl_flows.update import Update


class FederatedFlow(FLSpec):
    """start → aggregated_model_validation → train → local_model_validation → join → end.

    Participants bring what the flow may not carry: a site its :class:`Site` (private attribute
    ``site``), the aggregator its :class:`Aggregation` (``aggregation``).

    Args:
        model: The global model that the first round starts from.
        first_round: Number of that round, 1 unless a run is resumed.
        rounds: Number of the last round.
    """

    site: Site
    aggregation: Aggregation

    def __init__(self, model: State, *, first_round: int, rounds: int) -> None:
        # OpenFL's own checkpoints pickle every attribute at every step; the run directory is ours.
        super().__init__(checkpoint=False)
        self.model = model
        self.round = first_round
        self.rounds = rounds
        self.contribution: Contribution | None = None

    @aggregator
    def start(self) -> None:
        """Send the global model to all sites."""
        self.sites = self.runtime.collaborators
        self.aggregation.begin()
        self.next(self.aggregated_model_validation, foreach="sites")

    @collaborator
    def aggregated_model_validation(self) -> None:
        """Validate the global model on the site's data."""
        began = time.monotonic()
        self.received = self.site.validate(self.model, self.round)
        self.seconds = {"aggregated_model_validation": time.monotonic() - began}
        self.next(self.train)

    @collaborator
    def train(self) -> None:
        """Train the global model on the site's data."""
        began = time.monotonic()
        self.report = self.site.train(self.model, self.round)
        self.seconds["train"] = time.monotonic() - began
        self.next(self.local_model_validation)

    @collaborator
    def local_model_validation(self) -> None:
        """Validate the locally trained model and hand it over."""
        began = time.monotonic()
        validated = self.site.validate_local(self.round)
        trained = self.site.finish_round(self.round)
        self.seconds["local_model_validation"] = time.monotonic() - began
        delivery = self.site.uplink.deliver(
            trained, self.model, self.round, num_samples=self.report.num_samples
        )
        self.seconds["encode"] = delivery.seconds
        self.contribution = Contribution(
            update=Update(
                site=self.site.name,
                state=delivery.state,
                num_samples=self.report.num_samples,
                num_steps=self.report.num_steps,
            ),
            received=self.received,
            trained={**self.report.metrics, **self.site.uplink.spent()},
            validated=validated,
            seconds=self.seconds,
            peak_rss_bytes=peak_rss_bytes(),
            frames_bytes=delivery.bytes_up,
            frames=delivery.frames,
            bytes_up=delivery.bytes_up,
        )
        self.next(self.join)

    @aggregator
    def join(self, inputs: Sequence[Any]) -> None:
        """Join the sites' models into the next global model; go on or end."""
        contributions = [site.contribution for site in inputs]
        for site in inputs:
            site.contribution = None
        self.model = self.aggregation.join(self.model, contributions)
        self.round += 1
        if self.round <= self.rounds:
            self.next(self.aggregated_model_validation, foreach="sites")
        else:
            self.next(self.end)

    @aggregator
    def end(self) -> None:
        """Nothing is left to do: the last round is committed."""
