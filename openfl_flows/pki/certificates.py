"""What a certificate says: P-384 and SHA-384, one purpose each, checkable by RFC 5280's rules."""

import datetime as dt
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from openfl_flows.pki.plan import Party, Role

PURPOSE = {
    "aggregator": ExtendedKeyUsageOID.SERVER_AUTH,
    "collaborator": ExtendedKeyUsageOID.CLIENT_AUTH,
}
"""The extended key usage of a role's certificates."""

Key = ec.EllipticCurvePrivateKey
_CLOCK_SKEW = dt.timedelta(minutes=5)


def new_key() -> Key:
    """A private key on P-384."""
    return ec.generate_private_key(ec.SECP384R1())


def key_pem(key: Key) -> bytes:
    """A private key as unencrypted PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates in PEM, one after the other."""
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def root_certificate(key: Key, *, start: dt.datetime, end: dt.datetime) -> x509.Certificate:
    """The self-signed root, below which one more authority may stand.

    Its name carries a part of its key, so that two roots can be trusted side by side.
    """
    mark = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:8]
    name = _name(f"Root CA {mark}")
    builder = _builder(name, key.public_key(), name, key, start=start, end=end)
    return _authority(builder, path_length=1).sign(key, hashes.SHA384())


def issuer_certificate(
    role: Role,
    key: Key,
    root: x509.Certificate,
    root_key: Key,
    *,
    start: dt.datetime,
    end: dt.datetime,
) -> x509.Certificate:
    """The authority that issues the certificates of one role and no others."""
    builder = _builder(
        _name(f"{role.capitalize()} CA"),
        key.public_key(),
        root.subject,
        root_key,
        start=start,
        end=end,
    )
    builder = builder.add_extension(x509.ExtendedKeyUsage([PURPOSE[role]]), critical=False)
    return _authority(builder, path_length=0).sign(root_key, hashes.SHA384())


def leaf_certificate(
    party: Party,
    public_key: CertificatePublicKeyTypes,
    issuer: x509.Certificate,
    issuer_key: Key,
    *,
    start: dt.datetime,
    end: dt.datetime,
) -> x509.Certificate:
    """A party's certificate; only an aggregator's has an address that a client may connect to."""
    builder = _builder(
        _name(party.name), public_key, issuer.subject, issuer_key, start=start, end=end
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    for extension, critical in party_extensions(party):
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA384())


def party_extensions(party: Party) -> list[tuple[x509.ExtensionType, bool]]:
    """What a party's certificate is good for, each with whether it is critical."""
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (_key_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([PURPOSE[party.role]]), False),
    ]
    if party.role == "aggregator":
        extensions.append((x509.SubjectAlternativeName([address(party.name)]), False))
    return extensions


def request_for(party: Party, key: Key) -> bytes:
    """A certificate signing request in PEM, complete for an authority that heeds what it asks."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(party.name))
    for extension, critical in party_extensions(party):
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


def read_request(content: bytes) -> CertificatePublicKeyTypes:
    """The public key of a signing request, whose sender has the private one.

    Raises:
        ValueError: It is no request, its signature is wrong, or its key is not a strong one that
            TLS libraries take: NIST's curves from P-256, RSA from 3072 bits.
    """
    try:
        request = x509.load_pem_x509_csr(content)
    except ValueError:
        raise ValueError("no certificate signing request in PEM") from None
    if not request.is_signature_valid:
        raise ValueError("the request is not signed by its own key")
    key = request.public_key()
    strong = (
        isinstance(key, rsa.RSAPublicKey)
        and key.key_size >= 3072
        or isinstance(key, ec.EllipticCurvePublicKey)
        and isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1)
    )
    if not strong:
        raise ValueError("a weak or unusual key, expected P-256, P-384, P-521 or RSA from 3072")
    return key


def address(name: str) -> x509.DNSName | x509.IPAddress:
    """A host name or an IP address as certificates hold it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def common_name(certificate: x509.Certificate) -> str:
    """The common name of a certificate's subject; empty if it has none."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, written as ``openssl x509 -fingerprint`` does."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def key_fingerprint(key: CertificatePublicKeyTypes) -> str:
    """SHA-256 of a public key, for two people to compare."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return digest.finalize().hex(":").upper()


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    issuer: x509.Name,
    issuer_key: Key,
    *,
    start: dt.datetime,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(authority_key, critical=False)
    )


def _authority(builder: x509.CertificateBuilder, path_length: int) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    ).add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
