"""Federations whose parties have to prove what runs there, by a quoting authority of the tests."""

import contextlib
import hashlib
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ed25519
from openfl.transport.grpc.common import create_grpc_server

from openfl_flows.attestation.claims import Claims, key_digest
from openfl_flows.attestation.evidence import evidence_certificate
from openfl_flows.attestation.quoters import make_evidence
from openfl_flows.attestation.signed_policy import POLICY
from openfl_flows.pki.certificates import key_pem, new_key, pem
from openfl_flows.pki.party import CHAIN
from openfl_flows.release.keys import PrivateKey, write_signers
from openfl_flows.taskrunner.workspace import read_workspace
from tests.fx_processes import TOY, Party
from tests.quoted_bytes import ENCLAVE, Domain, Enclave
from tests.quoting_authority import (
    Authority,
    SyntheticQuoter,
    agreed,
    write_party,
    write_quoter,
)

SITES = ("site-1", "site-2")
PARTIES = ("aggregator", *SITES)


@dataclass
class Consortium:
    """Who quotes and who signs, for all federations of a session.

    Attributes:
        folder: Gets quoters and the signers' file.
        authority: Signs quotes.
        keys: Of the signers.
    """

    folder: Path
    authority: Authority = field(default_factory=Authority)
    keys: Mapping[str, PrivateKey] = field(
        default_factory=lambda: {"board": ed25519.Ed25519PrivateKey.generate()}
    )

    def __post_init__(self) -> None:
        write_signers(self.signers, agreed(self.keys))

    @property
    def signers(self) -> Path:
        return self.folder / "signers.json"

    def plan(self, required: str, *overrides: str) -> tuple[str, ...]:
        """Overrides of the smallest federation that asks for attestation."""
        return (
            *TOY,
            "federation.rounds=2",
            f"network.attestation.required={required}",
            "network.attestation.quoter=synthetic",
            f"network.attestation.signers={self.signers}",
            *overrides,
        )

    def quoter(
        self,
        of: Enclave | Domain = ENCLAVE,
        report_data: bytes | None = None,
        called: str = "synthetic",
    ) -> str:
        """A folder for PYTHONPATH with a quoter of one enclave or domain."""
        which = hashlib.sha256(repr((of, report_data)).encode()).hexdigest()[:8]
        folder = self.folder / f"quoter-{called}-{which}"
        if not folder.exists():
            folder.mkdir()
            write_quoter(folder, self.authority, of=of, report_data=report_data, name=called)
        return str(folder)

    def equip(self, out: Path, names: tuple[str, ...] = PARTIES, **options: Any) -> None:
        """Write ``attestation/`` of parties."""
        for name in names:
            write_party(out / name, self.authority, self.keys, **options)

    def start(self, out: Path, name: str, **quoting: Any) -> Party:
        """Start a party where quotes can be had."""
        role = ("aggregator", "start")
        arguments = role if name == "aggregator" else ("collaborator", "start", "-n", name)
        environment = {"PYTHONPATH": self.quoter(**quoting)}
        return Party(out / name, *arguments, environment=environment)

    @contextlib.contextmanager
    def running(
        self, out: Path, names: tuple[str, ...] = PARTIES, **quoting: Mapping[str, Any]
    ) -> Iterator[dict[str, Party]]:
        """Parties by name, ``quoting`` for some; none is left running."""
        parties: dict[str, Party] = {}
        try:
            for name in names:
                parties[name] = self.start(out, name, **quoting.get(name, {}))
            yield parties
        finally:
            for party in parties.values():
                party.kill()


def copied(parties: Path, folder: Path) -> Path:
    """The folders of a federation, to run and to break."""
    return Path(shutil.copytree(parties, folder / "parties", symlinks=True))


@dataclass
class Server:
    """A server that OpenFL's own code makes, with whatever certificate; it notes every call."""

    certificate: bytes
    key: bytes
    roots: Path
    calls: list[str] = field(default_factory=list)
    port: int = 0

    @contextlib.contextmanager
    def serving(self) -> Iterator[Self]:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, "key"), Path(folder, "crt")]
            for file, content in zip(files, (self.key, self.certificate), strict=True):
                file.write_bytes(content)
            names = [str(file) for file in (*files, self.roots)]
            server = create_grpc_server(f"127.0.0.1:{self.port}", True, *names, True)
        server.add_generic_rpc_handlers((self,))
        server.start()
        try:
            yield self
        finally:
            server.stop(0)

    def service(self, details: Any) -> None:
        """Note a call; there is nothing that answers it."""
        self.calls.append(details.method)


@dataclass
class Impostor:
    """Makes certificates with evidence that is wrong in one thing, and right in all others."""

    consortium: Consortium
    folder: Path
    """Of a site, for its plan, policy and roots."""

    def server(
        self,
        *,
        enclave: Enclave = ENCLAVE,
        authority: Authority | None = None,
        quoted: bool = True,
        other_key: bool = False,
        **claims: str,
    ) -> Server:
        """One that shows evidence of an enclave.

        Args:
            enclave: What its quote is of.
            authority: Who signed it.
            quoted: With False, the quote is of other claims than those beside it.
            other_key: Its own key is not the one in the claims.
            claims: Others than those of the aggregator.
        """
        own, stolen = new_key(), new_key()
        plan = read_workspace(self.folder)
        digest = hashlib.sha256((self.folder / POLICY).read_bytes()).hexdigest()
        known: dict[str, Any] = {
            "role": "aggregator", "name": "localhost", "federation": plan.hash, "policy": digest,
        }  # fmt: skip
        made = Claims(
            **{**known, **claims, "key": key_digest((stolen if other_key else own).public_key())}
        )
        quoter = SyntheticQuoter(
            authority=authority or self.consortium.authority,
            of=enclave,
            report_data=None if quoted else bytes(64).replace(b"\0", b"r"),
        )
        evidence = make_evidence(quoter, made)
        certificate = pem(evidence_certificate(evidence, own, "localhost"))
        return Server(certificate, key_pem(own), self.folder / CHAIN)
