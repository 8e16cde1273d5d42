"""Metrics of each modality, each with a merge over sites."""
