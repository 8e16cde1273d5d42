"""Evidence in which anything was changed: never accepted, and never an error of another kind."""

import contextlib
import struct
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openfl_flows.attestation import cbor
from openfl_flows.attestation.claims import claims_bytes, read_claims
from openfl_flows.attestation.collateral import read_collateral
from openfl_flows.attestation.evidence import Evidence, from_bytes, to_bytes
from openfl_flows.attestation.verify import RefusedEvidence
from tests.quoted_bytes import DOMAIN, ENCLAVE
from tests.unit.attestation.conftest import OWN

KINDS = pytest.mark.parametrize("of", [ENCLAVE, DOMAIN], ids=["sgx", "tdx"])
MANY = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def is_accepted(party, evidence, **changes) -> bool:
    try:
        party.verified(evidence, **changes)
    except RefusedEvidence:
        return False
    return True


@KINDS
@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
def test_no_byte_of_a_quote_can_be_changed(party, authority, of, step):
    evidence = party.shows(of)
    collateral = authority.collateral(evidence.kind)
    assert is_accepted(party, evidence, collateral=collateral)
    for place in range(0, len(evidence.quote), step):
        changed = bytearray(evidence.quote)
        changed[place] ^= 1 << place % 8
        forged = replace(evidence, quote=bytes(changed))
        assert not is_accepted(party, forged, collateral=collateral), place


@KINDS
def test_a_quote_is_taken_whole_or_not_at_all(party, authority, of):
    evidence = party.shows(of)
    collateral = authority.collateral(evidence.kind)
    quote = evidence.quote
    lengths = [*range(0, len(quote), 61), len(quote) - 1]
    for forged in [
        *(quote[:length] for length in lengths),
        quote + b"\0",
        quote * 2,
        b"\0" + quote,
    ]:
        assert not is_accepted(party, replace(evidence, quote=forged), collateral=collateral)


def test_bytes_after_the_end_of_each_part_are_refused(party, authority):
    """The library that checks signatures would take them."""
    for of, start in ((ENCLAVE, 432), (DOMAIN, 632)):
        evidence = party.shows(of)
        quote = evidence.quote
        places = [(start, len(quote))]
        if of == DOMAIN:
            places.append((start + 4 + 128 + 2, len(quote)))
        grown = bytearray(quote + b"\n")
        for place, _ in places:
            size = int.from_bytes(grown[place : place + 4], "little")
            grown[place : place + 4] = struct.pack("<I", size + 1)
            with pytest.raises(RefusedEvidence, match="after the end"):
                party.verified(replace(evidence, quote=bytes(grown)))


@KINDS
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda pem: pem + b"\0", None),
        (lambda pem: pem + b"\0\0", "three certificates"),
        (lambda pem: pem + b"\n", "three certificates"),
        (lambda pem: pem.replace(b"\n", b"\r\n"), "three certificates"),
        (lambda pem: b" " + pem, "three certificates"),
        (lambda pem: pem + pem, "three certificates"),
        (lambda pem: pem[: pem.rindex(b"-----BEGIN")], "three certificates"),
        (lambda pem: b"", "three certificates"),
        (lambda pem: b"-----BEGIN CERTIFICATE-----\n" * 20_000, "three certificates"),
    ],
    ids=["zero", "zeros", "line", "windows", "space", "twice", "two", "none", "endless"],
)
def test_the_chain_is_three_certificates_and_nothing_else(party, of, change, reason):
    evidence = party.shows(of)
    quote = evidence.quote
    at = quote.index(b"-----BEGIN")
    chain = change(quote[at:])
    grown = len(chain) - (len(quote) - at)
    forged = bytearray(quote[:at] + chain)
    for place in [at - 4, *((432,) if of == ENCLAVE else (632, 632 + 4 + 128 + 2))]:
        size = int.from_bytes(forged[place : place + 4], "little")
        forged[place : place + 4] = struct.pack("<I", size + grown)
    changed = replace(evidence, quote=bytes(forged))
    if reason is None:
        assert is_accepted(party, changed)
    else:
        with pytest.raises(RefusedEvidence, match=reason):
            party.verified(changed)


@KINDS
@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 6, 7])
def test_other_ways_to_name_a_platform_are_refused(party, of, kind):
    evidence = party.shows(of)
    at = evidence.quote.index(b"-----BEGIN") - 6
    quote = bytearray(evidence.quote)
    quote[at : at + 2] = struct.pack("<H", kind)
    with pytest.raises(RefusedEvidence, match=f"certification data of type {kind}, expected 5"):
        party.verified(replace(evidence, quote=bytes(quote)))


@KINDS
@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (0, b"\5", "version 5"),
        (2, b"\3", "key type 3"),
        (4, b"\2", "TEE type 0x2"),
        (12, bytes(16), "vendor 0{32}"),
    ],
)
def test_headers_of_other_quotes_are_refused(party, of, place, value, reason):
    evidence = party.shows(of)
    quote = bytearray(evidence.quote)
    quote[place : place + len(value)] = value
    with pytest.raises(RefusedEvidence, match=reason):
        party.verified(replace(evidence, quote=bytes(quote)))


def test_no_byte_of_the_claims_can_be_changed(party, authority):
    evidence = party.shows()
    collateral = authority.collateral()
    for place in range(len(evidence.claims)):
        changed = bytearray(evidence.claims)
        changed[place] ^= 1 << place % 8
        forged = replace(evidence, claims=bytes(changed))
        assert not is_accepted(party, forged, collateral=collateral), place


def test_no_byte_of_collateral_makes_another_error(party, authority):
    content = bytearray(authority.collateral())
    evidence = party.shows()
    for place in range(0, len(content), 61):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 7
        is_accepted(party, evidence, collateral=bytes(changed))


@MANY
@given(content=st.binary(max_size=300))
def test_random_bytes_are_refused_as_anything(party, content):
    with pytest.raises(RefusedEvidence):
        from_bytes(content)
    with pytest.raises(RefusedEvidence):
        from_bytes(b"-----BEGIN CERTIFICATE-----\n" + content)
    with pytest.raises(RefusedEvidence):
        read_claims(content)
    with pytest.raises(ValueError, match="collateral"):
        read_collateral(content)
    with contextlib.suppress(ValueError):
        assert cbor.encode(cbor.decode(content)) == content
    for kind in ("sgx", "tdx", "other"):
        evidence = Evidence(kind=kind, quote=content, claims=claims_bytes(OWN))
        assert not is_accepted(party, evidence)


VALUES = st.recursive(
    st.integers(0, 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
        | st.builds(cbor.Tagged, st.integers(0, 2**32), inner)
    ),
    max_leaves=12,
)


@MANY
@given(value=VALUES)
def test_cbor_comes_back_as_it_was(value):
    with contextlib.suppress(ValueError):  # Only what is nested too deeply.
        assert cbor.decode(cbor.encode(value)) == value


@pytest.mark.parametrize(
    "content",
    ["1801", "5f41004100ff", "9f00ff", "a2616200616101", "a2616100616101", "f5", "1bff", "a10000",
     "81" * 20 + "00", "9bffffffffffffffff", "5bffffffffffffffff00", "61ff", "0000", ""],
)  # fmt: skip
def test_cbor_has_one_form_only(content):
    with pytest.raises(ValueError, match=r"CBOR|utf-8"):
        cbor.decode(bytes.fromhex(content))


@KINDS
@MANY
@given(data=st.data())
def test_evidence_with_a_changed_place_is_refused(party, of, data):
    content = to_bytes(party.shows(of))
    place = data.draw(st.integers(0, len(content) - 1))
    changed = content[:place] + data.draw(st.binary(max_size=3)) + content[place + 1 :]
    if changed == content:
        return
    with contextlib.suppress(RefusedEvidence):
        assert not is_accepted(party, from_bytes(changed))


def test_a_certificate_without_evidence_is_refused(authority):
    with pytest.raises(RefusedEvidence, match="there is none"):
        from_bytes(authority.certificates["leaf"].public_bytes(Encoding.PEM))
