"""Federated training for drug discovery on OpenFL."""

__version__ = "0.1.0"
