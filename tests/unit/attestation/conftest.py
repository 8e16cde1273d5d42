"""One maker of processors, and parties that show what it has signed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from openfl_flows.attestation.claims import Claims, claims_bytes, report_data
from openfl_flows.attestation.evidence import Evidence
from openfl_flows.attestation.policy import policy_of
from openfl_flows.attestation.verify import Verified, verify
from tests.quoted_bytes import DOMAIN, ENCLAVE, Domain, Enclave
from tests.quoting_authority import (
    AS_IT_SHOULD_BE,
    Authority,
    Judgement,
    policy_document,
    sgx_alternative,
    tdx_alternative,
)

PLAN, POLICY = "ab" * 48, "cd" * 32
OWN = Claims(
    role="collaborator", name="site-1", federation=PLAN, policy=POLICY, key=bytes(range(32))
)


@dataclass(frozen=True, kw_only=True)
class Party:
    """A party whose evidence is verified, as it should be but for what is replaced."""

    authority: Authority
    claims: Claims = OWN

    def shows(
        self,
        of: Enclave | Domain = ENCLAVE,
        *,
        quoted: Callable[[bytes], bytes] = bytes,
        claims: Claims | None = None,
        said: bytes | None = None,
    ) -> Evidence:
        """Evidence, its quote passed through ``quoted``."""
        content = claims_bytes(claims or self.claims)
        data = report_data(content) if said is None else said
        if isinstance(of, Enclave):
            quote, kind = self.authority.sgx(data, of), "sgx"
        else:
            quote, kind = self.authority.tdx(data, of), "tdx"
        return Evidence(kind=kind, quote=quoted(quote), claims=content)

    def verified(
        self,
        evidence: Evidence,
        *,
        judgement: Judgement = AS_IT_SHOULD_BE,
        policy: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Verified:
        """The verdict of another party."""
        document = policy_document(
            self.authority, roles={"collaborator": [sgx_alternative(), tdx_alternative(DOMAIN)]}
        )
        expected: dict[str, Any] = {
            "role": "collaborator",
            "name": "site-1",
            "federation": PLAN,
            "policy_digest": POLICY,
            "public_key_sha256": OWN.key,
            "collateral": self.authority.collateral(evidence.kind, judgement),
            "now": self.authority.now,
        }
        return verify(
            evidence, policy_of({**document, **(policy or {})}), **{**expected, **changes}
        )


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def party(authority: Authority) -> Party:
    return Party(authority=authority)


def claiming(**changes: Any) -> Claims:
    """The claims of the party, but for these."""
    return replace(OWN, **changes)
