"""What an operator should look at: which site has become slow, or has a loss unlike its own.

A site's seconds are compared, part by part, with those of the other sites in this round and in the
four before it: with their median m and the median absolute deviation MAD from it, so that a site
that is slow, or a round that was, moves neither far. Iglewicz and Hoaglin's (1993) robust z is

    z = 0.6745 (x - m) / MAD

with the other sites' median of this round for m where that is higher: what has become slow
everywhere is no one site's.

A part is slow where z is above 3.5 and it makes the site's path longer by more than a fifth of the
other sites' median path, and by more than half a second. In a first round the sites are compared
with each other alone, so that one that is slow from the beginning is named after it.

A site's loss, which is positive, has risen by

    r_t = log(loss_t / median(loss_{t-5}, …, loss_{t-1}))

less the median of what the other sites' have risen. It jumps where it has more than doubled, r is
half as much again as the highest of the site's last fifty, and z of r among these is above 3.5.

Each finding is told when it begins, and when it is over: when it is under half of what it takes. Of
a loss that is half of log 2 above what was expected before it jumped.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

from openfl_flows.ops.costs import short
from openfl_flows.ops.spans import PARTS, Spans, spans, travelled

ROUNDS = 5
"""Rounds that are compared."""
Z = 3.5
SLOWER = 0.2
"""Share of the other sites' median path from which on a part is worth a word."""
LEAST_SECONDS = 0.5
LOSS_ROUNDS = 50
"""Rises that a loss's is compared with: it is noisier than a clock."""
JUMP = math.log(2)
"""Rise of a loss from which on it is worth a word."""
BEYOND = 1.5
"""How many times the highest rise before it a jump is."""
_CONSISTENT = 0.6745
_HISTORY = 3
ALL = "all"
"""In place of a site's name, where it is the median site that became slow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One line for the operator.

    Attributes:
        round: The round after which it is told.
        site: Whom it is about.
        quantity: A part of the path, ``round``, ``memory``, or a loss.
        value: What was measured, in seconds or in units of the loss.
        median: What it was compared with.
        over: Whether it tells that this is over.
    """

    round: int
    site: str
    quantity: str
    value: float
    median: float
    over: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """What it is about."""
        return self.site, self.quantity

    def sentence(self) -> str:
        """The line."""
        value, median = short(self.value), short(self.median)
        if self.quantity == "memory":
            what = f"memory grows by {value} bytes a round, the limit is {median}"
        elif self.quantity == "absent":
            what = f"was absent for {value} s, the others' median is {median} s"
        elif self.quantity in PARTS:
            what = f"{self.quantity} {value} s, the others' median is {median} s"
        elif self.quantity == "round":
            what = f"the median site's round takes {value} s, {median} s in the rounds before"
        else:
            what = f"{self.quantity} {value}, expected about {median}"
        return f"{self.site}, round {self.round}: {what}{' (over)' if self.over else ''}"

    def document(self) -> dict[str, Any]:
        """As JSON has it; what is not a number is null."""
        found = {**asdict(self), "sentence": self.sentence()}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v
                for k, v in found.items()}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Finding:
    """A value beside its median, and how far it is above, in units of what an alert takes."""

    value: float
    median: float
    score: float


_Findings = dict[tuple[str, str], _Finding]


class Alerts:
    """Tells onsets and ends, round by round.

    Args:
        losses: Names of the metrics of which less is better, and that are watched.
        delay: Steps that sites take while bytes travel.

    Attributes:
        active: What began and is not over.
    """

    def __init__(self, *, losses: Sequence[str] = ("train_loss",), delay: int = 0) -> None:
        self.active: dict[tuple[str, str], Alert] = {}
        self._losses, self._delay = tuple(losses), delay
        self._spans: deque[dict[str, Spans]] = deque(maxlen=ROUNDS)
        self._metrics: deque[dict[str, Mapping[str, float]]] = deque(maxlen=LOSS_ROUNDS + ROUNDS)

    def observe(self, entry: Mapping[str, Any]) -> list[Alert]:
        """What a finished round gives to say.

        Args:
            entry: The round, as ``run.json`` has it.
        """
        found: _Findings = {}
        if travelled(entry):
            by_site = {s: spans(part, self._delay) for s, part in sorted(entry["sites"].items())}
            found |= _slow(by_site, self._spans)
            self._spans.append(by_site)
        metrics = {site: part["metrics"] for site, part in sorted(entry["sites"].items())}
        for name in self._losses:
            began = {s: alert.median for (s, what), alert in self.active.items() if what == name}
            found |= _jumps(name, metrics, self._metrics, began)
        self._metrics.append(metrics)
        return self.tell(
            entry["round"], {key: (f.value, f.median, f.score) for key, f in found.items()}
        )

    def tell(
        self, round_: int, found: Mapping[tuple[str, str], tuple[float, float, float]]
    ) -> list[Alert]:
        """What of the findings begins, and which active ones are over.

        Args:
            round_: The round.
            found: By site and quantity: value, median, and score, of which 1 is what it takes.
        """
        told = []
        for (site, quantity), (value, median, score) in found.items():
            active = (site, quantity) in self.active
            if not (score <= 0.5 if active else score > 1):
                continue
            alert = Alert(
                round=round_, site=site, quantity=quantity, value=value, median=median, over=active
            )
            if active:
                del self.active[site, quantity]
            else:
                self.active[site, quantity] = alert
            told.append(alert)
        return told


def robust_z(value: float, sample: Sequence[float], *, median: float | None = None) -> float:
    """Robust z of a value in a sample; infinite where all of the sample agree on another value.

    Args:
        value: The value.
        sample: The others.
        median: What to take for their median; by default it is that.
    """
    own = statistics.median(sample)
    above = value - (own if median is None else median)
    if not above:
        return 0.0
    deviation = statistics.median(abs(x - own) for x in sample)
    return _CONSISTENT * above / deviation if deviation else math.copysign(math.inf, above)


def _slow(now: Mapping[str, Spans], before: Iterable[Mapping[str, Spans]]) -> _Findings:
    found: _Findings = {}
    window = [*before][-(ROUNDS - 1) :]
    for site, mine in now.items():
        here = [seconds for name, seconds in now.items() if name != site]
        others = here + [s for past in window for name, s in past.items() if name != site]
        if not here:
            continue
        least = _least([sum(seconds.values()) for seconds in others])
        for part in PARTS:
            sample = [seconds[part] for seconds in others]
            # Where all have become slow, it is no one site.
            median = max(
                statistics.median(sample), statistics.median(seconds[part] for seconds in here)
            )
            z = robust_z(mine[part], sample, median=median)
            score = min(z / Z, (mine[part] - median) / least)
            found[site, part] = _Finding(mine[part], median, score)
    paths = [_middle(past) for past in window]
    if len(paths) >= _HISTORY:
        middle, median = _middle(now), statistics.median(paths)
        score = min(robust_z(middle, paths) / Z, (middle - median) / _least(paths))
        found[ALL, "round"] = _Finding(middle, median, score)
    return found


def _least(paths: Sequence[float]) -> float:
    """Seconds from which on a difference is worth a word."""
    return max(LEAST_SECONDS, SLOWER * statistics.median(paths))


def _middle(round_: Mapping[str, Spans]) -> float:
    return statistics.median(sum(seconds.values()) for seconds in round_.values())


def _jumps(
    name: str,
    now: Mapping[str, Mapping[str, float]],
    before: Iterable[Mapping[str, Mapping[str, float]]],
    began: Mapping[str, float],
) -> _Findings:
    """How far each site's loss is above its own last ones, beyond what the others' are.

    Args:
        name: Of the loss.
        now: Metrics by site.
        before: The same in the rounds before.
        began: What was expected, by site, of the losses that have jumped already.
    """
    history = [*before]
    own = {
        site: losses
        for site in now
        if _is_loss(now[site].get(name))
        and len(
            losses := [
                value
                for round_ in (*history, now)
                if _is_loss(value := round_.get(site, {}).get(name))
            ]
        )
        > ROUNDS
    }
    rises = {
        site: [
            math.log(losses[i] / statistics.median(losses[max(0, i - ROUNDS) : i]))
            for i in range(1, len(losses))
        ][-LOSS_ROUNDS - 1 :]
        for site, losses in own.items()
    }
    found: _Findings = {}
    for site, (*past, rise) in rises.items():
        # Losses fall; that one falls later than the others is no jump.
        drift = statistics.median([max(0.0, r[-1]) for s, r in rises.items() if s != site] or [0.0])
        value = own[site][-1]
        expected = value / math.exp(rise - drift)
        rise -= drift
        score = min(robust_z(rise, past) / Z, rise / JUMP)
        if rise <= BEYOND * max(past):
            score = min(score, 0.0)
        if site in began:
            expected = began[site]
            score = math.log(value / expected) / JUMP
        found[site, name] = _Finding(value, expected, score)
    return found


def _is_loss(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value) and value > 0
