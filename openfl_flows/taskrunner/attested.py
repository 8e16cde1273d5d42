"""What a plan says about attestation, and by what a party judges the evidence of another.

The plan is measured, and so cannot hold the measurements that it leads to: those are in a policy of
its own, signed by the signers that the plan names, which each party has in its workspace::

    attestation/policy.yaml      the policy
    attestation/policy.sig       its signatures
    attestation/policy.sha256    this party's own pin of it
    attestation/collateral.json  what Intel's quotes are verified with
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ConfigDict

from openfl_flows.pki.plan import Party
from openfl_flows.release.keys import Signers, signers_of

Required = Literal["none", "aggregator", "both"]

NOT_ATTESTED = (
    "NO ATTESTATION: network.attestation.required=none, so nobody proves to anybody what runs at "
    "the aggregator; whoever controls its machine can read and change every update"
)
"""What is said of a plan that asks for none."""


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """What the parties agreed on: ``network.attestation`` in the plan.

    Attributes:
        required: Who has to prove what runs there: nobody, the aggregator, or the sites, too.
        quoter: Name of what makes evidence at the aggregator.
        site_quoter: The same at the sites, or by site; None, and where a site is not named, for
            the aggregator's.
        signers: Who signs the policy: in a composed plan the path of their file, in a workspace's
            plan what is in it.
        certificate_hours: How long certificates last whose keys were made in an enclave.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    required: Required = "none"
    quoter: str = "gramine"
    site_quoter: str | Mapping[str, str] | None = None
    signers: str | Mapping[str, Any] | None = None
    certificate_hours: int = 24

    def __post_init__(self) -> None:
        """Refuse what cannot be fulfilled."""
        if self.required != "none" and self.signers is None:
            raise ValueError(
                f"required={self.required} with signers=null, expected the file of those who sign "
                "the policy"
            )
        if self.certificate_hours < 1:
            raise ValueError(f"certificate_hours={self.certificate_hours}, expected at least 1")

    @property
    def asked(self) -> bool:
        """Whether anybody has to prove anything."""
        return self.required != "none"

    @property
    def of_sites(self) -> bool:
        """Whether sites have to."""
        return self.required == "both"

    def quoter_of(self, party: Party) -> str:
        """Name of what makes a party's evidence."""
        if party.role == "aggregator":
            return self.quoter
        if isinstance(self.site_quoter, str):
            return self.site_quoter
        return (self.site_quoter or {}).get(party.name, self.quoter)

    def agreed_signers(self) -> Signers:
        """Who signs the policy.

        Raises:
            ValueError: The plan does not say.
        """
        try:
            return signers_of(self.signers)
        except ValueError as error:
            raise ValueError(f"network.attestation.signers: {error}") from None
