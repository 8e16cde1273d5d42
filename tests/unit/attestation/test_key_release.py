"""The secret of a party: to its enclave, from its keeper; of no use to anybody in between."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from openfl_flows.attestation.claims import Claims, key_digest
from openfl_flows.attestation.evidence import Evidence
from openfl_flows.attestation.key_release import (
    LARGEST_ANSWER,
    LARGEST_REQUEST,
    answer,
    opened,
    read_request,
    refusal,
    request,
)
from openfl_flows.attestation.refusal import RefusedEvidence
from openfl_flows.attestation.verify import Verified
from openfl_flows.strict_json import canonical, parse
from tests.quoted_bytes import ENCLAVE
from tests.unit.attestation.conftest import Party, claiming

SECRET = bytes(range(100, 116))


@dataclass(frozen=True)
class Two:
    """An enclave with its key, and the keeper."""

    party: Party
    own: X25519PrivateKey
    key: Ed25519PrivateKey

    def judge(self, evidence: Evidence, key: CertificatePublicKeyTypes) -> Verified:
        return self.party.verified(evidence, public_key_sha256=key_digest(key))

    def asks(self, of: Any = ENCLAVE, claims: Claims | None = None, **changes: Any) -> bytes:
        claims = claims or claiming(key=key_digest(self.own.public_key()), **changes)
        return request(self.party.shows(of, claims=claims), self.own.public_key())

    def answers(self, content: bytes, secret: bytes = SECRET) -> bytes:
        return answer(content, secret=secret, key=self.key, judge=self.judge)

    def opens(self, content: bytes, asked: bytes) -> bytes:
        return opened(content, request=asked, key=self.own, keeper=self.key.public_key())


@pytest.fixture(scope="session")
def two(party: Party) -> Two:
    return Two(party, X25519PrivateKey.generate(), Ed25519PrivateKey.generate())


@pytest.fixture(scope="session")
def exchanged(two: Two) -> tuple[bytes, bytes]:
    asked = two.asks()
    return asked, two.answers(asked)


def test_the_enclave_gets_its_secret(two: Two, exchanged: tuple[bytes, bytes]) -> None:
    asked, content = exchanged
    assert two.opens(content, asked) == SECRET
    assert len(asked) < LARGEST_REQUEST // 50
    assert len(content) < LARGEST_ANSWER // 10
    assert SECRET not in content
    # Two answers to one request have nothing in common.
    first, second = parse(content), parse(two.answers(asked))
    assert {first[name] == second[name] for name in ("key", "secret", "signature")} == {False}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"of": replace(ENCLAVE, mrenclave=bytes(32))}, "0" * 64),
        ({"of": replace(ENCLAVE, attributes=0x7)}, "DEBUG"),
        ({"of": replace(ENCLAVE, svn=1)}, "expected at least 3"),
        ({"role": "aggregator"}, "of the role aggregator, expected collaborator"),
        ({"name": "site-2"}, "of the party site-2, expected site-1"),
        ({"federation": "00" * 48}, "of the plan 0000"),
        ({"policy": "00" * 32}, "of the policy 0000"),
        ({"claims": claiming()}, "of the TLS key 0001"),
    ],
    ids=["enclave", "debug", "svn", "role", "name", "plan", "policy", "key"],
)
def test_no_other_gets_it(change: dict[str, Any], said: str, two: Two) -> None:
    with pytest.raises(RefusedEvidence, match=said) as caught:
        two.answers(two.asks(**change))
    assert len(str(caught.value).splitlines()) == 1


def test_evidence_that_was_seen_is_of_no_use(two: Two, exchanged: tuple[bytes, bytes]) -> None:
    """The host relays the enclave's evidence with a key of its own, or a whole old request."""
    asked, content = exchanged
    host = X25519PrivateKey.generate()
    evidence, _ = read_request(asked)
    with pytest.raises(RefusedEvidence, match="expected " + key_digest(host.public_key()).hex()):
        two.answers(request(evidence, host.public_key()))
    again = two.answers(asked)
    for seen in (content, again):
        with pytest.raises(ValueError, match="signed, but not for the key of this request"):
            opened(seen, request=asked, key=host, keeper=two.key.public_key())
    # And an old answer, given to a new enclave.
    new = replace(two, own=host)
    with pytest.raises(ValueError, match="not signed by the keeper for this request"):
        new.opens(content, new.asks())


def test_an_answer_is_the_keepers(two: Two, exchanged: tuple[bytes, bytes]) -> None:
    asked, _ = exchanged
    other = replace(two, key=Ed25519PrivateKey.generate())
    with pytest.raises(ValueError, match="not signed by the keeper"):
        two.opens(other.answers(asked, bytes(16)), asked)
    for size in (0, 15, 17, 32):
        with pytest.raises(ValueError, match=f"gives {size} bytes, expected 16"):
            two.opens(two.answers(asked, bytes(size)), asked)


def test_a_key_of_a_small_group_is_refused(two: Two) -> None:
    """With it the shared secret would be known to all."""
    zero = X25519PublicKey.from_public_bytes(bytes(32))
    evidence = two.party.shows(claims=claiming(key=key_digest(zero)))
    with pytest.raises(RefusedEvidence, match="small group"):
        two.answers(request(evidence, zero))


def test_no_bit_of_an_answer_can_be_another(two: Two, exchanged: tuple[bytes, bytes]) -> None:
    asked, content = exchanged
    assert two.opens(content, asked) == SECRET
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r".") as caught:
            two.opens(bytes(changed), asked)
        assert len(str(caught.value).splitlines()) == 1
    for size in range(len(content)):
        with pytest.raises(ValueError, match=r"."):
            two.opens(content[:size], asked)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: {**found, "more": ""},
        lambda found: {**found, "format": "openfl_flows.secret_request/2"},
        lambda found: {**found, "key": found["key"][:-4]},
        lambda found: {**found, "key": "no base64"},
        lambda found: {**found, "key": 5},
        lambda found: {**found, "evidence": "{}"},
        lambda found: {**found, "evidence": "\N{SNOWMAN}"},
        lambda found: {"format": found["format"]},
        lambda found: [found],
        lambda found: None,
    ],
)
def test_what_is_no_request_is_refused_in_a_line(
    spoil: Callable[[dict[str, Any]], Any], two: Two
) -> None:
    with pytest.raises(RefusedEvidence, match="^request: ") as caught:
        two.answers(canonical(spoil(parse(two.asks()))))
    assert len(str(caught.value).splitlines()) == 1


def test_a_refusal_is_a_line_whoever_wrote_it(two: Two, exchanged: tuple[bytes, bytes]) -> None:
    asked, _ = exchanged
    with pytest.raises(ValueError, match=r"^the keeper gives no key: of another enclave$"):
        two.opens(refusal("of another\nenclave"), asked)
    loud = canonical({"format": "openfl_flows.secret_answer/1", "refused": "\x1b[2J\n" * 5000})
    with pytest.raises(ValueError, match="gives no key") as caught:
        two.opens(loud, asked)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700
