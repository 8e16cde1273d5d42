"""One party of an attested federation: its evidence of itself, and its verdict on others."""

import datetime as dt
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from openfl_flows.attestation.claims import Claims, key_digest
from openfl_flows.attestation.evidence import Evidence, evidence_of
from openfl_flows.attestation.quoters import make_evidence, quoter
from openfl_flows.attestation.signed_policy import pinned_policy
from openfl_flows.attestation.verifiers import verifiers_of
from openfl_flows.attestation.verify import verify
from openfl_flows.experiment import check
from openfl_flows.pki.certificates import Key, new_key
from openfl_flows.pki.plan import Party
from openfl_flows.taskrunner.attested import Attestation
from openfl_flows.taskrunner.workspace import WorkspacePlan

COLLATERAL = Path("attestation", "collateral.json")
"""In a workspace, what Intel's quotes are verified with."""

Standing = Mapping[str, Any]
"""A verdict as ledgers have it: measurement, status, policy, evidence, time."""


def rules_of(plan: WorkspacePlan) -> Attestation:
    """What a plan says about attestation."""
    rules: Attestation = check(
        "network.attestation", Attestation, plan.config["network"].get("attestation", {})
    )
    return rules


class AttestedParty:
    """A party with the policy that it judges by.

    Args:
        workspace: Its folder.
        party: Who it is.
        plan: What the workspace says; it asks for attestation.

    Attributes:
        rules: What the plan says about attestation.
        party: Who it is.
        policy: SHA-256 of its policy's file, in hexadecimal.

    Raises:
        ValueError: The policy is missing, not signed, or not the one that was pinned.
    """

    def __init__(self, workspace: Path, party: Party, plan: WorkspacePlan) -> None:
        self.rules, self.party = rules_of(plan), party
        self._workspace, self._plan = workspace, plan
        self._policy, self.policy = pinned_policy(workspace, self.rules.agreed_signers())

    def evidence(self, key: Key) -> Evidence:
        """What proves that this party, as the plan and the policy have it, holds ``key``.

        Raises:
            ValueError: Nothing here gives quotes.
        """
        claims = Claims(
            role=self.party.role,
            name=self.party.name,
            federation=self._plan.hash,
            policy=self.policy,
            key=key_digest(key.public_key()),
        )
        return make_evidence(
            quoter(self.rules.quoter_of(self.party)), claims, workspace=self._workspace
        )

    def verdict(self, party: Party, evidence: Evidence, key: CertificatePublicKeyTypes) -> Standing:
        """Judge another party's evidence, or one's own.

        Args:
            party: Who it has to be.
            evidence: What it showed.
            key: The TLS key that it showed it with.

        Raises:
            RefusedEvidence: It is not accepted.
        """
        now, file = dt.datetime.now(dt.UTC), self._workspace / COLLATERAL
        verified = verify(
            evidence,
            self._policy,
            role=party.role,
            name=party.name,
            federation=self._plan.hash,
            policy_digest=self.policy,
            public_key_sha256=key_digest(key),
            # Read each time, because it is renewed as it ages.
            collateral=file.read_bytes() if file.is_file() else None,
            now=now,
            verifiers=verifiers_of(self._workspace),
        )
        return {
            "kind": verified.kind,
            "measurement": verified.measurement,
            "status": verified.status,
            "advisories": list(verified.advisories),
            "prod_id": verified.prod_id,
            "svn": verified.svn,
            "endorsements": list(verified.endorsements),
            "policy": verified.policy_sha256,
            "evidence": verified.evidence_sha256,
            "time": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        }

    def judge_itself(self) -> str:
        """What this party's own evidence proves, in a line.

        Raises:
            ValueError: Nothing here gives quotes, or its own policy does not accept them.
        """
        key = new_key()
        return in_words(self.verdict(self.party, self.evidence(key), key.public_key()))

    def verdict_on_aggregator(self, certificate: x509.Certificate) -> Standing:
        """Judge a server by the evidence in its certificate.

        Raises:
            RefusedEvidence: It is not this federation's aggregator as the policy has it.
        """
        party = Party(role="aggregator", name=self._plan.config["network"]["agg_addr"].lower())
        key: CertificatePublicKeyTypes = certificate.public_key()
        return self.verdict(party, evidence_of(certificate), key)


def in_words(standing: Standing) -> str:
    """A verdict in a line."""
    return (
        f"{standing['kind']} {standing['measurement'][:16]}, {standing['status']}, "
        f"policy {standing['policy'][:16]}"
    )


def own_enclave(workspace: Path, party: Party, plan: WorkspacePlan) -> Callable[[], str] | None:
    """Looks at what attestation needs of a party; None where the plan asks for none.

    Args:
        workspace: Its folder.
        party: Who it is.
        plan: What the workspace says.
    """
    rules = rules_of(plan)
    if not rules.asked:
        return None

    def look() -> str:
        own = AttestedParty(workspace, party, plan)
        if party.role == "aggregator" or rules.of_sites:
            return own.judge_itself()
        return f"policy {own.policy[:16]} is signed and pinned"

    return look
