"""The certificates in OpenFL's own gRPC code: who gets through to a method, and who does not."""

import contextlib
import datetime as dt
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from openfl.transport.grpc.common import create_grpc_server, create_tls_channel

from openfl_flows.pki.authority import create_authority, issue, read_certificate
from openfl_flows.pki.certificates import key_pem, leaf_certificate, new_key, pem
from openfl_flows.pki.party import CHAIN, install
from openfl_flows.pki.plan import Party

AGGREGATOR = Party(role="aggregator", name="localhost")
NUMERIC = Party(role="aggregator", name="127.0.0.1")
SITE = Party(role="collaborator", name="site-1")
# The name is right, so it is the purpose alone that stands in its way.
IMPOSTOR = Party(role="collaborator", name="localhost")
PAST = dt.datetime.now(dt.UTC) - dt.timedelta(days=40)

REACHED = "Method not found"
SERVER_REFUSED = "CERTIFICATE_VERIFY_FAILED"
CLIENT_REFUSED = "Socket closed"


@pytest.fixture(scope="module")
def parties(tmp_path_factory) -> dict[str, Path]:
    """Workspaces of one authority (of which one has expired certificates), and of another."""
    folder = tmp_path_factory.mktemp("parties")
    create_authority(folder / "ca", start=PAST)
    create_authority(folder / "other-ca")
    for name, authority, start in (
        ("ours", "ca", None),
        ("expired", "ca", PAST),
        ("other", "other-ca", None),
    ):
        for party in (AGGREGATOR, NUMERIC, SITE, IMPOSTOR):
            issue(folder / authority, folder / name, party, days=30, start=start)
    return {name: folder / name for name in ("ours", "expired", "other")}


@contextlib.contextmanager
def serving(workspace: Path, party: Party) -> Iterator[int]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    key, certificate = (str(party.file(workspace, suffix)) for suffix in (".key", ".crt"))
    server = create_grpc_server(
        f"127.0.0.1:{port}", True, key, certificate, str(workspace / CHAIN), True
    )
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


def answer(port: int, workspace: Path, party: Party, host: str = "localhost") -> str:
    """What a call comes to. With TLS 1.3 a client is ready before the server has judged it."""
    key, certificate = (str(party.file(workspace, suffix)) for suffix in (".key", ".crt"))
    chain = str(workspace / CHAIN)
    with create_tls_channel(f"{host}:{port}", chain, True, certificate, key) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/no/method")(b"", timeout=20)
        return str(caught.value.details())


@pytest.mark.parametrize(("server", "host"), [(AGGREGATOR, "localhost"), (NUMERIC, "127.0.0.1")])
def test_the_proper_pair_meets(parties, server, host):
    with serving(parties["ours"], server) as port:
        assert REACHED in answer(port, parties["ours"], SITE, host)


def test_a_site_cannot_be_the_aggregator(parties):
    with serving(parties["ours"], IMPOSTOR) as port:
        assert SERVER_REFUSED in answer(port, parties["ours"], SITE)


def test_who_has_the_key_of_the_sites_authority_cannot_be_the_aggregator(parties, tmp_path):
    ca = parties["ours"].with_name("ca")
    issuer = read_certificate(ca / "collaborator-ca.crt")
    issuer_key = serialization.load_pem_private_key(
        (ca / "private" / "collaborator-ca.key").read_bytes(), None
    )
    key, now = new_key(), dt.datetime.now(dt.UTC)
    leaf = leaf_certificate(
        AGGREGATOR, key.public_key(), issuer, issuer_key, start=now, end=now + dt.timedelta(days=1)
    )
    root = read_certificate(ca / "root.crt")
    for path, content in (
        (AGGREGATOR.file(tmp_path, ".key"), key_pem(key)),
        (AGGREGATOR.file(tmp_path, ".crt"), pem(leaf, issuer)),
        (tmp_path / CHAIN, pem(root)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with serving(tmp_path, AGGREGATOR) as port:
        assert SERVER_REFUSED in answer(port, parties["ours"], SITE)
    with pytest.raises(ValueError, match="does not chain up to a trusted root"):
        install(tmp_path, AGGREGATOR, pem(leaf, issuer, root))


def test_the_aggregator_cannot_be_a_site(parties):
    with serving(parties["ours"], AGGREGATOR) as port:
        assert CLIENT_REFUSED in answer(port, parties["ours"], AGGREGATOR)
        assert REACHED in answer(port, parties["ours"], SITE)


def test_parties_of_another_authority_are_refused_both_ways(parties, tmp_path):
    with serving(parties["other"], AGGREGATOR) as port:
        assert SERVER_REFUSED in answer(port, parties["ours"], SITE)
    # A stranger that knows the root, so that it is the server that refuses.
    stranger = tmp_path / "stranger"
    for party, source in ((SITE, parties["other"]), (None, parties["ours"])):
        names = [CHAIN] if party is None else [party.file(Path(), s) for s in (".key", ".crt")]
        for name in names:
            (stranger / name).parent.mkdir(parents=True, exist_ok=True)
            (stranger / name).write_bytes((source / name).read_bytes())
    with serving(parties["ours"], AGGREGATOR) as port:
        assert CLIENT_REFUSED in answer(port, stranger, SITE)
        assert REACHED in answer(port, parties["ours"], SITE)


def test_expired_certificates_are_refused_both_ways(parties):
    with serving(parties["expired"], AGGREGATOR) as port:
        assert SERVER_REFUSED in answer(port, parties["ours"], SITE)
    with serving(parties["ours"], AGGREGATOR) as port:
        assert CLIENT_REFUSED in answer(port, parties["expired"], SITE)
        assert REACHED in answer(port, parties["ours"], SITE)


def test_another_host_with_a_server_certificate_is_refused(parties):
    with serving(parties["ours"], NUMERIC) as port:
        assert "localhost is not in peer certificate" in answer(port, parties["ours"], SITE)
