"""What the parties have agreed on about being ready: ``network.readiness`` in the plan."""

from dataclasses import dataclass

from pydantic import ConfigDict

LARGEST_PROBE_MIB = 32
"""A probe is one message, as a bucket of the model is."""

_LEAST = {
    "least_sites": 1,
    "wait_seconds": 0,
    "cycle_rounds": 1,
    "max_age_seconds": 60,
    "max_clock_skew_seconds": 1,
    "probe_mib": 0,
    "disk_models": 1,
}


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """When a federation may begin.

    Attributes:
        required: Whether a round waits for green verdicts; with false, it begins with whoever
            comes.
        least_sites: With how many sites a cycle may begin once ``wait_seconds`` are over; None for
            all of them, however long that takes.
        wait_seconds: How long a cycle waits for the sites beyond ``least_sites``.
        cycle_rounds: Rounds of a cycle. A site that comes late takes part from the next cycle on.
            None for one cycle that is as long as the run.
        max_age_seconds: Age at which a verdict is too old to begin with.
        max_clock_skew_seconds: How far a site's clock may be from the aggregator's.
        probe_mib: The most that a bandwidth probe moves each way, MiB; 0 for no such probe.
        least_mbit: Mbit/s, each way, below which a site's line is too thin; None for any line.
        disk_models: Free disk space that a site needs, in sizes of the model.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    required: bool = True
    least_sites: int | None = None
    wait_seconds: int = 600
    cycle_rounds: int | None = None
    max_age_seconds: int = 3600
    max_clock_skew_seconds: int = 30
    probe_mib: int = 8
    least_mbit: float | None = None
    disk_models: int = 8

    def __post_init__(self) -> None:
        """Refuse what no federation could keep to."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value}, expected at least {least}")
        if self.probe_mib > LARGEST_PROBE_MIB:
            raise ValueError(f"probe_mib={self.probe_mib}, expected at most {LARGEST_PROBE_MIB}")
        if self.least_mbit is not None and not self.least_mbit > 0:
            raise ValueError(f"least_mbit={self.least_mbit}, expected above 0")
        if self.least_mbit is not None and not self.probe_mib:
            raise ValueError(f"least_mbit={self.least_mbit} with probe_mib=0, which measures none")

    def cycle(self, round_: int) -> int:
        """The cycle in which a round lies: rounds count from 1, cycles from 0."""
        return 0 if self.cycle_rounds is None else (round_ - 1) // self.cycle_rounds
