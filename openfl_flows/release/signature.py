"""A signature of a release: the OpenSSF's model signature, one file for each signer.

A Sigstore bundle (v0.3, with a public key's hint) holds a DSSE envelope, whose payload is an
in-toto statement (v1) with the predicate ``https://model_signing/signature/v1.0``: name and SHA-256
of every file but the signatures. What is signed is DSSE's pre-authentication encoding::

    PAE(type, payload) = "DSSEv1" SP len(type) SP type SP len(payload) SP payload

There is one way only to write the bundle of a signer and a statement, so that not one byte of a
signature can be changed. Bundles with ECDSA keys verify with ``model_signing verify key``; it knows
no Ed25519. Sources: github.com/secure-systems-lab/dsse (v1.0.2), github.com/in-toto/attestation
(Statement v1), github.com/sigstore/model-transparency (model-signing 1.1).
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

from openfl_flows.release.folder import SIGNATURES
from openfl_flows.release.keys import PrivateKey, PublicKey, fingerprint, is_signed, sign
from openfl_flows.strict_json import canonical, parse

PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
SUBJECT = "openfl-flows-release"


def statement(digests: Mapping[str, str]) -> bytes:
    """What is signed of a release.

    Args:
        digests: SHA-256 of every released file, in hexadecimal, by name.
    """
    whole = hashlib.sha256()
    resources = []
    for name in sorted(digests):
        whole.update(bytes.fromhex(digests[name]))
        resources.append({"name": name, "algorithm": "sha256", "digest": digests[name]})
    return canonical(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": SUBJECT, "digest": {"sha256": whole.hexdigest()}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": [SIGNATURES],
                },
                "resources": resources,
            },
        }
    )


def pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding of an in-toto statement."""
    return b"DSSEv1 %d %s %d %s" % (
        len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload,
    )  # fmt: skip


def signed(payload: bytes, key: PrivateKey) -> bytes:
    """The signature file of a statement."""
    return _bundle(payload, sign(key, pae(payload)), key.public_key())


def hint_of(content: bytes) -> str:
    """Fingerprint of the key that a signature file says it was made with; nothing is verified.

    Raises:
        ValueError: It is no signature file.
    """
    try:
        return str(parse(content)["verificationMaterial"]["publicKey"]["hint"])
    except (KeyError, TypeError):
        raise ValueError("not the bundle of a model signature") from None


def digests_signed(content: bytes, key: PublicKey) -> dict[str, str]:
    """SHA-256 of every file, by name, of the release that a signature is of.

    Args:
        content: The signature file.
        key: Of the signer that it is said to be of.

    Raises:
        ValueError: It is not the signer's, not of a release, or not as it was written.
    """
    payload, signature = _envelope(content)
    if not is_signed(key, signature, pae(payload)):
        raise ValueError("it is not signed with the signer's key, or was changed since")
    if _bundle(payload, signature, key) != content:
        raise ValueError("not as it was written, expected the bundle of a model signature")
    # What follows has been signed by an agreed signer.
    digests = _digests(parse(payload))
    if statement(digests) != payload:
        raise ValueError("it is of something else than a release")
    return digests


def _bundle(payload: bytes, signature: bytes, key: PublicKey) -> bytes:
    return canonical(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": fingerprint(key)},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
            },
        }
    )


def _envelope(content: bytes) -> tuple[bytes, bytes]:
    document = parse(content)
    try:
        envelope = document["dsseEnvelope"]
        return (
            base64.b64decode(envelope["payload"], validate=True),
            base64.b64decode(envelope["signatures"][0]["sig"], validate=True),
        )
    except (KeyError, IndexError, TypeError, binascii.Error, ValueError):
        raise ValueError("not the bundle of a model signature") from None


def _digests(document: Any) -> dict[str, str]:
    try:
        return {
            str(entry["name"]): bytes.fromhex(entry["digest"]).hex()
            for entry in document["predicate"]["resources"]
        }
    except (KeyError, TypeError, ValueError):
        raise ValueError("it is of something else than a release") from None
