"""A site's side of attestation: attest, then pin; nothing but a TLS handshake leaves before.

The site fetches the certificate of whatever answers at the aggregator's address, verifies the
evidence in it by its own policy, and connects with that certificate as the only one that it trusts.
The first call is its arrival. After any failure all of that begins anew, because an aggregator that
was restarted has another key, and so has one that was put in its place.
"""

import datetime as dt
import http.client
import logging
import os
import socket
import ssl
import urllib.parse
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from openfl.protocols import aggregator_pb2_grpc, utils
from openfl.transport.grpc.common import DEFAULT_CHANNEL_OPTIONS
from openfl.utilities import TensorKey

from openfl_flows.attestation.evidence import to_bytes
from openfl_flows.attestation.refusal import RefusedEvidence
from openfl_flows.attestation.rollback import excuse
from openfl_flows.experiment import check
from openfl_flows.ops.seen import Memory
from openfl_flows.pki.certificates import key_pem, new_key, pem, request_for
from openfl_flows.pki.files import read
from openfl_flows.pki.plan import Party
from openfl_flows.readiness.machine import proxy_in_the_way
from openfl_flows.strict_json import parse
from openfl_flows.taskrunner.arrival import ARRIVAL, Arrival, Welcome, signed
from openfl_flows.taskrunner.attested import NOT_ATTESTED
from openfl_flows.taskrunner.attested_party import AttestedParty, Standing, in_words, rules_of
from openfl_flows.taskrunner.workspace import WorkspacePlan, read_workspace

logger = logging.getLogger(__name__)

FETCH_SECONDS = 20.0
"""How long a server may take to show its certificate."""
SWITCHES = 3
"""So often in a row connections may end elsewhere than at the server that was attested."""

# Methods of OpenFL's client that call nobody.
_OWN = frozenset({"disconnect", "validate_response"})
_NOT_PINNED = ("CERTIFICATE_VERIFY_FAILED", "not in peer certificate")


class AwayError(grpc.RpcError):
    """The aggregator does not show its certificate now; as OpenFL's client says it of a call."""

    def __init__(self, details: str) -> None:
        super().__init__(details)
        self._details = details

    def code(self) -> grpc.StatusCode:
        """As where nobody listens."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """Why."""
        return self._details


def attested(
    client: Any, site: str, workspace: Path = Path(), *, seconds: float | None = None
) -> Any:
    """A client that calls none but an attested aggregator.

    Where the plan asks for no attestation it is ``client`` itself, with a loud warning.

    Args:
        client: OpenFL's.
        site: The site.
        workspace: Its folder.
        seconds: When calls that bring or fetch something are given up; None for never.

    Raises:
        ValueError: The policy cannot be used.
    """
    plan = read_workspace(workspace)
    if not rules_of(plan).asked:
        logger.warning(NOT_ATTESTED)
        return client
    return AttestedClient(client, site, workspace, plan, seconds)


def give_up_after(seconds: float, stub: Any) -> None:
    """Have calls of a stub that bring or fetch something end after ``seconds``."""
    for call in ("GetAggregatedTensor", "SendLocalTaskResults"):
        setattr(stub, call, partial(getattr(stub, call), timeout=seconds))


def memory_of(workspace: Path, site: str) -> Memory:
    """What a site has seen of its federation.

    Where the plan asks for attestation, the way back takes a signed statement.

    Args:
        workspace: The site's.
        site: Its name.

    Raises:
        ValueError: The plan cannot be read.
    """
    plan = read_workspace(workspace)
    rules, folder = rules_of(plan), workspace / "local_state" / site
    if not rules.asked:
        return Memory(folder, plan.hash)
    return Memory(folder, plan.hash, partial(excuse, workspace, rules.agreed_signers()))


class AttestedClient:
    """OpenFL's client behind a gate: its calls wait until the aggregator is attested and pinned.

    Args:
        client: OpenFL's; it has not called yet.
        site: The site.
        workspace: Its folder.
        plan: What it says; it asks for attestation.
        seconds: When calls that bring or fetch something are given up; None for never.

    Attributes:
        standing: The site's verdict on the aggregator; None before there is one.
        anchor: The certificate that is trusted, in PEM; empty before.

    Raises:
        ValueError: The policy cannot be used, or a certificate is missing.
    """

    def __init__(
        self,
        client: Any,
        site: str,
        workspace: Path,
        plan: WorkspacePlan,
        seconds: float | None = None,
    ) -> None:
        self._client, self._workspace, self._federation = client, workspace, plan.hash
        self._seconds = seconds
        self._memory = memory_of(workspace, site)
        self._site = Party(role="collaborator", name=site)
        self._party = AttestedParty(workspace, self._site, plan)
        self._hours = self._party.rules.certificate_hours
        self.standing: Standing | None = None
        self.anchor = b""
        self._since = dt.datetime.now(dt.UTC)
        self._switched = 0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not callable(attribute) or name in _OWN:
            return attribute
        return lambda *args, **kwargs: self._calling(attribute, *args, **kwargs)

    @property
    def stub(self) -> Any:
        """OpenFL's, once the aggregator is attested."""
        self._calling(lambda: None)
        return self._client.stub

    def reconnect(self) -> None:
        """Forget whom this site is connected to: the next call attests anew."""
        self._client.disconnect()
        self.standing = None

    def attest(self) -> Standing:
        """Attest the aggregator, pin it and arrive, if that is not done.

        Raises:
            RefusedEvidence: What answers is not this federation's aggregator.
            WentBackError: It is, and the federation is behind where this site has seen it.
            grpc.RpcError: It does not answer, or refuses this site.
        """
        self._calling(lambda: None)
        assert self.standing is not None
        return self.standing

    def _calling(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            # Half of the time is left for a connection to be made anew with the same certificate.
            age = dt.datetime.now(dt.UTC) - self._since
            if self.standing is None or age > dt.timedelta(hours=self._hours) / 2:
                self._arrive()
            answer = call(*args, **kwargs)
        except grpc.RpcError as error:
            if any(words in str(error.details()) for words in _NOT_PINNED):
                raise self._elsewhere() from None
            raise
        self._switched = 0
        return answer

    def _elsewhere(self) -> Exception:
        """A connection ended elsewhere than at the server that was attested."""
        self.standing = None
        self._switched += 1
        if self._switched < SWITCHES:
            return AwayError("another server than the attested one: it is attested anew")
        return self._refused("connections end at another server than the one that is attested")

    def _refused(self, reason: object) -> RefusedEvidence:
        return RefusedEvidence(
            f"Refused: what answers at {self._client.uri} does not prove to be the aggregator: "
            f"{reason} (policy {self._party.policy[:16]}). Nothing was sent to it"
        )

    def _arrive(self) -> None:
        self.reconnect()
        certificate = self._fetched()
        try:
            standing = self._party.verdict_on_aggregator(certificate)
        except RefusedEvidence as error:
            raise self._refused(error) from None
        self.anchor = pem(certificate)
        own = [read(self._site.file(self._workspace, s), "its key") for s in (".key", ".crt")]
        self._connect(*own)
        arrival = Arrival(site=self._site.name, federation=self._federation, verdict=dict(standing))
        if not self._party.rules.of_sites:
            self._send(arrival)
        else:
            key = new_key()
            evidence = to_bytes(self._party.evidence(key)).decode()
            request = request_for(self._site, key).decode()
            welcome = self._send(replace(arrival, request=request, evidence=evidence))
            self._connect(key_pem(key), welcome.certificate.encode())
        self.standing, self._since = standing, dt.datetime.now(dt.UTC)
        logger.info("The aggregator at %s is attested: %s", self._client.uri, in_words(standing))

    def _connect(self, key: bytes, chain: bytes) -> None:
        """What OpenFL's ``reconnect`` does, without files: a key from an enclave is in none."""
        self._client.disconnect()
        credentials = grpc.ssl_channel_credentials(self.anchor, key, chain)
        options = DEFAULT_CHANNEL_OPTIONS
        self._client.channel = grpc.secure_channel(self._client.uri, credentials, options=options)
        self._client.stub = aggregator_pb2_grpc.AggregatorStub(self._client.channel)
        if self._seconds is not None:
            give_up_after(self._seconds, self._client.stub)

    def _send(self, arrival: Arrival) -> Welcome:
        """Arrive; a federation that went back is left before it gets anything more."""
        key = TensorKey(ARRIVAL, self._site.name, 0, False, (ARRIVAL,))
        content = signed(arrival, self._workspace)
        tensor = utils.construct_named_tensor(key, content, {}, lossless=True)
        self._client.send_local_task_results(0, ARRIVAL, 1, [tensor])
        answer = self._client.get_aggregated_tensor(ARRIVAL, 0, False, (ARRIVAL,), True)
        welcome: Welcome = check("welcome", Welcome, parse(answer.data_bytes))
        self._memory.see(welcome.round, welcome.digest)
        return welcome

    def _fetched(self) -> x509.Certificate:
        host, _, port = self._client.uri.rpartition(":")
        try:
            return fetch_certificate(host, int(port), os.environ)
        except ssl.SSLError as error:
            if error.reason == "WRONG_VERSION_NUMBER":
                raise self._refused("it does not speak TLS") from None
            raise AwayError(f"it ends the handshake of TLS: {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            raise AwayError(str(error)) from None


def fetch_certificate(host: str, port: int, environment: Mapping[str, str]) -> x509.Certificate:
    """The certificate of a server, whose word is not taken for anything yet.

    It is reached as gRPC reaches it, also through a proxy. Nothing of this side's handshake is sent
    but its beginning, which names ``host`` and no more.

    Args:
        host: Its name or address.
        port: Its port.
        environment: Variables, of which some name proxies.

    Raises:
        OSError: It cannot be reached, or shakes no hands.
        http.client.HTTPException: A proxy does not let this side through.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing, server_hostname=host)
    with _connected(host, port, environment) as connection:
        # The last flight stays in ``outgoing``: by then the server's certificate is known.
        while not _done(secured):
            connection.sendall(outgoing.read())
            if not (content := connection.recv(2**14)):
                raise ConnectionError("it hangs up in the handshake of TLS")
            incoming.write(content)
    content = secured.getpeercert(binary_form=True) or b""
    return x509.load_der_x509_certificate(content)


def _done(secured: ssl.SSLObject) -> bool:
    """Go on with a handshake; return whether it has all that it needs."""
    try:
        secured.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _connected(host: str, port: int, environment: Mapping[str, str]) -> socket.socket:
    name = proxy_in_the_way(host, environment)
    if name is None:
        return socket.create_connection((host, port), timeout=FETCH_SECONDS)
    proxy = urllib.parse.urlsplit(environment[name])
    tunnel = http.client.HTTPConnection(
        proxy.hostname or "", proxy.port or 80, timeout=FETCH_SECONDS
    )
    secret = urllib.parse.unquote(proxy.netloc.rpartition("@")[0])
    headers = {"Proxy-Authorization": f"Basic {b64encode(secret.encode()).decode()}"}
    tunnel.set_tunnel(host, port, headers if secret else {})
    tunnel.connect()
    return tunnel.sock
