"""What a probe found: green or red, in words, and what to do about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import ConfigDict, StrictBool

KEPT_AT_SITE = "what was found stays at the site: it may tell of its data"
"""What leaves the site in place of a private finding."""


@dataclass(frozen=True, kw_only=True)
class SentFinding:
    """A finding as it leaves the site; see :class:`Finding`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    probe: str
    green: StrictBool
    found: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one probe.

    Attributes:
        probe: Its name.
        green: Whether nothing is in the way.
        found: What was found, in one line, with file or key.
        remedy: What to do where it is red; it leaves the site, so it names nothing of the data.
        private: Whether ``found`` may quote or count data of the site, and so must not leave it.
    """

    probe: str
    green: bool
    found: str
    remedy: str = ""
    private: bool = False

    def sent(self) -> SentFinding:
        """What of it leaves the site."""
        found = KEPT_AT_SITE if self.private else self.found
        remedy = "" if self.green else self.remedy
        return SentFinding(probe=self.probe, green=self.green, found=found, remedy=remedy)


def probed(probe: str, look: Callable[[], str], *, remedy: str, private: bool = False) -> Finding:
    """Look, and be red where that raises what a user got wrong.

    Args:
        probe: Name of the probe.
        look: Returns what it found.
        remedy: What to do where it raises.
        private: Whether what it returns or raises may tell of data of the site.
    """
    try:
        return Finding(probe=probe, green=True, found=look(), private=private)
    except (ValueError, OSError) as error:
        found = " ".join(str(error).split()) or type(error).__name__
        return Finding(probe=probe, green=False, found=found, remedy=remedy, private=private)


def to_text(findings: Sequence[Finding]) -> str:
    """A table to read, a line for each probe and one more for each remedy."""
    width = max((len(finding.probe) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(
            f"{finding.probe:<{width}}  {'green' if finding.green else 'RED  '}  {finding.found}"
        )
        if not finding.green and finding.remedy:
            lines.append(f"{'':{width}}         remedy: {finding.remedy}")
    return "\n".join(lines)


def in_bytes(count: float) -> str:
    """A number of bytes to read."""
    if count >= 1e8:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.2f} MB" if count >= 1e4 else f"{count:.0f} bytes"
