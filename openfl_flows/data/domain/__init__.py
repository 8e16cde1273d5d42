"""Applicability domain: how far a molecule or protein is from what the sites trained on."""
