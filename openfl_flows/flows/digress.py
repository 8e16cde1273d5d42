"""Federated DiGress: the federated flow under the model's name."""

from openfl_flows.flows.federated import FederatedFlow


class DigressFlow(FederatedFlow):
    """Denoiser and property regressor, trained concurrently at every site and joined together."""
