"""A site's verdict on itself, signed with the key of its certificate.

``{"verdict": ..., "signature": ..., "certificates": ...}`` as canonical JSON: sorted keys, no
spaces, ASCII. What is signed are the bytes of the verdict alone, in the same form: ECDSA with
SHA-384 where the key is on a curve, RSA-PSS with SHA-384 else.
"""

import base64
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from pydantic import ConfigDict, StrictFloat

from openfl_flows.experiment import check
from openfl_flows.pki.files import read
from openfl_flows.pki.party import read_certificates
from openfl_flows.pki.plan import Party
from openfl_flows.pki.verify import verified_chain
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
    path = party.file(workspace, ".key")
    try:
        key = serialization.load_pem_private_key(read(path, "the site's key"), password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not readable, expected the site's key: {error}") from None
    document = asdict(verdict)
    content = canonical(document)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(content, ec.ECDSA(hashes.SHA384()))
    elif isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(content, _PSS, hashes.SHA384())
    else:
        raise ValueError(f"{path}: not a key that can sign, expected one on a curve, or RSA")
    certificate = party.file(workspace, ".crt")
    return canonical(
        {
            "verdict": document,
            "signature": base64.b64encode(signature).decode(),
            "certificates": read(certificate, "the site's certificate").decode(),
        }
    )


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
    document = _parsed(content, site)
    verdict: Verdict = check(f"verdict of {site!r}", Verdict, document["verdict"])
    if verdict.format != FORMAT:
        raise ValueError(f"verdict of {site!r} has format {verdict.format!r}, expected {FORMAT!r}")
    if verdict.site != site:
        raise ValueError(f"verdict of {site!r} is one of {verdict.site!r}, expected its own")
    leaf, *others = read_certificates(
        document["certificates"].encode(), f"verdict of {site!r}, certificates"
    )
    try:
        verified_chain(Party(role="collaborator", name=site), leaf, others, roots, now=now)
    except ValueError as error:
        raise ValueError(f"verdict of {site!r}: {error}") from None
    try:
        signature = base64.b64decode(document["signature"], validate=True)
        _check_signature(leaf, signature, canonical(document["verdict"]))
    except (InvalidSignature, ValueError):
        raise ValueError(
            f"verdict of {site!r}: the signature is not of the key in its certificate, expected "
            "a verdict as the site signed it"
        ) from None
    texts = [text for f in verdict.findings for text in (f.probe, f.found, f.remedy)]
    if not all(map(str.isprintable, [*texts, *verdict.digests.values()])):
        # They are shown in logs and terminals.
        raise ValueError(f"verdict of {site!r} has control characters, expected lines of text")
    return verdict


def canonical(document: Mapping[str, Any]) -> bytes:
    """A document as bytes, the same for equal documents."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), padding.PSS.DIGEST_LENGTH)


def _parsed(content: bytes, site: str) -> dict[str, Any]:
    what = f"verdict of {site!r}"
    if len(content) > MAX_BYTES:
        raise ValueError(f"{what} has {len(content)} bytes, expected at most {MAX_BYTES}")
    try:
        document = json.loads(content, object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not readable as JSON: {error}") from None
    if not isinstance(document, dict) or document.keys() != {
        "verdict", "signature", "certificates",
    }:  # fmt: skip
        raise ValueError(f"{what}: expected a verdict, a signature and certificates")
    if not all(isinstance(document[key], str) for key in ("signature", "certificates")):
        raise ValueError(f"{what}: signature and certificates, expected text")
    return document


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _check_signature(leaf: x509.Certificate, signature: bytes, content: bytes) -> None:
    key = leaf.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, content, ec.ECDSA(hashes.SHA384()))
    elif isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, content, _PSS, hashes.SHA384())
    else:
        raise InvalidSignature
