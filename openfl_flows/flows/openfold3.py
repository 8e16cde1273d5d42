"""Federated OpenFold3: the federated flow under the model's name."""

from openfl_flows.flows.federated import FederatedFlow


class OpenFold3Flow(FederatedFlow):
    """Co-folding fine-tuned for H optimizer steps a round at every site, then joined."""
