"""A party's own side: its key and request, and taking its certificate into use.

A new key waits beside the one in use until its certificate comes, so a rotation never leaves a
party without a working pair; a process that runs keeps what it read at its start.
"""

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from openfl_flows.atomic import SECRET, write_atomically
from openfl_flows.pki.certificates import key_pem, new_key, pem, request_for
from openfl_flows.pki.files import PUBLIC, read
from openfl_flows.pki.plan import Party
from openfl_flows.pki.verify import verified_chain

WAITING = ".next.key"
"""Ending of a key whose certificate has not come yet."""
CHAIN = Path("cert", "cert_chain.crt")
"""In a workspace, the roots that a party trusts."""


def make_request(workspace: Path, party: Party) -> bytes:
    """Make a new key, which stays in the workspace, and a signing request beside it.

    Asked again before the answer has come, it gives a request for the same key.

    Returns:
        The request in PEM, as written to the party's ``.csr`` file.

    Raises:
        ValueError: A key is waiting, but is not readable.
    """
    waiting = party.file(workspace, WAITING)
    if not waiting.exists():
        write_atomically(waiting, key_pem(new_key()), SECRET)
    try:
        key = serialization.load_pem_private_key(waiting.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise ValueError(f"{waiting}: not a readable private key, expected it or no file") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{waiting}: not a key that `openfl-flows pki request` made")
    request = request_for(party, key)
    write_atomically(party.file(workspace, ".csr"), request, PUBLIC)
    return request


def install(
    workspace: Path,
    party: Party,
    bundle: bytes,
    *,
    roots: bytes | None = None,
    now: dt.datetime | None = None,
) -> x509.Certificate:
    """Take a certificate into use, with the key that waits for it or the one in use.

    Everything is checked before anything is written. Killed in between, it can be run again.

    Args:
        workspace: The party's workspace.
        party: Whose certificate it is.
        bundle: The certificate and what stands between it and the root, in PEM, in any order.
        roots: What to trust from now on, in PEM; by default what the workspace trusts already,
            and where there is nothing yet, the root in ``bundle``.
        now: The moment at which the certificate must be valid.

    Returns:
        The certificate.

    Raises:
        ValueError: The certificate is not of the party's key, has not its name or purpose, is not
            valid now, or does not chain up to a trusted root.
    """
    certificates = read_certificates(bundle, "the certificate to install")
    key_file, leaf = _matching(workspace, party, certificates)
    others = [certificate for certificate in certificates if certificate != leaf]
    chain_file = workspace / CHAIN
    if roots is not None:
        trusted = read_certificates(roots, "the roots to trust")
    elif chain_file.exists():
        trusted = read_certificates(chain_file.read_bytes(), str(chain_file))
    else:
        trusted = [c for c in others if c.subject == c.issuer]
        if not trusted:
            raise ValueError(f"no root for {party}: none in the bundle, expected --root FILE")
    chain = verified_chain(party, leaf, others, trusted, now=now)
    if roots is not None or not chain_file.exists():
        write_atomically(chain_file, pem(*trusted), PUBLIC)
    if key_file == party.file(workspace, WAITING):
        key_file.replace(party.file(workspace, ".key"))
    write_atomically(party.file(workspace, ".crt"), pem(*chain[:-1]), PUBLIC)
    party.file(workspace, ".csr").unlink(missing_ok=True)
    return leaf


def read_certificates(content: bytes, what: str) -> list[x509.Certificate]:
    """The certificates in PEM content.

    Raises:
        ValueError: There is none, or one is not readable; ``what`` names the content.
    """
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ValueError(f"{what}: no readable certificates in PEM") from None


def read_public_key(path: Path) -> CertificatePublicKeyTypes:
    """The public part of an unencrypted private key.

    Raises:
        ValueError: There is no such file, or it is no key that a certificate can have.
    """
    content = read(path, "a private key")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        raise ValueError(f"{path}: not readable, expected an unencrypted private key") from None
    public: CertificatePublicKeyTypes = key.public_key()  # type: ignore[assignment]
    return public


def _matching(
    workspace: Path, party: Party, certificates: list[x509.Certificate]
) -> tuple[Path, x509.Certificate]:
    found = [party.file(workspace, suffix) for suffix in (WAITING, ".key")]
    for path in filter(Path.exists, found):
        public = read_public_key(path)
        for certificate in certificates:
            if certificate.public_key() == public:
                return path, certificate
    raise ValueError(
        f"no certificate of a key of {party} in {workspace}: "
        "expected the answer to its `openfl-flows pki request`"
    )
