"""Resident memory of this process."""

import resource


def peak_rss_bytes() -> int:
    """The most memory this process ever held, in bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
