"""Verdicts in the ledger: in every attested round's line, and in none of another."""

import json
from hashlib import sha256
from typing import Any

import pytest

from openfl_flows.ops.ledger import LEDGER, read_ledger
from openfl_flows.ops.ledger_lines import disagreements
from openfl_flows.ops.rounds import Checkpoint, RoundRecord, SiteRound
from openfl_flows.ops.run import RunDirectory
from openfl_flows.ops.standings import (
    PROOFS,
    forget_standings,
    note_standing,
    proof,
    standings,
)
from openfl_flows.state import State

VERDICT = {"kind": "sgx", "measurement": "ab", "policy": "c" * 64, "evidence": "d" * 64}
VERDICTS = {"aggregator": VERDICT, "site": None, "signed": "e" * 64}


def test_standings_are_kept_until_they_are_forgotten(tmp_path):
    folder, run = tmp_path / "attested", tmp_path / "run"
    run.mkdir()
    assert standings(folder, ["a"], run) is None
    note_standing(
        folder, "a", {"aggregator": VERDICT, "site": None}, signed=b"{1}", evidence=b"{2}"
    )
    found = standings(folder, ["a", "b"], run)
    assert found == {"a": {**VERDICTS, "signed": sha256(b"{1}").hexdigest()}, "b": None}
    for content in (b"{1}", b"{2}"):
        assert proof(run, sha256(content).hexdigest()) == content
    forget_standings(folder)
    assert standings(folder, ["a"], run) is None


def test_a_proof_is_what_the_ledger_names(tmp_path):
    folder, run = tmp_path / "attested", tmp_path / "run"
    run.mkdir()
    note_standing(folder, "a", {"aggregator": VERDICT}, signed=b"signed", evidence=b"evidence")
    digest = standings(folder, ["a"], run)["a"]["signed"]
    (run / PROOFS / f"{digest}.json").write_bytes(b"signee")
    with pytest.raises(ValueError, match=f"its SHA-256 is .*, expected {digest}"):
        proof(run, digest)
    (run / PROOFS / f"{digest}.json").unlink()
    with pytest.raises(ValueError, match="No such file or directory, expected what a ledger's"):
        proof(run, digest)


def made(path: Any, attestation: Any) -> tuple[Any, dict[str, Any]]:
    first = Checkpoint(State({}), State({}), None)
    run = RunDirectory.create(path, config={}, initial=first)
    site = SiteRound(
        num_samples=1, num_steps=1, metrics={}, received={}, seconds={}, peak_rss_bytes=0
    )
    record = RoundRecord(
        round=1, digest=State({}).digest(), seconds=1.0, bytes_up=0, bytes_down=0,
        sites={"a": site}, attestation=attestation,
    )  # fmt: skip
    run.commit(record, first)
    return read_ledger(path / LEDGER), json.loads((path / "run.json").read_text())


def test_a_round_without_attestation_has_the_line_that_it_always_had(tmp_path):
    ledger, record = made(tmp_path / "run", None)
    assert "attestation" not in ledger.rounds[0]
    assert not list(disagreements(ledger, record))
    # As it was written before there were verdicts.
    del record["rounds"][0]["attestation"]
    assert not list(disagreements(ledger, record))


@pytest.mark.parametrize(
    ("attestation", "said"),
    [
        ({"a": {**VERDICTS, "site": VERDICT}}, None),
        ({"a": {"aggregator": VERDICT, "site": None}}, "a's verdict is not signed"),
        ({"a": None}, "a has no verdict"),
        ({}, "a has no verdict"),
        ({"a": {**VERDICTS, "site": {**VERDICT, "policy": "0"}}}, "2 policies"),
    ],
)
def test_an_attested_round_says_under_which_verdicts(tmp_path, attestation, said):
    ledger, record = made(tmp_path / "run", attestation)
    assert ledger.rounds[0]["attestation"] == attestation
    found = list(disagreements(ledger, record))
    assert (not found) if said is None else (said in found[0])


def test_a_verdict_that_was_changed_since_is_found(tmp_path):
    ledger, record = made(tmp_path / "run", {"a": VERDICTS})
    record["rounds"][0]["attestation"]["a"]["aggregator"]["measurement"] = "cd"
    assert "attestation is" in next(disagreements(ledger, record))
