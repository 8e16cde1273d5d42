"""Who takes part in a cycle: sites with green verdicts, and nobody who came too late for it.

A cycle begins with a call of the roll: each site has to call, and its verdict to be green. Once the
roll is on disk, it stays for the whole cycle, whoever is restarted.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from openfl_flows.atomic import write_atomically, write_json
from openfl_flows.readiness.findings import SentFinding
from openfl_flows.readiness.rules import Readiness
from openfl_flows.readiness.verdict import Verdict, verified

logger = logging.getLogger(__name__)

EQUAL = ("conformance", "schema", "python")
"""Digests that all sites must have in common, where any of them has one."""
AGAIN_SECONDS = 10.0
"""How soon a site is asked again that is not the reason why a verdict is not enough."""
_ROLL = "roll.json"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the aggregator itself has, and every verdict must agree with.

    Attributes:
        plan: SHA-384 of the plan.
        digests: By name, e.g. ``spec`` and ``frozen``.
        roots: What is trusted.
    """

    plan: str
    digests: Mapping[str, str]
    roots: Sequence[x509.Certificate]


class Gate:
    """Keeps the verdicts of the sites and the roll of the cycle.

    Args:
        folder: Where they are kept.
        sites: The sites that may take part.
        rounds: Number of the last round.
        rules: When a cycle may begin.
        expected: What verdicts must agree with.
        now: The aggregator's clock.

    Raises:
        ValueError: There are fewer sites than the plan wants.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sites: Sequence[str],
        rounds: int,
        rules: Readiness,
        expected: Expected,
        now: Callable[[], float] = time.time,
    ) -> None:
        if rules.least_sites is not None and rules.least_sites > len(sites):
            raise ValueError(
                f"network.readiness.least_sites={rules.least_sites}, expected at most the "
                f"{len(sites)} sites that plan/cols.yaml names"
            )
        self._folder, self._sites = folder, tuple(sorted(sites))
        for stray in folder.glob(".*.tmp"):
            stray.unlink()
        self._rounds, self._rules, self._expected, self._now = rounds, rules, expected, now
        self._verdicts: dict[str, tuple[float, Verdict]] = {}
        self._called: set[str] = set()
        self._since = now()
        self._cycle: int | None = None
        self._opened = threading.Condition()
        self._roll = self._read_roll()
        self._read_verdicts()

    def taking_part(self, round_: int) -> tuple[str, ...] | None:
        """The sites of the cycle in which a round lies; None where it has not begun.

        Args:
            round_: From 1; the round after the last one belongs to the last cycle.
        """
        roll = self._roll
        cycle = self._rules.cycle(min(round_, self._rounds))
        if roll is None or roll["cycle"] != cycle:
            return None
        # Whoever has joined plan/cols.yaml since is waited for, as at the beginning.
        if not set(self._sites) <= {*roll["sites"], *roll["left_out"]}:
            return None
        # Where plan/cols.yaml names none of them any more, it is for the others to begin.
        return tuple(site for site in self._sites if site in roll["sites"]) or None

    def call(self, site: str, round_: int) -> bool:
        """A site has called; return whether it has to bring a verdict.

        Args:
            site: Its name.
            round_: The round at hand, from 1.
        """
        with self._opened:
            self._begin(round_)
            self._called.add(site)
            if site in (self.taking_part(round_) or ()):
                return False
            wanted = self._wants(site)
            if not wanted:
                self._call_roll(round_)
            return wanted

    def wait(self, site: str, round_: int, seconds: float) -> bool:
        """Wait until the cycle has begun; return whether it has, with this site in it."""
        with self._opened:
            self._opened.wait_for(lambda: self.taking_part(round_) is not None, seconds)
            return site in (self.taking_part(round_) or ())

    def take(self, site: str, content: bytes, round_: int) -> None:
        """Take a site's verdict.

        Raises:
            ValueError: It is not the site's own, or is green and not of now.
        """
        verdict = verified(content, site, self._expected.roots)
        if not verdict.red:
            self._check_age(verdict)
        write_atomically(self._folder / f"{site}.json", content)
        with self._opened:
            self._verdicts[site] = self._now(), verdict
            lacks = self.lacks(site)
            for finding in lacks:
                logger.warning(
                    "%s is not ready: %s: %s. Remedy: %s",
                    site, finding.probe, finding.found, finding.remedy,
                )  # fmt: skip
            if not lacks:
                logger.info("%s is ready", site)
            self._begin(round_)
            self._call_roll(round_)

    def _check_age(self, verdict: Verdict) -> None:
        site, age = verdict.site, self._now() - verdict.time
        most = self._rules.max_age_seconds
        if age > most:
            raise ValueError(
                f"verdict of {site!r} is {age:.0f} s old, expected at most {most}: is it new, "
                "and are both clocks right?"
            )
        if -age > self._rules.max_clock_skew_seconds:
            raise ValueError(
                f"verdict of {site!r} is of {-age:.0f} s from now: set the clock of the site, or "
                "of the aggregator, by a time server"
            )

    def lacks(self, site: str) -> list[SentFinding]:
        """What keeps a site that has sent a verdict from taking part."""
        _, verdict = self._verdicts[site]
        found = list(verdict.red)
        for name, ours in {"plan": self._expected.plan, **self._expected.digests}.items():
            theirs = verdict.plan if name == "plan" else verdict.digests.get(name, "")
            if theirs != ours and not any(finding.probe in ("data", "step") for finding in found):
                expected = f"{ours[:16]} as the aggregator has"
                found.append(_other(name, theirs[:16] or "none", expected))
        for name in EQUAL:
            values = {
                other: self._verdicts[other][1].digests.get(name)
                for other in sorted({site, *self._peers()})
            }
            if len(set(values.values())) > 1:
                said = ", ".join(f"{other} {value or 'none'}" for other, value in values.items())
                found.append(_other(name, values[site] or "none", f"the same at all sites: {said}"))
        return found

    def _peers(self) -> list[str]:
        """Whom a site must agree with: those on the roll, else all without a red probe."""
        members = self._roll["sites"] if self._roll is not None else ()
        return [site for site in members if site in self._verdicts] or [
            site for site, (_, verdict) in self._verdicts.items() if not verdict.red
        ]

    def describe(self, round_: int) -> dict[str, Any]:
        """What the operator sees of it, for the status file."""
        with self._opened:
            roll = self.taking_part(round_)
            return {
                "open": roll is not None,
                "since": self._since,
                "taking_part": list(roll or ()),
                "sites": {site: self._describe(site) for site in self._sites},
            }

    def _describe(self, site: str) -> dict[str, Any]:
        if site not in self._verdicts:
            # That of a site on the roll may no longer be readable.
            ready = self._roll is not None and site in self._roll["sites"]
            lacks = [] if ready else [_NO_VERDICT]
            return {"ready": ready, "time": None, "lacks": lacks, "measured": {}}
        when, verdict = self._verdicts[site]
        lacks = [{"probe": f.probe, "found": f.found, "remedy": f.remedy} for f in self.lacks(site)]
        return {
            "ready": not lacks, "time": when, "lacks": lacks, "measured": dict(verdict.measured)
        }  # fmt: skip

    def _begin(self, round_: int) -> None:
        """Notice that another cycle is at hand: all are called anew."""
        cycle = self._rules.cycle(min(round_, self._rounds))
        if cycle != self._cycle:
            if self._cycle is not None:
                self._called.clear()
                self._since = self._now()
            self._cycle = cycle

    def _wants(self, site: str) -> bool:
        if self._roll is not None and site in self._roll["sites"]:
            return False
        if site not in self._verdicts:
            return True
        when, verdict = self._verdicts[site]
        age = self._now() - when
        return (
            bool(verdict.red)
            or age > self._rules.max_age_seconds / 2
            or (bool(self.lacks(site)) and age > AGAIN_SECONDS)
        )

    def _ready(self, site: str) -> bool:
        if site not in self._called:
            return False
        if self._roll is not None and site in self._roll["sites"]:
            return True
        if site not in self._verdicts or self.lacks(site):
            return False
        return self._now() - self._verdicts[site][0] <= self._rules.max_age_seconds

    def _call_roll(self, round_: int) -> None:
        if self.taking_part(round_) is not None:
            return
        ready = [site for site in self._sites if self._ready(site)]
        least = self._rules.least_sites
        waited = self._now() - self._since >= self._rules.wait_seconds
        if len(ready) == len(self._sites) or (least and waited and len(ready) >= least):
            left_out = [site for site in self._sites if site not in ready]
            roll = {"cycle": self._cycle, "sites": ready, "left_out": left_out}
            write_json(self._folder / _ROLL, roll)
            self._roll = roll
            logger.info("Round %d begins with %s", round_, ", ".join(ready))
            if left_out:
                logger.warning(
                    "Round %d begins without %s: not ready after %d s. They may take part from the "
                    "next cycle on", round_, ", ".join(left_out), self._rules.wait_seconds,
                )  # fmt: skip
            self._opened.notify_all()

    def _read_verdicts(self) -> None:
        """Those of the sites that take part, which are not asked again after a restart."""
        for site in self._roll["sites"] if self._roll is not None else ():
            with contextlib.suppress(OSError, ValueError):
                content = (self._folder / f"{site}.json").read_bytes()
                verdict = verified(content, site, self._expected.roots)
                self._verdicts[site] = verdict.time, verdict

    def _read_roll(self) -> dict[str, Any] | None:
        file = self._folder / _ROLL
        if not file.is_file():
            return None
        try:
            roll = json.loads(file.read_text())
            lists = [roll["sites"], roll["left_out"]]
            if not all(isinstance(found, list) for found in lists):
                raise TypeError
            return {"cycle": int(roll["cycle"]), "sites": lists[0], "left_out": lists[1]}
        except (ValueError, TypeError, KeyError):
            logger.warning("%s: not readable: the roll is called anew", file)
            return None


_NO_VERDICT = {
    "probe": "verdict",
    "found": "the site has sent none",
    "remedy": "`openfl-flows check` at the site, then `fx collaborator start`",
}


def _other(name: str, theirs: str, expected: str) -> SentFinding:
    remedies = {
        "plan": "get the workspace anew from the aggregator",
        "spec": "get the workspace anew from the aggregator, and install its requirements.txt",
        "frozen": "have the files of the plan's pretrained model that the aggregator has",
        "conformance": "`openfl-flows data conformance --expect` at a site says in what",
        "schema": "compare the plan's schema and the versions of both sites",
        "python": "have the same Python at all sites",
    }
    return SentFinding(
        probe=name, green=False, found=f"{theirs}, expected {expected}",
        remedy=remedies[name],
    )  # fmt: skip
