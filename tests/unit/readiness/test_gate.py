"""The gate: whose verdict counts, what it lacks, and with whom a cycle begins."""

import datetime as dt
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from openfl_flows.pki import signing
from openfl_flows.pki.authority import create_authority, issue, sign
from openfl_flows.pki.certificates import key_pem, new_key
from openfl_flows.pki.party import CHAIN, read_certificates
from openfl_flows.pki.plan import Party
from openfl_flows.readiness.findings import SentFinding
from openfl_flows.readiness.gate import AGAIN_SECONDS, Expected, Gate
from openfl_flows.readiness.rules import Readiness
from openfl_flows.readiness.verdict import MAX_BYTES, Verdict, signed, verified
from openfl_flows.strict_json import canonical

SITES = ("a", "b", "c")
NOW = dt.datetime.now(dt.UTC).timestamp()
DIGESTS = {"spec": "5" * 64, "frozen": "1" * 64}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspaces of all sites, with certificates of one authority; and a stranger's."""
    root = tmp_path_factory.mktemp("places")
    for authority in ("ca", "other-ca"):
        create_authority(root / authority)
    for site in SITES:
        issue(root / "ca", root / site, Party(role="collaborator", name=site))
    issue(root / "other-ca", root / "stranger", Party(role="collaborator", name="a"))
    return root


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Scene:
    """A gate, its clock, and what sites send it."""

    def __init__(self, places: Path, folder: Path, *, rounds: int = 30, **rules: Any) -> None:
        self.places, self.folder, self.clock = places, folder, Clock()
        self.rounds, self.rules = rounds, Readiness(**rules)
        self.restart()

    def restart(self, sites: tuple[str, ...] = SITES) -> None:
        roots = read_certificates((self.places / "a" / CHAIN).read_bytes(), "roots")
        self.gate = Gate(
            self.folder, sites=sites, rounds=self.rounds, rules=self.rules, now=self.clock,
            expected=Expected(plan="p" * 96, digests=DIGESTS, roots=roots),
        )  # fmt: skip

    def verdict(self, site: str = "a", **changes: Any) -> Verdict:
        green = SentFinding(probe="clock", green=True, found="0.00 s", remedy="")
        made = Verdict(
            site=site, plan="p" * 96, time=float(self.clock.now), findings=[green], digests=DIGESTS
        )
        return replace(made, **changes)

    def signed(self, site: str = "a", place: str | None = None, **changes: Any) -> bytes:
        return signed(self.verdict(site, **changes), self.places / (place or site))

    def come(self, *sites: str, round_: int = 1) -> None:
        """They call, and bring a verdict if one is wanted."""
        for site in sites:
            if self.gate.call(site, round_):
                self.gate.take(site, self.signed(site), round_)
                self.gate.call(site, round_)


@pytest.fixture
def scene(places: Path, tmp_path: Path) -> Scene:
    return Scene(places, tmp_path)


def altered(change: Callable[[dict[str, Any]], Any]) -> Callable[[Scene], bytes]:
    """Changed after it was signed."""

    def make(scene: Scene) -> bytes:
        document = json.loads(scene.signed())
        change(document)
        return canonical(document)

    return make


def written(change: Callable[[dict[str, Any]], Any]) -> Callable[[Scene], bytes]:
    """Signed by the site as it was changed."""

    def make(scene: Scene) -> bytes:
        said = asdict(scene.verdict())
        change(said)
        return signing.signed(said, scene.places / "a", Party(role="collaborator", name="a"))

    return make


def by_expired(scene: Scene) -> bytes:
    party, key = Party(role="collaborator", name="a"), new_key()
    folder = scene.folder / "expired"
    for suffix, content in (
        (".key", key_pem(key)),
        (".crt", sign(scene.places / "ca", party, key.public_key(),
                      start=dt.datetime.now(dt.UTC) - dt.timedelta(days=40))),
    ):  # fmt: skip
        party.file(folder, suffix).parent.mkdir(parents=True, exist_ok=True)
        party.file(folder, suffix).write_bytes(content)
    return signed(scene.verdict(), folder)


def by_another(scene: Scene) -> bytes:
    for suffix in (".key", ".crt"):
        found = Party(role="collaborator", name="b").file(scene.places / "b", suffix)
        file = Party(role="collaborator", name="a").file(scene.folder / "by-b", suffix)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(found.read_bytes())
    return signed(scene.verdict(), scene.folder / "by-b")


REFUSED: dict[str, tuple[Callable[[Scene], bytes], str]] = {
    "stale": (lambda s: s.signed(time=NOW - 4000.0), "is 4000 s old, expected at most 3600"),
    "from the future": (lambda s: s.signed(time=NOW + 100.0), "100 s from now: set the clock"),
    "of another site": (lambda s: s.signed("b"), "has common name 'b'"),
    "about another site": (
        written(lambda d: d.update(site="b")),
        "is one of 'b', expected its own",
    ),
    "signed by another site": (by_another, "has common name 'b'"),
    "of a stranger": (lambda s: s.signed(place="stranger"), "does not chain up to a trusted root"),
    "with an expired certificate": (by_expired, "is valid from"),
    "altered": (
        altered(lambda d: d["said"]["findings"][0].update(found="none")),
        "its signature is not by the key",
    ),
    "another signature": (altered(lambda d: d.update(signature="AAAA")), "its signature is not by"),
    "no signature": (altered(lambda d: d.update(signature="?")), "its signature is not by"),
    "a word for a truth": (
        written(lambda d: d["findings"][0].update(green="yes")),
        "valid boolean",
    ),
    "no number": (
        lambda s: s.signed().replace(b'"measured":{}', b'"measured":{"x":1e999}'),
        "Out of range float",
    ),
    "letters in the signature": (altered(lambda d: d.update(signature="\u00e4")), "signature"),
    "a forged line": (
        lambda s: s.signed(findings=[SentFinding(probe="x", green=True, found="a\nb", remedy="")]),
        "has control characters",
    ),
    "a number missing": (written(lambda d: d.pop("time")), "time"),
    "another format": (lambda s: s.signed(format="x/2"), "has format 'x/2'"),
    "parts missing": (
        altered(lambda d: d.pop("certificates")),
        "expected certificates, said",
    ),
    "no JSON": (lambda s: b"{", "not readable as JSON"),
    "twins": (lambda s: b'{"a":1,"a":2}', "key 'a' occurs twice"),
    "deep": (lambda s: b"[" * 100_000, "nested too deeply"),
    "huge": (lambda s: b" " * (MAX_BYTES + 1), "bytes, expected at most"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_verdict_that_is_not_the_sites_own_is_refused(name: str, scene: Scene) -> None:
    make, said = REFUSED[name]
    with pytest.raises(ValueError, match="verdict of 'a'") as refused:
        scene.gate.take("a", make(scene), 1)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert scene.gate.describe(1)["sites"]["a"]["ready"] is False
    assert not (scene.folder / "a.json").exists()


def test_every_byte_of_a_verdict_counts(scene: Scene) -> None:
    content = scene.signed()
    roots = read_certificates((scene.places / "a" / CHAIN).read_bytes(), "roots")
    assert verified(content, "a", roots) == verified(content, "a", roots)
    for place in range(content.index(b'"said"'), content.index(b'"signature"'), 7):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(ValueError, match="verdict of 'a'"):
            verified(bytes(changed), "a", roots)


LACKS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a red probe": (
        {"findings": [SentFinding(probe="disk", green=False, found="full", remedy="free some")]},
        "disk", "free some",
    ),
    "another plan": ({"plan": "q" * 96}, "plan", "get the workspace anew"),
    "another model": ({"digests": {**DIGESTS, "spec": "6" * 64}}, "spec", "requirements.txt"),
    "another encoder": ({"digests": {**DIGESTS, "frozen": "2" * 64}}, "frozen", "pretrained"),
    "no digests": ({"digests": {}}, "spec", "requirements.txt"),
    "another split": ({"digests": {**DIGESTS, "conformance": "3" * 64}}, "conformance", "--expect"),
    "another Python": ({"digests": {**DIGESTS, "python": "3.12"}}, "python", "the same Python"),
}  # fmt: skip


@pytest.mark.parametrize("name", LACKS)
def test_what_a_site_lacks_is_told_with_a_remedy(name: str, scene: Scene, caplog: Any) -> None:
    changes, probe, remedy = LACKS[name]
    scene.come("b", "c")
    assert scene.gate.call("a", 1)
    with caplog.at_level(logging.WARNING):
        scene.gate.take("a", scene.signed(**changes), 1)
    assert scene.gate.taking_part(1) is None
    found = scene.gate.describe(1)["sites"]["a"]
    assert not found["ready"]
    assert any(f["probe"] == probe and remedy in f["remedy"] for f in found["lacks"])
    assert f"a is not ready: {probe}" in caplog.text
    # Mended, it is asked again, and the round begins.
    scene.clock.now += AGAIN_SECONDS + 1
    scene.come("a", "b", "c")
    assert scene.gate.taking_part(1) == SITES


def test_a_red_verdict_is_kept_whatever_the_sites_clock_says(scene: Scene) -> None:
    red = SentFinding(probe="clock", green=False, found="300 s", remedy="a time server")
    for seconds in (-4000.0, 300.0):
        scene.gate.call("a", 1)
        scene.gate.take("a", scene.signed(time=scene.clock.now + seconds, findings=[red]), 1)
        (lack,) = scene.gate.describe(1)["sites"]["a"]["lacks"]
        assert lack["probe"] == "clock"
    assert scene.gate.call("a", 1)


def test_a_site_that_is_not_ready_itself_blames_no_other(places: Path, tmp_path: Path) -> None:
    scene = Scene(places, tmp_path, least_sites=2, wait_seconds=0, cycle_rounds=10)
    red = SentFinding(probe="data", green=False, found="", remedy="mend them")
    scene.gate.call("c", 1)
    scene.gate.take("c", scene.signed("c", digests={}, findings=[red]), 1)
    schema = {**DIGESTS, "schema": "7" * 64}
    for site in ("a", "b"):
        scene.gate.call(site, 1)
        scene.gate.take(site, scene.signed(site, digests=schema), 1)
    assert scene.gate.taking_part(1) == ("a", "b")
    # Who comes late has to agree with those that take part, and not they with it; nor does a
    # restart in between forget what they have.
    for _ in range(2):
        scene.gate.call("c", 2)
        scene.gate.take("c", scene.signed("c", digests={**DIGESTS, "schema": "8" * 64}), 2)
        sites = scene.gate.describe(2)["sites"]
        assert [sites[site]["ready"] for site in SITES] == [True, True, False]
        assert [lack["probe"] for lack in sites["c"]["lacks"]] == ["schema"]
        scene.restart()


def test_a_cycle_whose_sites_are_all_taken_out_begins_anew(places: Path, tmp_path: Path) -> None:
    scene = Scene(places, tmp_path, least_sites=1, wait_seconds=0)
    scene.come("a")
    assert scene.gate.taking_part(1) == ("a",)
    scene.restart(("b", "c"))
    assert scene.gate.taking_part(2) is None
    scene.come("b", "c", round_=2)
    assert scene.gate.taking_part(2) == ("b",)


def test_what_sites_measured_is_known_after_a_restart(scene: Scene) -> None:
    for site in SITES:
        scene.gate.call(site, 1)
        scene.gate.take(site, scene.signed(site, measured={"upload_bytes_per_second": 1e6}), 1)
    scene.restart()
    assert scene.gate.describe(1)["sites"]["b"]["measured"] == {"upload_bytes_per_second": 1e6}
    (scene.folder / "b.json").write_bytes(b"{")
    scene.restart()
    assert scene.gate.describe(1)["sites"]["b"]["ready"]


def test_a_round_begins_once_all_are_green_and_none_is_asked_again(scene: Scene) -> None:
    scene.come("a", "b")
    assert scene.gate.taking_part(1) is None
    assert not scene.gate.call("a", 1)
    assert not scene.gate.wait("a", 1, 0)
    scene.clock.now += 10**6
    assert scene.gate.taking_part(1) is None
    # Verdicts are too old by now.
    scene.come("a", "b", "c")
    assert scene.gate.taking_part(1) == SITES
    assert scene.gate.wait("c", 1, 0)
    assert not any(scene.gate.call(site, 31) for site in SITES)
    scene.restart()
    assert scene.gate.taking_part(31) == SITES
    assert not scene.gate.call("a", 2)
    assert scene.gate.describe(2)["sites"]["a"]["ready"]


def test_a_late_site_joins_the_next_cycle(places: Path, tmp_path: Path) -> None:
    scene = Scene(places, tmp_path, least_sites=2, wait_seconds=60, cycle_rounds=10)
    scene.come("a", "b")
    scene.clock.now += 59
    scene.come("a", "b")
    assert scene.gate.taking_part(1) is None
    scene.clock.now += 2
    scene.come("a")
    assert scene.gate.taking_part(1) == ("a", "b")
    scene.come("c", round_=4)
    assert scene.gate.taking_part(10) == ("a", "b")
    assert not scene.gate.wait("c", 10, 0)
    scene.restart()
    assert scene.gate.taking_part(10) == ("a", "b")
    scene.come("c", round_=10)
    scene.come("a", "b", round_=11)
    assert scene.gate.taking_part(11) is None
    scene.come("c", round_=11)
    assert scene.gate.taking_part(11) == SITES
    # Who is gone at the beginning of a cycle is waited for, and then left out until the next.
    scene.come("b", "c", round_=21)
    assert scene.gate.taking_part(21) is None
    scene.clock.now += 61
    scene.come("b", "c", round_=21)
    assert scene.gate.taking_part(21) == ("b", "c")
    # The round that measures belongs to the last cycle.
    assert scene.gate.taking_part(31) == ("b", "c")


def test_fewer_sites_than_the_plan_wants_wait(places: Path, tmp_path: Path) -> None:
    scene = Scene(places, tmp_path, least_sites=2, wait_seconds=0, cycle_rounds=10)
    scene.come("a")
    scene.clock.now += 1000
    scene.come("a")
    assert scene.gate.taking_part(1) is None
    with pytest.raises(ValueError, match="least_sites=4, expected at most the 3 sites"):
        Scene(places, tmp_path, least_sites=4)


def test_a_site_that_is_new_in_cols_is_waited_for(scene: Scene) -> None:
    scene.restart(("a", "b"))
    scene.come("a", "b")
    assert scene.gate.taking_part(1) == ("a", "b")
    scene.restart()
    assert scene.gate.taking_part(2) is None
    scene.come("a", "b", "c", round_=2)
    assert scene.gate.taking_part(2) == SITES
    # One that is taken out, and put back, is as before.
    scene.restart(("a", "c"))
    assert scene.gate.taking_part(3) == ("a", "c")
    scene.restart()
    assert scene.gate.taking_part(3) == SITES


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"least_sites": 0}, "least_sites=0, expected at least 1"),
        ({"cycle_rounds": 0}, "cycle_rounds=0, expected at least 1"),
        ({"probe_mib": 33}, "probe_mib=33, expected at most 32"),
        ({"least_mbit": 0.0}, "least_mbit=0.0, expected above 0"),
        ({"least_mbit": 1.0, "probe_mib": 0}, "measures none"),
        ({"max_age_seconds": 5}, "max_age_seconds=5, expected at least 60"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Readiness(**rules)
