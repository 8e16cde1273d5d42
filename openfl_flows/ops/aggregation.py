"""The aggregator's side of a run: joins the sites' updates and commits each round to disk."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from openfl_flows.joins.base import Join
from openfl_flows.joins.ema import Ema
from openfl_flows.metrics.mean import Means, merge, values
from openfl_flows.ops.events import EventFiles
from openfl_flows.ops.files import let_go
from openfl_flows.ops.movement import movement
from openfl_flows.ops.run import Checkpoint, RoundRecord, RunDirectory, SiteRound
from openfl_flows.state import State
from openfl_flows.update import Update


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """All that leaves a site in one round.

    Attributes:
        update: The trained model with its weight.
        received: Validation of the global model as it arrived.
        trained: Means over the training.
        validated: Validation of the locally trained model.
        seconds: Wall seconds by task.
        peak_rss_bytes: The most memory the site's process ever held.
    """

    update: Update
    received: Means
    trained: Means
    validated: Means
    seconds: Mapping[str, float]
    peak_rss_bytes: int


class Aggregation:
    """Joins rounds and commits them; goes on from the last whole round of its run directory.

    Args:
        run: Where rounds are committed.
        join: How updates become the next model.
        ema: Moving average of the global model, or None.
    """

    def __init__(self, run: RunDirectory, join: Join, ema: Ema | None) -> None:
        self._run = run
        self._join = join
        self._ema = ema
        self._join_state, self._average = run.join_state(), run.average()
        self._events = EventFiles(run.path / "tensorboard")
        self._began = time.monotonic()

    def begin(self) -> None:
        """Start the clock of a round."""
        self._began = time.monotonic()

    def join(self, model: State, contributions: list[Contribution]) -> State:
        """Join one round's contributions, commit the round, return the next global model.

        Args:
            model: The global model that the round began with.
            contributions: One of each site; emptied, so that each model can be freed once joined.

        Raises:
            ValueError: An update is refused.
        """
        assert model.digest() == self._run.record["digest"]
        contributions.sort(key=lambda c: c.update.site, reverse=True)
        sites = {c.update.site: _site_round(c) for c in reversed(contributions)}
        received = values(merge(c.received for c in reversed(contributions)))
        bytes_up = sum(c.update.state.nbytes for c in contributions)
        moved = movement(model, [c.update for c in reversed(contributions)])
        joined, join_state = self._join.apply(model, _one_by_one(contributions), self._join_state)
        average = self._average
        if self._ema is not None:
            assert average is not None
            num_steps = max(site.num_steps for site in sites.values())
            average = self._ema(average, model, joined, num_steps)
        record = RoundRecord(
            round=self._run.round + 1,
            digest=joined.digest(),
            seconds=time.monotonic() - self._began,
            bytes_up=bytes_up,
            bytes_down=model.nbytes * len(sites),
            sites=sites,
            movement=moved,
        )
        self._run.measured(received)
        self._events.write_global(self._run.round, received)
        saved = self._run.commit(record, Checkpoint(joined, join_state, average))
        self._join_state, self._average = saved.join_state, saved.average
        self._events.write_sites(record)
        self._began = time.monotonic()
        return joined


def _one_by_one(contributions: list[Contribution]) -> Iterator[Update]:
    """The updates, last first; of those that are files, none stays in memory once it is joined."""
    while contributions:
        update = contributions.pop().update
        yield update
        let_go(update.state)


def initial_checkpoint(model: State, join: Join, *, average: bool) -> Checkpoint:
    """What an aggregator holds before round 1."""
    return Checkpoint(model=model, join_state=join.init(model), average=model if average else None)


def _site_round(contribution: Contribution) -> SiteRound:
    return SiteRound(
        num_samples=contribution.update.num_samples,
        num_steps=contribution.update.num_steps,
        metrics=values({**contribution.trained, **contribution.validated}),
        received=values(contribution.received),
        seconds=contribution.seconds,
        peak_rss_bytes=contribution.peak_rss_bytes,
    )
