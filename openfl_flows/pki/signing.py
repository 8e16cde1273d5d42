"""What a party says, signed with the key of its certificate.

``{"said": ..., "signature": ..., "certificates": ...}`` as canonical JSON. The signature is of the
bytes of what is said alone, in the same form: ECDSA with SHA-384 where the key is on a curve,
RSA-PSS with SHA-384 else, as a company's own CA may have it. Whoever signs says what it is for, so
that it serves for nothing else.
"""

import base64
import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from openfl_flows.pki.files import read
from openfl_flows.pki.party import read_certificates
from openfl_flows.pki.plan import Party
from openfl_flows.pki.verify import verified_chain
from openfl_flows.strict_json import canonical, parse

_KEYS = {"said", "signature", "certificates"}
_HASH = hashes.SHA384()
_PSS = padding.PSS(padding.MGF1(_HASH), padding.PSS.DIGEST_LENGTH)


def signed(said: Mapping[str, Any], workspace: Path, party: Party) -> bytes:
    """What a party says, with its signature and certificates.

    Args:
        said: A document.
        workspace: Where the party's key and certificate are.
        party: Who says it.

    Raises:
        ValueError: Key or certificate is missing or not readable.
    """
    content = canonical(said)
    path = party.file(workspace, ".key")
    pem = read(path, f"the key of {party}")
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not readable, expected the key of {party}: {error}") from None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        signature = key.sign(content, ec.ECDSA(_HASH))
    elif isinstance(key, rsa.RSAPrivateKey):
        signature = key.sign(content, _PSS, _HASH)
    else:
        raise ValueError(f"{path}: not a key that can sign, expected one on a curve, or RSA")
    certificates = read(party.file(workspace, ".crt"), f"the certificate of {party}")
    return canonical(
        {
            "said": said,
            "signature": base64.b64encode(signature).decode(),
            "certificates": certificates.decode(),
        }
    )


def said_by(
    content: bytes,
    party: Party,
    roots: Sequence[x509.Certificate],
    *,
    most_bytes: int,
    now: dt.datetime | None = None,
) -> Any:
    """What a party has said, once it is sure that the party has.

    Args:
        content: What :func:`signed` made.
        party: Who is to have said it.
        roots: What is trusted.
        most_bytes: It is larger than this only by malice.
        now: The moment at which its certificate must be valid; this one by default.

    Raises:
        ValueError: It is nothing that is signed, the certificates are not the party's, or the
            signature is not by their key.
    """
    if len(content) > most_bytes:
        raise ValueError(f"{len(content)} bytes, expected at most {most_bytes}")
    document = parse(content)
    if not isinstance(document, dict) or document.keys() != _KEYS:
        raise ValueError(f"expected {', '.join(sorted(_KEYS))}")
    signature, certificates = document["signature"], document["certificates"]
    if not isinstance(signature, str) or not isinstance(certificates, str):
        raise ValueError("signature and certificates, expected text")
    said = canonical(document["said"])
    leaf, *others = read_certificates(certificates.encode(), f"certificates of {party}")
    verified_chain(party, leaf, others, roots, now=now)
    key = leaf.public_key()
    try:
        raw = base64.b64decode(signature, validate=True)
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(raw, said, ec.ECDSA(_HASH))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(raw, said, _PSS, _HASH)
        else:
            raise ValueError
    except (InvalidSignature, ValueError):
        raise ValueError("its signature is not by the key of its certificate") from None
    return document["said"]
