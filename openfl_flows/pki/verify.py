"""Whether a certificate is good for a party: name, purpose, time, and a chain to a trusted root."""

import datetime as dt
from collections.abc import Sequence

from cryptography import x509
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from openfl_flows.pki.certificates import PURPOSE, address, common_name
from openfl_flows.pki.plan import Party


def verified_chain(
    party: Party,
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    *,
    now: dt.datetime | None = None,
) -> list[x509.Certificate]:
    """The way from a party's certificate to a trusted root, both included.

    It is stricter than TLS: one purpose alone, since a certificate for both could pose as the
    aggregator and as a site; and a site's common name, by which OpenFL knows it.

    Args:
        party: Whose certificate it is.
        leaf: The certificate.
        others: What may stand between it and a root.
        roots: What is trusted.
        now: The moment at which all of them must be valid; this one by default.

    Raises:
        ValueError: It is not good for the party.
    """
    now = now or dt.datetime.now(dt.UTC)
    if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
        raise ValueError(
            f"{party}: the certificate is valid from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} "
            f"to {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, expected a valid one"
        )
    if party.role == "collaborator" and common_name(leaf) != party.name:
        raise ValueError(
            f"{party}: the certificate has common name {common_name(leaf)!r}, "
            f"expected {party.name!r}"
        )
    purposes = _purposes(leaf)
    if purposes != [PURPOSE[party.role]]:
        found = " and ".join(purpose._name for purpose in purposes)
        raise ValueError(
            f"{party}: the certificate has extended key usage {found or 'none'}, "
            f"expected {PURPOSE[party.role]._name} alone"
        )
    try:
        return _chain(party, leaf, others, roots, now)
    except VerificationError as error:
        reason = " ".join(str(error).split()).removeprefix("validation failed: ")
        raise ValueError(
            f"{party}: the certificate does not chain up to a trusted root: {reason}"
        ) from None


def _chain(
    party: Party,
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    now: dt.datetime,
) -> list[x509.Certificate]:
    policy = PolicyBuilder().store(Store(list(roots))).time(now)
    authorities = ExtensionPolicy.webpki_defaults_ca()
    if party.role == "collaborator":
        # A site is known by its common name: unlike the library's default, it needs no address.
        client = policy.extension_policies(
            ca_policy=authorities, ee_policy=ExtensionPolicy.permit_all()
        ).build_client_verifier()
        return client.verify(leaf, list(others)).chain
    return (
        policy.extension_policies(
            ca_policy=authorities,
            ee_policy=ExtensionPolicy.permit_all().require_present(
                x509.SubjectAlternativeName, Criticality.AGNOSTIC, None
            ),
        )
        .build_server_verifier(address(party.name))
        .verify(leaf, list(others))
    )


def _purposes(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []
