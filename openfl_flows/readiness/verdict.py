"""A site's verdict on itself, signed with the key of its certificate."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cryptography import x509
from pydantic import ConfigDict, StrictFloat

from openfl_flows.experiment import check
from openfl_flows.pki import signing
from openfl_flows.pki.plan import Party
from openfl_flows.readiness.findings import SentFinding

FORMAT = "openfl_flows.readiness/1"
MAX_BYTES = 2**18
"""A verdict is larger than this only by malice."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a site says of itself.

    Attributes:
        format: Of this document.
        site: Its name.
        plan: SHA-384 of the plan that it has.
        time: Unix time at which it looked, by its own clock.
        findings: One of each probe.
        digests: What must be equal elsewhere, by name, e.g. ``spec`` and ``frozen``.
        measured: Numbers, by name with unit, e.g. ``upload_bytes_per_second``.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    format: str = FORMAT
    site: str
    plan: str
    time: StrictFloat
    findings: Sequence[SentFinding]
    digests: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def red(self) -> list[SentFinding]:
        """What is in the way."""
        return [finding for finding in self.findings if not finding.green]


def signed(verdict: Verdict, workspace: Path) -> bytes:
    """The verdict with the site's signature and certificates.

    Args:
        verdict: The verdict.
        workspace: The site's, with its key.

    Raises:
        ValueError: Key or certificate is missing or not readable.
    """
    party = Party(role="collaborator", name=verdict.site)
    return signing.signed(asdict(verdict), workspace, party)


def verified(
    content: bytes,
    site: str,
    roots: Sequence[x509.Certificate],
    *,
    now: dt.datetime | None = None,
) -> Verdict:
    """The verdict in what a site sent, once it is sure that the site has signed it.

    Args:
        content: What :func:`signed` made.
        site: Who sent it.
        roots: What is trusted.
        now: The moment at which its certificate must be valid; this one by default.

    Raises:
        ValueError: It is no verdict, is not the site's, or its signature is wrong.
    """
    what, party = f"verdict of {site!r}", Party(role="collaborator", name=site)
    try:
        said = signing.said_by(content, party, roots, most_bytes=MAX_BYTES, now=now)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    verdict: Verdict = check(what, Verdict, said)
    if verdict.format != FORMAT:
        raise ValueError(f"{what} has format {verdict.format!r}, expected {FORMAT!r}")
    if verdict.site != site:
        raise ValueError(f"{what} is one of {verdict.site!r}, expected its own")
    texts = [text for f in verdict.findings for text in (f.probe, f.found, f.remedy)]
    if not all(map(str.isprintable, [*texts, *verdict.digests.values()])):
        # They are shown in logs and terminals.
        raise ValueError(f"{what} has control characters, expected lines of text")
    return verdict
