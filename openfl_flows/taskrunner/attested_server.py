"""The aggregator's side of attestation: proves itself to sites, and lets in those that have come.

Its TLS key is made at start and never in a file. The certificate that carries its evidence is made
anew, with another key, before it ends; so a site that loses its connection attests again.

Where sites are attested, too, their keys are made in enclaves as well, and certified for hours by
an authority that lives in this process only. With a certificate of the consortium's authority a
site can do one thing: arrive. All else takes one of this authority's.
"""

import datetime as dt
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from openfl.transport.grpc import common

from openfl_flows.attestation.evidence import (
    digest,
    evidence_certificate,
    from_bytes,
    to_bytes,
)
from openfl_flows.ops.standings import note_standing
from openfl_flows.pki.certificates import (
    common_name,
    key_pem,
    leaf_certificate,
    new_key,
    pem,
    read_request,
    root_certificate,
)
from openfl_flows.pki.files import read
from openfl_flows.pki.party import CHAIN, read_certificates
from openfl_flows.pki.plan import Party, aggregator_of
from openfl_flows.strict_json import canonical
from openfl_flows.taskrunner.arrival import Arrival, Welcome, verified
from openfl_flows.taskrunner.attested import NOT_ATTESTED
from openfl_flows.taskrunner.attested_party import AttestedParty, in_words, rules_of
from openfl_flows.taskrunner.workspace import WorkspacePlan, read_workspace

logger = logging.getLogger(__name__)

_AUTHORITY_DAYS = 3650
_KEPT = 4


def attested_server(workspace: Path, standings: Path) -> "AttestedServer | None":
    """The aggregator's part of attestation; None, and a loud warning, where the plan has none.

    Args:
        workspace: The aggregator's.
        standings: Folder where sites' standings are kept for the ledger.

    Raises:
        ValueError: The policy cannot be used, or nothing here gives quotes.
    """
    plan = read_workspace(workspace)
    if not rules_of(plan).asked:
        logger.warning(NOT_ATTESTED)
        return None
    return AttestedServer(workspace, standings, plan)


class AttestedServer:
    """Credentials of the aggregator's server, and the sites that have arrived at it.

    Args:
        workspace: The aggregator's.
        standings: Folder where sites' standings are kept for the ledger.
        plan: What the workspace says; it asks for attestation.

    Raises:
        ValueError: The policy cannot be used, or nothing here gives quotes.
    """

    def __init__(self, workspace: Path, standings: Path, plan: WorkspacePlan) -> None:
        self._party = AttestedParty(workspace, aggregator_of(workspace), plan)
        self._federation, self._standings = plan.hash, standings
        self._host = plan.config["network"]["agg_addr"]
        self._chain = read(workspace / CHAIN, "the roots to trust")
        self._roots = read_certificates(self._chain, str(CHAIN))
        self._hours = self._party.rules.certificate_hours
        self._key = new_key()
        now = dt.datetime.now(dt.UTC)
        self._authority = root_certificate(
            self._key, start=now, end=now + dt.timedelta(days=_AUTHORITY_DAYS)
        )
        self._shown: list[tuple[str, bytes]] = []
        self._certificates: dict[str, bytes] = {}
        self._arrived: set[str] = set()
        self._turn = threading.Lock()
        self._pair, self._made = self._new_pair(), now
        logger.info(
            "Attested: policy %s, federation %s; %s", self._party.policy[:16], plan.hash[:16],
            "sites have to be, too" if self._party.rules.of_sites else "sites need not be",
        )  # fmt: skip

    def create_server(self, uri: str, *_: Any) -> grpc.Server:
        """OpenFL's server, with credentials that are never in a file.

        Args:
            uri: Where it listens.
        """
        server = grpc.server(
            common.ThreadPoolExecutor(max_workers=8), options=common.DEFAULT_CHANNEL_OPTIONS
        )
        credentials = grpc.dynamic_ssl_server_credentials(
            self._configuration(), self._renewed, require_client_authentication=True
        )
        server.add_secure_port(uri, credentials)
        return server

    def arrive(self, site: str, content: bytes) -> None:
        """Take what a site sends first.

        Args:
            site: The common name of the certificate that it sent it with.
            content: An :class:`Arrival`, signed.

        Raises:
            ValueError: It is not the site's, not about this server's evidence, or its own
                evidence is not accepted.
        """
        arrival = verified(content, site, self._federation, self._roots)
        found = str(arrival.verdict.get("evidence")), arrival.verdict.get("policy")
        shown = dict(self._shown).get(found[0])
        if shown is None or found[1] != self._party.policy:
            raise ValueError(
                f"arrival of {site!r} refused: its verdict is on evidence {found[0][:16]} by "
                f"policy {str(found[1])[:16]}, expected this server's by "
                f"{self._party.policy[:16]}"
            )
        own = None
        if self._party.rules.of_sites:
            own = self._enrol(site, arrival)
        verdicts = {"aggregator": dict(arrival.verdict), "site": own}
        note_standing(self._standings, site, verdicts, signed=content, evidence=shown)
        self._arrived.add(site)
        logger.info(
            "%s has attested this aggregator%s", site,
            "" if own is None else f" and is attested: {in_words(own)}",
        )  # fmt: skip

    def answer(self, site: str, round_: int, digest: str) -> bytes:
        """What a site is told that has arrived: see :class:`Welcome`.

        Args:
            site: The site.
            round_: How many rounds have made the model at hand.
            digest: Its digest.

        Raises:
            ValueError: It has not arrived.
        """
        if site not in self._arrived:
            raise ValueError(f"{site!r} has not arrived, expected that first")
        certificate = self._certificates.get(site, b"").decode()
        return canonical(asdict(Welcome(round=round_, digest=digest, certificate=certificate)))

    def why_not(self, site: str, peer: bytes) -> str | None:
        """Why a call cannot be taken that is no arrival; None if it can.

        Args:
            site: Who calls.
            peer: The certificate that it calls with, in PEM.
        """
        if site not in self._arrived:
            return f"{site!r} has not arrived since this aggregator has started: attest it first"
        return self._foreign(site, peer) if self._party.rules.of_sites else None

    def _foreign(self, site: str, peer: bytes) -> str | None:
        leaf = x509.load_pem_x509_certificate(peer)
        try:
            leaf.verify_directly_issued_by(self._authority)
        except (ValueError, TypeError, InvalidSignature):
            return (
                f"{site!r} calls with a certificate of {leaf.issuer.rfc4514_string()}, expected "
                "one that was issued for the evidence of its enclave"
            )
        if common_name(leaf) != site or leaf.not_valid_after_utc < dt.datetime.now(dt.UTC):
            return f"the certificate of {site!r} has ended, or is another site's"
        return None

    def _enrol(self, site: str, arrival: Arrival) -> Mapping[str, Any]:
        """Judge a site's evidence and certify its key."""
        party = Party(role="collaborator", name=site)
        try:
            key = read_request(arrival.request.encode())
            standing = self._party.verdict(party, from_bytes(arrival.evidence.encode()), key)
        except ValueError as error:
            raise ValueError(
                f"arrival of {site!r} refused: {error} (policy {self._party.policy[:16]})"
            ) from None
        now = dt.datetime.now(dt.UTC)
        leaf = leaf_certificate(
            party, key, self._authority, self._key,
            start=now, end=now + dt.timedelta(hours=self._hours),
        )  # fmt: skip
        self._certificates[site] = pem(leaf, self._authority)
        return standing

    def _new_pair(self) -> tuple[bytes, bytes]:
        """A new key and the certificate with evidence of it, in PEM."""
        key = new_key()
        evidence = self._party.evidence(key)
        certificate = evidence_certificate(evidence, key, self._host, hours=self._hours)
        try:
            self._party.verdict_on_aggregator(certificate)
        except ValueError as error:
            # It is for the sites to judge, who may have newer collateral.
            logger.warning("This aggregator would not trust itself: %s", error)
        self._shown = [*self._shown[1 - _KEPT :], (digest(evidence), to_bytes(evidence))]
        return key_pem(key), pem(certificate)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        roots = self._chain + pem(self._authority)
        return grpc.ssl_server_certificate_configuration((self._pair,), root_certificates=roots)

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Another certificate once half the time of this one is over; None to keep it."""
        now = dt.datetime.now(dt.UTC)
        with self._turn:
            if now - self._made < dt.timedelta(hours=self._hours) / 2:
                return None
            try:
                self._pair, self._made = self._new_pair(), now
            except ValueError:
                logger.exception("No new evidence; the certificate at hand is kept")
                return None
            return self._configuration()
