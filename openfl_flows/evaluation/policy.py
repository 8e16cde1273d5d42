"""What is measured in a federated evaluation, and what of it may leave a site."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import ConfigDict

CANDIDATE, BASELINE, LOCAL = "candidate", "baseline", "local"
"""The models that are measured: every site has the first two, and one of its own."""

SITE = "{site}"
"""Stands for the name of a site in the names of files that each site has of its own."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A plan's group ``evaluation``.

    Attributes:
        metrics: Names of the metrics that may leave a site; ``*`` stands for any letters.
        candidate: File of the model that may be released.
        baseline: File of a public model to compare it with, or None.
        local: File of the model that a site trained alone, with ``{site}`` for its name, or None.
            In a federation it lies in the site's data folder and never leaves it.
        benchmark: Folder of a site's benchmark, with ``{site}`` for its name; None for the test
            part of the site's own data. Of simulations: a federation's sites say where their data
            lie.
        floor: The least samples that a number which leaves a site stands for.
        digits: Significant digits of the sums that leave; counts leave as they are.
        per_site: Whether the record has a row for every site, beside those of all sites together.
        candidate_digest: Digest that the candidate must have, None where any will do.
        baseline_digest: Digest that the baseline must have, likewise.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    metrics: tuple[str, ...]
    candidate: Path | None = None
    baseline: Path | None = None
    local: str | None = None
    benchmark: str | None = None
    floor: int = 10
    digits: int = 6
    per_site: bool = False
    candidate_digest: str | None = None
    baseline_digest: str | None = None

    def __post_init__(self) -> None:
        """Refuse a list that allows nothing, and limits that protect nobody."""
        if not self.metrics or not all(self.metrics):
            raise ValueError(
                f"evaluation.metrics={list(self.metrics)}, expected the names that may leave a site"
            )
        if self.floor < 2:
            raise ValueError(
                f"evaluation.floor={self.floor}, expected at least 2: a sum over one sample is "
                "that sample's value"
            )
        if not 3 <= self.digits <= 15:
            raise ValueError(f"evaluation.digits={self.digits}, expected 3 to 15")
        for name in ("local", "benchmark"):
            value = getattr(self, name)
            if value is not None and SITE not in value:
                raise ValueError(
                    f"evaluation.{name}={value!r}, expected a path with {SITE} in it: it is "
                    "another one at every site"
                )

    @property
    def models(self) -> tuple[str, ...]:
        """Which models are measured, the candidate first."""
        others = ((BASELINE, self.baseline), (LOCAL, self.local))
        return (CANDIDATE, *(name for name, file in others if file is not None))

    def allows(self, metric: str) -> bool:
        """Whether a metric of this name may leave a site."""
        return any(fnmatchcase(metric, pattern) for pattern in self.metrics)

    def at(self, site: str, pattern: str) -> Path:
        """The file or folder that a pattern of this plan names for one site."""
        return Path(pattern.replace(SITE, site))

    def warnings(self, sites: Sequence[str]) -> list[str]:
        """What the parties should know before anything leaves a site."""
        if len(sites) == 2:
            return [
                "2 sites: whoever has a row of both together and its own has the other's; "
                "expected 3 or more for rows that hide a site"
            ]
        return []
