"""The error of a site that keeps its update to itself."""


class WithheldError(ValueError):
    """What is asked of a site would give away too much, or cannot be sent as it has to be."""
