"""What a site sends first to an aggregator that it has attested: its verdict, and itself.

It is signed with the key of the site's own certificate. ``verdict`` is the site's on the
aggregator's evidence. Where the sites run in enclaves, too, ``request`` is a signing request for a
key that was made there, and ``evidence`` proves it; they are empty elsewhere. It goes by OpenFL's
own calls, as the result of a task of this name; the answer is fetched as a tensor: where the
federation is, and the certificate of the key in ``request``.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography import x509
from pydantic import ConfigDict, StrictInt, StrictStr

from openfl_flows.experiment import check
from openfl_flows.pki import signing
from openfl_flows.pki.plan import Party

ARRIVAL = "arrival"
"""Name of the task whose result this is, and tag of the certificate that answers it."""
FORMAT = "openfl_flows.arrival/1"
MAX_BYTES = 2**20
"""Nothing larger is taken from a site that has not arrived."""

Value = StrictStr | int | Sequence[StrictStr] | None


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """What a site says.

    Attributes:
        format: Of this document.
        site: Its name.
        federation: SHA-384 of the plan.
        verdict: On the aggregator.
        request: PEM of a signing request; empty where sites are not attested.
        evidence: As :func:`openfl_flows.attestation.evidence.to_bytes` writes it; empty likewise.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    format: StrictStr = FORMAT
    site: StrictStr
    federation: StrictStr
    verdict: Mapping[str, Value]
    request: StrictStr = ""
    evidence: StrictStr = ""


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """What the aggregator answers, where the site has seen no more of it than its evidence.

    Attributes:
        round: How many rounds have made the model at hand.
        digest: Its digest.
        certificate: PEM of that of the key in :attr:`Arrival.request`; empty without one.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    round: StrictInt
    digest: StrictStr
    certificate: StrictStr = ""


def signed(arrival: Arrival, workspace: Path) -> bytes:
    """What is sent: the document with the site's signature and certificates.

    Raises:
        ValueError: Key or certificate is missing or not readable.
    """
    party = Party(role="collaborator", name=arrival.site)
    return signing.signed(asdict(arrival), workspace, party)


def verified(
    content: bytes,
    site: str,
    federation: str | None,
    roots: Sequence[x509.Certificate],
    *,
    now: dt.datetime | None = None,
) -> Arrival:
    """The document in what a site sent, once it is sure that the site has signed it.

    Args:
        content: What it sent.
        site: Its name.
        federation: SHA-384 of the plan; None for whichever it says.
        roots: What is trusted.
        now: When its certificate has to be valid; at this moment by default.

    Raises:
        ValueError: It is not the site's, of another federation, or no such document.
    """
    what, party = f"arrival of {site!r}", Party(role="collaborator", name=site)
    try:
        said = signing.said_by(content, party, roots, most_bytes=MAX_BYTES, now=now)
        arrival: Arrival = check("said", Arrival, said)
        expected = FORMAT, site, federation or arrival.federation
        if (arrival.format, arrival.site, arrival.federation) != expected:
            raise ValueError(
                f"of another format, site or federation, expected {FORMAT} and its own"
            )
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    texts = [text for value in arrival.verdict.values() for text in (value, *_listed(value))]
    if not all(text.isprintable() for text in texts if isinstance(text, str)):
        raise ValueError(f"{what}: its verdict has control characters, expected lines of text")
    return arrival


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()
