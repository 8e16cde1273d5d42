"""The statement that lets a federation go back: signed by enough signers, and of nothing else."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from openfl_flows.attestation.rollback import (
    SIGNATURES,
    STATEMENT,
    Rollback,
    excuse,
    sign_rollback,
)
from openfl_flows.ops.seen import Seen
from openfl_flows.release.keys import Signers

KEYS = {name: ed25519.Ed25519PrivateKey.generate() for name in ("ann", "bob", "eve")}
BOTH = Signers(need=2, keys={name: KEYS[name].public_key() for name in ("ann", "bob")})
SEEN = Seen(federation="f" * 96, round=7, digest="d" * 64)


def said(**changes: Any) -> Rollback:
    known = {"federation": "f" * 96, "to_round": 7, "digest": "d" * 64, "reason": "a broken disk"}
    return Rollback(**{**known, **changes})


def signed(folder: Path, rollback: Rollback, *names: str) -> Path:
    for name in names:
        sign_rollback(folder, rollback, KEYS[name])
    return folder


def test_enough_signatures_excuse(tmp_path):
    signed(tmp_path, said(), "ann", "bob", "ann")
    assert len(excuse(tmp_path, BOTH, SEEN)) == 64


@pytest.mark.parametrize("names", [("ann",), ("bob",), ("ann", "eve"), ("eve",)])
def test_others_signatures_do_not(tmp_path, names):
    signed(tmp_path, said(), *names)
    with pytest.raises(ValueError, match=r"rollback\.sig: (signed by|a signature of none)"):
        excuse(tmp_path, BOTH, SEEN)


@pytest.mark.parametrize(
    "change", [{"to_round": 6}, {"digest": "e" * 64}, {"federation": "a" * 96}], ids=str
)
def test_it_is_of_one_federation_round_and_model(tmp_path, change):
    signed(tmp_path, said(**change), "ann", "bob")
    with pytest.raises(ValueError, match="lets it go back to round"):
        excuse(tmp_path, BOTH, SEEN)


def test_no_byte_can_be_changed(tmp_path):
    signed(tmp_path, said(), "ann", "bob")
    for file in (STATEMENT, SIGNATURES):
        whole = (tmp_path / file).read_bytes()
        for at in range(0, len(whole), 7):
            (tmp_path / file).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(ValueError, match="rollback"):
                excuse(tmp_path, BOTH, SEEN)
        (tmp_path / file).write_bytes(whole)
    assert excuse(tmp_path, BOTH, SEEN)


def test_another_statement_begins_anew(tmp_path):
    signed(tmp_path, said(to_round=5), "ann", "bob")
    signed(tmp_path, said(), "ann")
    with pytest.raises(ValueError, match="signed by ann, expected 2"):
        excuse(tmp_path, BOTH, SEEN)


@pytest.mark.parametrize(
    "change", [{"to_round": -1}, {"digest": "d"}, {"federation": ""}, {"reason": "two\nlines"}]
)
def test_what_says_nothing_is_not_signed(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        said(**change)
