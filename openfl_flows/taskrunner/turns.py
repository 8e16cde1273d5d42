"""When sites take their turns in a round, as the aggregator sees it: who was absent, who waited."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from openfl_flows.ops.aggregation import Contribution
from openfl_flows.ops.spans import turn_seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One site's turn.

    Attributes:
        arrived: Seconds from the round's beginning until the site's last result was there.
        polled: Of these, what passed before it asked for its tasks, as far as it had been told to
            ask no sooner.
        least: Silence that is no absence.
    """

    arrived: float
    polled: float
    least: float


class Turns:
    """Notes when sites call and deliver.

    Args:
        poll_seconds: How long an idle site waits before it asks again.
    """

    def __init__(self, poll_seconds: float) -> None:
        self._poll = poll_seconds
        self._began = time.monotonic()
        self._heard: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._arrived: dict[str, float] = {}

    def begin(self) -> None:
        """A round begins."""
        self._began, self._before = time.monotonic(), dict(self._heard)
        self._first.clear()
        self._arrived.clear()

    def heard(self, site: str) -> None:
        """A site called."""
        now = self._heard[site] = time.monotonic()
        self._first.setdefault(site, now)

    def arrived(self, site: str) -> None:
        """A site's result was taken."""
        self._arrived[site] = time.monotonic()

    def taken(self) -> dict[str, Turn]:
        """The turns of all sites that have delivered in this round."""
        return {
            site: Turn(arrived=at - self._began, polled=self._polled(site), least=self._poll)
            for site, at in self._arrived.items()
        }

    def _polled(self, site: str) -> float:
        """A site that was there before the round is expected back after its poll, no sooner."""
        if site not in self._before or site not in self._first:
            return 0.0
        expected = self._before[site] + self._poll
        return max(0.0, min(self._first[site], expected) - self._began)


def with_turns(
    contributions: Iterable[Contribution], turns: Mapping[str, Turn]
) -> list[Contribution]:
    """Contributions with what the aggregator saw of their sites: ``absent`` and ``wait`` seconds.

    Args:
        contributions: Of one round.
        turns: By site; a site without one keeps what it measured itself.
    """
    last = max((turn.arrived for turn in turns.values()), default=0.0)
    found = []
    for contribution in contributions:
        site = contribution.update.site
        if site in turns:
            turn = turns[site]
            part = {"seconds": contribution.seconds, "num_steps": contribution.update.num_steps}
            seen = turn_seconds(
                part, arrived=turn.arrived, polled=turn.polled, last=last, least=turn.least
            )
            contribution = replace(contribution, seconds={**contribution.seconds, **seen})
        found.append(contribution)
    return found
