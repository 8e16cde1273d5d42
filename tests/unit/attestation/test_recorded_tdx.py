"""A quote that a real TDX machine made, judged at the time at which it was made."""

import datetime as dt
from pathlib import Path

import pytest

from openfl_flows.attestation.dcap import verify_quote
from openfl_flows.attestation.judge import judge
from openfl_flows.attestation.policy import policy_of
from openfl_flows.attestation.quote import parse_quote
from openfl_flows.attestation.quoters import read_report
from openfl_flows.attestation.report import read_tdx
from openfl_flows.attestation.verify import RefusedEvidence
from tests.quoting_authority import ROOT

DATA = ROOT / "tests" / "data" / "dcap-qvl"
COLLATERAL = (DATA / "tdx_quote_collateral.json").read_bytes()
THEN = dt.datetime(2025, 6, 20, tzinfo=dt.UTC)


@pytest.fixture
def raw(tmp_path: Path) -> bytes:
    """The quote as this package takes it from Linux: without the zeros behind it."""
    for name, content in (("generation", b"0"), ("provider", b"tdx_guest")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "outblob").write_bytes((DATA / "tdx_quote.bin").read_bytes())
    return read_report(tmp_path, bytes(64)).quote


def judged(raw: bytes, of: bytes, *, now: dt.datetime = THEN, **changes: str) -> str:
    """The measurement of ``raw`` under Intel's root, if it is what was pinned of ``of``."""
    pinned = read_tdx(parse_quote(of, "tdx").body)
    registers = {f"rtmr{number}": value for number, value in enumerate(pinned.rtmr)}
    alternative = {"kind": "tdx", "mrtd": pinned.mrtd, "mrseam": [pinned.mrseam], **registers}
    policy = policy_of(
        {
            "format": "openfl_flows.policy/1",
            "version": 1,
            "roles": {"collaborator": [{**alternative, **changes}]},
        }
    )
    quote = parse_quote(raw, "tdx")
    found = read_tdx(quote.body)
    platform = verify_quote(quote, policy, COLLATERAL, now)
    assert (platform.status, platform.advisories) == ("UpToDate", ())
    return judge(found, policy.roles["collaborator"][0])[0]


def test_it_is_accepted_at_its_time_under_intel_s_root(raw):
    assert judged(raw, raw).startswith("91eb2b44d141d4ec")


def test_the_zeros_that_the_host_put_behind_it_are_refused(raw):
    whole = (DATA / "tdx_quote.bin").read_bytes()
    assert whole == raw + bytes(70)
    with pytest.raises(RefusedEvidence, match="70 bytes after the end of the quote"):
        judged(whole, raw)


@pytest.mark.parametrize(
    ("days", "reason"),
    [(-365, "quote: "), (-2, "in the future"), (31, "at most 30 days"), (500, "at most 30 days")],
)
def test_it_is_refused_at_other_times(raw, days, reason):
    with pytest.raises(RefusedEvidence, match=reason):
        judged(raw, raw, now=THEN + dt.timedelta(days=days))


@pytest.mark.parametrize("key", ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrowner"])
def test_another_machine_is_refused(raw, key):
    with pytest.raises(RefusedEvidence, match="expected abab"):
        judged(raw, raw, **{key: "ab" * 48})


def test_a_newer_module_can_be_asked_for(raw):
    judged(raw, raw, min_tcb_svn="060103" + "00" * 13)
    with pytest.raises(RefusedEvidence, match="security versions are 060103"):
        judged(raw, raw, min_tcb_svn="070103" + "00" * 13)


def test_it_cannot_be_changed(raw):
    for place in range(0, len(raw), 97):
        changed = bytearray(raw)
        changed[place] ^= 1
        with pytest.raises((RefusedEvidence, ValueError)):
            judged(bytes(changed), raw)
