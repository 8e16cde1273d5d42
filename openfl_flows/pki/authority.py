"""The federation's certificate authority: a folder outside every workspace.

::

    root.crt  aggregator-ca.crt  collaborator-ca.crt  issued.jsonl
    private/root.key             needed to make and renew the two others: keep it offline
    private/aggregator-ca.key    issues certificates that only a server can use
    private/collaborator-ca.key  issues certificates that only a client can use
"""

import datetime as dt
import json
import os
import shutil
from pathlib import Path
from typing import get_args

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from openfl_flows.atomic import SECRET, write_atomically
from openfl_flows.pki.certificates import (
    Key,
    common_name,
    fingerprint,
    issuer_certificate,
    key_pem,
    leaf_certificate,
    new_key,
    pem,
    read_request,
    root_certificate,
)
from openfl_flows.pki.files import PUBLIC, read
from openfl_flows.pki.party import install, make_request
from openfl_flows.pki.plan import Party, Role

ROOT_DAYS = 3650
ISSUER_DAYS = 365
LEAF_DAYS = 30


def create_authority(
    folder: Path, *, days: int = ROOT_DAYS, start: dt.datetime | None = None
) -> None:
    """Make a root and the two authorities below it; the folder exists whole or not at all.

    Args:
        folder: A new or empty folder.
        days: How long the root lasts; the two authorities last a year, or as long as the root.
        start: When they become valid; now by default.

    Raises:
        ValueError: The folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty, expected a new folder for the CA")
    start = start or _now()
    end = _end(start, days)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        (temporary / "private").mkdir(mode=0o700, parents=True)
        key = new_key()
        write_atomically(_key_file(temporary, "root"), key_pem(key), SECRET)
        root = root_certificate(key, start=start, end=end)
        write_atomically(temporary / "root.crt", pem(root), PUBLIC)
        for role in get_args(Role):
            write_atomically(_key_file(temporary, f"{role}-ca"), key_pem(new_key()), SECRET)
        renew_authority(temporary, start=start)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def renew_authority(
    folder: Path, *, days: int = ISSUER_DAYS, start: dt.datetime | None = None
) -> None:
    """Certify the two authorities anew; parties notice nothing, they trust the root.

    Args:
        folder: An authority, with its root's key.
        days: How long they last from ``start``, if the root lasts as long.
        start: When they become valid; now by default.

    Raises:
        ValueError: A file is missing, or the root has ended.
    """
    start = start or _now()
    root = read_certificate(folder / "root.crt")
    root_key = _private_key(_key_file(folder, "root"))
    end = min(_end(start, days), root.not_valid_after_utc)
    if end <= start:
        raise ValueError(f"{folder}: the root has ended on {end:%Y-%m-%d}, expected a new CA")
    for role in get_args(Role):
        key = _private_key(_key_file(folder, f"{role}-ca"))
        issuer = issuer_certificate(role, key, root, root_key, start=start, end=end)
        write_atomically(folder / f"{role}-ca.crt", pem(issuer), PUBLIC)


def sign(
    folder: Path,
    party: Party,
    public_key: CertificatePublicKeyTypes,
    *,
    days: int = LEAF_DAYS,
    start: dt.datetime | None = None,
) -> bytes:
    """Certify a party's key, and note it in ``issued.jsonl``.

    Args:
        folder: The authority; its root's key is not needed.
        party: Whose key it is: the caller vouches for that.
        public_key: The key.
        days: How long the certificate lasts from ``start``.
        start: When it becomes valid; now by default.

    Returns:
        The certificate, its issuer and the root, in PEM.

    Raises:
        ValueError: A file is missing, or the certificate would outlive its issuer.
    """
    issuer = read_certificate(folder / f"{party.role}-ca.crt")
    issuer_key = _private_key(_key_file(folder, f"{party.role}-ca"))
    root = read_certificate(folder / "root.crt")
    start = start or _now()
    end = _end(start, days)
    if end > issuer.not_valid_after_utc:
        raise ValueError(
            f"days={days}: {common_name(issuer)} ends on {issuer.not_valid_after_utc:%Y-%m-%d}, "
            "expected fewer days, or `openfl-flows pki renew` first"
        )
    leaf = leaf_certificate(party, public_key, issuer, issuer_key, start=start, end=end)
    entry = {
        "time": f"{_now():%Y-%m-%dT%H:%M:%SZ}",
        "role": party.role,
        "name": party.name,
        "expires": f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "sha256": fingerprint(leaf),
    }
    with (folder / "issued.jsonl").open("a") as log:
        log.write(json.dumps(entry) + "\n")
    return pem(leaf, issuer, root)


def sign_request(
    folder: Path, party: Party, request: bytes, *, days: int = LEAF_DAYS
) -> tuple[bytes, CertificatePublicKeyTypes]:
    """Certify the key of a signing request, whatever names it asks for; else as :func:`sign`.

    Returns:
        The certificate, its issuer and the root, in PEM; and the key that they certify.

    Raises:
        ValueError: The request does not hold a strong key that its sender has.
    """
    key = read_request(request)
    return sign(folder, party, key, days=days), key


def issue(
    authority: Path,
    workspace: Path,
    party: Party,
    *,
    days: int = LEAF_DAYS,
    start: dt.datetime | None = None,
) -> None:
    """Give a party a new key and certificate in its workspace: rehearsals on one machine.

    Args:
        authority: The authority's folder.
        workspace: The party's workspace; it trusts this authority from now on.
        party: The party.
        days: How long the certificate lasts from ``start``.
        start: When it becomes valid; now by default.

    Raises:
        ValueError: The authority cannot certify it.
    """
    key = read_request(make_request(workspace, party))
    bundle = sign(authority, party, key, days=days, start=start)
    install(workspace, party, bundle, roots=(authority / "root.crt").read_bytes(), now=start)


def issue_party(
    authority: Path,
    workspace: Path,
    *,
    aggregator: str | None = None,
    site: str | None = None,
    days: int = LEAF_DAYS,
) -> None:
    """As :func:`issue`, for the aggregator at an address or the site of a name."""
    assert (aggregator is None) != (site is None), "one party: an aggregator or a site"
    party = (
        Party(role="collaborator", name=site)
        if site is not None
        else Party(role="aggregator", name=str(aggregator).lower())
    )
    issue(authority, workspace, party, days=days)


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate in an authority's folder.

    Raises:
        ValueError: It is not there.
    """
    return x509.load_pem_x509_certificate(read(path, "a CA made by `openfl-flows pki init`"))


def _key_file(folder: Path, name: str) -> Path:
    return folder / "private" / f"{name}.key"


def _private_key(path: Path) -> Key:
    content = read(path, "a CA made by `openfl-flows pki init`")
    key = serialization.load_pem_private_key(content, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), path
    return key


def _now() -> dt.datetime:
    # Certificates hold whole seconds.
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def _end(start: dt.datetime, days: int) -> dt.datetime:
    if days < 1:
        raise ValueError(f"days={days}, expected at least 1")
    return start + dt.timedelta(days=days)
