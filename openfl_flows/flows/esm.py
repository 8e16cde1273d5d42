"""Federated ESM-2: the federated flow under the model's name."""

from openfl_flows.flows.federated import FederatedFlow


class EsmFlow(FederatedFlow):
    """What of ESM-2 trains — head, adapters, or all of it — at every site, joined together."""
