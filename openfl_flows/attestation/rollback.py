"""A signed statement that a federation may go back, and why: without it, attested sites refuse.

::

    attestation/rollback.json   {"format", "federation", "to_round", "digest", "reason"}
    attestation/rollback.sig    signatures of the signers that the plan names

It serves each site once: what went back with good reason goes on from there.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, StrictInt, StrictStr

from openfl_flows.atomic import write_atomically
from openfl_flows.attestation.policy import checked
from openfl_flows.attestation.refusal import one_line
from openfl_flows.attestation.signatures import add_signature, check_signatures, read_limited
from openfl_flows.ops.seen import Seen
from openfl_flows.release.keys import PrivateKey, Signers
from openfl_flows.strict_json import canonical, parse

STATEMENT = Path("attestation", "rollback.json")
SIGNATURES = Path("attestation", "rollback.sig")

_SUBJECT = "openfl_flows.rollback"


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """What the signers say.

    Attributes:
        format: Of this document.
        federation: SHA-384 of the plan.
        to_round: How many rounds the federation has behind it after going back.
        digest: Digest of the model after them.
        reason: Why, in a line.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    format: Literal["openfl_flows.rollback/1"] = "openfl_flows.rollback/1"
    federation: StrictStr
    to_round: StrictInt
    digest: StrictStr
    reason: StrictStr

    def __post_init__(self) -> None:
        """Refuse what says nothing."""
        if self.to_round < 0:
            raise ValueError(f"to_round={self.to_round}, expected 0 or more")
        for name, digits in (("federation", 96), ("digest", 64)):
            value = getattr(self, name)
            if len(value) != digits or not set(value) <= set("0123456789abcdef"):
                raise ValueError(f"{name}={value!r}, expected {digits} hexadecimal digits")
        if not self.reason.strip() or one_line(self.reason) != self.reason:
            raise ValueError(f"reason={self.reason!r}, expected a line that says why")


def sign_rollback(workspace: Path, rollback: Rollback, key: PrivateKey) -> str:
    """Write a statement into a workspace, or add a signature to the same one.

    Returns:
        SHA-256 of the statement.

    Raises:
        ValueError: What is there are no signatures.
    """
    content = canonical(asdict(rollback))
    file, signatures = workspace / STATEMENT, workspace / SIGNATURES
    if not file.is_file() or file.read_bytes() != content:
        signatures.unlink(missing_ok=True)
        write_atomically(file, content)
    digest = hashlib.sha256(content).hexdigest()
    add_signature(signatures, key, _SUBJECT, digest)
    return digest


def excuse(workspace: Path, signers: Signers, seen: Seen) -> str:
    """SHA-256 of the signed statement that covers where a federation is seen.

    Args:
        workspace: The site's.
        signers: Whose signatures count.
        seen: Where it is.

    Raises:
        ValueError: There is none, or it is of something else.
    """
    file = workspace / STATEMENT
    content = read_limited(file, "a signed statement that it may (openfl-flows attest rollback)")
    digest = hashlib.sha256(content).hexdigest()
    check_signatures(workspace / SIGNATURES, signers, _SUBJECT, digest)
    try:
        found = checked("rollback", Rollback, parse(content))
    except ValueError as error:
        raise ValueError(f"{file}: {one_line(str(error))}") from None
    expected = (seen.federation, seen.round, seen.digest)
    if (found.federation, found.to_round, found.digest) != expected:
        raise ValueError(
            f"{file} lets it go back to round {found.to_round} with model {found.digest[:12]} of "
            f"federation {found.federation[:12]}, expected round {seen.round} with "
            f"{seen.digest[:12]} of {seen.federation[:12]}"
        )
    return digest
