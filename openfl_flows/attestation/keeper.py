"""The keeper: has the secret of one party, and gives it to that party's enclave and to nobody else.

It runs where the company trusts the machine, never on the enclave's host, and judges evidence as
any party does: by a workspace of its own with the plan, the pinned policy and collateral.
"""

import asyncio
import contextlib
import datetime as dt
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from openfl_flows.atomic import SECRET
from openfl_flows.attestation.claims import key_digest
from openfl_flows.attestation.evidence import Evidence, digest
from openfl_flows.attestation.key_release import LARGEST_REQUEST, SECRET_BYTES, answer, refusal
from openfl_flows.attestation.policy import Policy
from openfl_flows.attestation.refusal import RefusedEvidence
from openfl_flows.attestation.signed_policy import FOLDER
from openfl_flows.attestation.verifiers import verifiers_of
from openfl_flows.attestation.verify import Verified, verify
from openfl_flows.pki.plan import Party
from openfl_flows.strict_json import canonical

SECONDS = 10.0
"""How long a caller may take to send its request, and to take the answer."""
CALLERS = 32
"""Callers at a time; more are hung up on, and call again."""


@dataclass(frozen=True, kw_only=True)
class Keeper:
    """Who gives a secret away, to whom, and where that is written down.

    Attributes:
        party: Whose enclave it is for.
        federation: SHA-384 of the plan, whole, in hexadecimal.
        policy: By which evidence is judged.
        policy_digest: SHA-256 of the policy's file in hexadecimal.
        workspace: The keeper's own, whose ``attestation/`` has collateral and verifiers.
        secret: The secret.
        key: Signs answers.
        log: Gets a line for each request.
    """

    party: Party
    federation: str
    policy: Policy
    policy_digest: str
    workspace: Path
    secret: bytes = field(repr=False)
    key: Ed25519PrivateKey = field(repr=False)
    log: Path

    def judge(self, evidence: Evidence, key: CertificatePublicKeyTypes) -> Verified:
        """Accept evidence that the party's enclave has made ``key``.

        Raises:
            RefusedEvidence: It is not accepted.
        """
        # Read each time, because it is renewed as it ages.
        file = self.workspace / FOLDER / "collateral.json"
        return verify(
            evidence,
            self.policy,
            role=self.party.role,
            name=self.party.name,
            federation=self.federation,
            policy_digest=self.policy_digest,
            public_key_sha256=key_digest(key),
            collateral=file.read_bytes() if file.is_file() else None,
            now=dt.datetime.now(dt.UTC),
            verifiers=verifiers_of(self.workspace),
        )

    def answer(self, request: bytes, caller: str) -> tuple[bytes, str]:
        """The answer to a request, and a line that tells it; the same line is in the log before.

        Args:
            request: What was sent.
            caller: From which address.
        """
        said = {"time": f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}", "caller": caller}

        def judge(evidence: Evidence, key: CertificatePublicKeyTypes) -> Verified:
            said["evidence"] = digest(evidence)
            verified = self.judge(evidence, key)
            said.update(measurement=verified.measurement, status=verified.status)
            return verified

        try:
            content = answer(request, secret=self.secret, key=self.key, judge=judge)
            said["verdict"] = "released"
            line = f"released to {self.party} at {caller}: {said['measurement']}, {said['status']}"
        except RefusedEvidence as error:
            content = refusal(error)
            said.update(verdict="refused", reason=str(error))
            line = f"refused {caller}: {error}"
        # What cannot be written down is not given away.
        self._note(canonical({**said, "policy": self.policy_digest}))
        return content, line

    def _note(self, line: bytes) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, SECRET)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(line + b"\n")
            os.fsync(file.fileno())


def read_secret(path: Path) -> bytes:
    """A secret that its owner alone can read.

    Raises:
        ValueError: There is none, others can read it, or it is of another size.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a secret (openfl-flows attest secret)")
    if (rights := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise ValueError(f"{path} has rights {rights:o}: others can read it, expected {SECRET:o}")
    content = path.read_bytes()
    if len(content) != SECRET_BYTES:
        raise ValueError(f"{path}: {len(content)} bytes, expected {SECRET_BYTES}")
    return content


async def serve(keeper: Keeper, host: str, port: int, told: Callable[[str], None]) -> None:
    """Answer whoever asks, one request a connection, until the process ends.

    Args:
        keeper: Who answers.
        host: Name or address to listen at.
        port: Its port; 0 for one that is free.
        told: Gets a line for where it listens, and for each request.
    """
    callers = 0

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal callers
        caller = str((writer.get_extra_info("peername") or ("nobody",))[0])
        callers += 1
        try:
            if callers <= CALLERS:
                told(await _exchange(keeper, reader, writer, caller))
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError):
            told(f"{caller} has sent no request, or did not wait for the answer")
        except (OSError, ValueError) as error:
            told(f"cannot answer {caller}: {error}")
        finally:
            callers -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve_one, host, port)
    async with server:
        port = server.sockets[0].getsockname()[1]
        told(f"the key of {keeper.party} is kept at {host}:{port}")
        await server.serve_forever()


async def _exchange(
    keeper: Keeper, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: str
) -> str:
    async with asyncio.timeout(SECONDS):
        size = int.from_bytes(await reader.readexactly(4), "big")
        request = await reader.readexactly(size) if size <= LARGEST_REQUEST else None
    if request is None:
        line = f"refused {caller}: {size} bytes, expected at most {LARGEST_REQUEST}"
        content = refusal(f"a request of {size} bytes, expected at most {LARGEST_REQUEST}")
    else:
        content, line = keeper.answer(request, caller)
    async with asyncio.timeout(SECONDS):
        writer.write(len(content).to_bytes(4, "big") + content)
        await writer.drain()
    return line
