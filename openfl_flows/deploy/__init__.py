"""Containers, charts and units for the parties of a workspace, written out to be read and run."""
