"""The certificates of a workspace as they are: whose, until when, and what is wrong with them."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from openfl_flows.pki.certificates import common_name, fingerprint
from openfl_flows.pki.files import read
from openfl_flows.pki.party import CHAIN, read_certificates, read_public_key
from openfl_flows.pki.plan import Party, parties_of
from openfl_flows.pki.verify import verified_chain

MIN_DAYS = 7
"""Days that a certificate must still last, or it is time to replace it."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One certificate in a workspace.

    Attributes:
        role: ``root``, ``aggregator`` or ``collaborator``.
        name: Common name of the root, or name of the party.
        issuer: Common name of its issuer.
        expires: When it ends, UTC.
        fingerprint: SHA-256.
        finding: What is wrong, in one line; None for nothing.
    """

    role: str
    name: str
    issuer: str
    expires: dt.datetime
    fingerprint: str
    finding: str | None

    def __str__(self) -> str:
        return (
            f"{self.role:12} {self.name}  issuer {self.issuer}  "
            f"expires {self.expires:%Y-%m-%d %H:%M} UTC  SHA-256 {self.fingerprint}"
        )


def check_workspace(
    workspace: Path, *, days: int = MIN_DAYS, now: dt.datetime | None = None
) -> list[Standing]:
    """Look at every certificate of a workspace: the roots and the plan's parties that are there.

    Args:
        workspace: The workspace.
        days: How long each must still last.
        now: The moment to judge at; this one by default.

    Raises:
        ValueError: There is no plan or no certificate of its parties, or a file is not readable.
    """
    now = now or dt.datetime.now(dt.UTC)
    found = [p for p in parties_of(workspace) if p.file(workspace, ".crt").exists()]
    if not found:
        raise ValueError(f"{workspace / 'cert'}: no certificate of a party of the plan")
    roots = _certificates(workspace / CHAIN, "the roots to trust")
    return [
        *(_standing("root", common_name(root), root, _ending([root], now, days)) for root in roots),
        *(check_party(workspace, party, days=days, now=now) for party in found),
    ]


def check_party(
    workspace: Path, party: Party, *, days: int = MIN_DAYS, now: dt.datetime | None = None
) -> Standing:
    """Look at one party's key and certificate, as :func:`check_workspace` does.

    Raises:
        ValueError: A file is missing or not readable.
    """
    now = now or dt.datetime.now(dt.UTC)
    path = party.file(workspace, ".crt")
    leaf, *others = _certificates(path, f"the certificate of {party}")
    roots = _certificates(workspace / CHAIN, "the roots to trust")
    try:
        chain = verified_chain(party, leaf, others, roots, now=now)
        finding = _key_finding(workspace, party, leaf) or _ending(chain, now, days)
    except ValueError as error:
        finding = str(error)
    return _standing(party.role, party.name, leaf, finding and f"{path}: {finding}")


def _key_finding(workspace: Path, party: Party, leaf: x509.Certificate) -> str | None:
    path = party.file(workspace, ".key")
    if read_public_key(path) != leaf.public_key():
        return f"not of the key in {path}, expected the same: run `pki install` again"
    rights = path.stat().st_mode & 0o777
    if rights & 0o077:
        return f"{path} has rights {rights:04o}, expected 0600"
    if (workspace / "cert" / "ca").exists():
        return "the keys of a CA are in cert/ca, expected them outside of every workspace"
    return None


def _ending(chain: list[x509.Certificate], now: dt.datetime, days: int) -> str | None:
    first = min(chain, key=lambda certificate: certificate.not_valid_after_utc)
    if first.not_valid_after_utc - now >= dt.timedelta(days=days):
        return None
    return (
        f"{common_name(first)} ends on {first.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, "
        f"expected {days} more days: replace it"
    )


def _certificates(path: Path, what: str) -> list[x509.Certificate]:
    return read_certificates(read(path, what), str(path))


def _standing(role: str, name: str, certificate: x509.Certificate, finding: str | None) -> Standing:
    issuer = certificate.issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return Standing(
        role=role,
        name=name,
        issuer=str(issuer[0].value) if issuer else certificate.issuer.rfc4514_string(),
        expires=certificate.not_valid_after_utc,
        fingerprint=fingerprint(certificate),
        finding=finding,
    )
