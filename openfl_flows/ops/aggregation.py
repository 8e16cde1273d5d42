"""The aggregator's side of a run: joins the sites' updates and commits each round to disk."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from openfl_flows.codecs.base import Compression
from openfl_flows.codecs.exchange import AGGREGATOR, encode, exact_bytes, frames_digest
from openfl_flows.codecs.recipes import AS_IT_IS
from openfl_flows.joins.base import Join
from openfl_flows.joins.ema import Ema
from openfl_flows.joins.streaming import due
from openfl_flows.metrics.mean import Means, merge, values
from openfl_flows.ops.events import EventFiles
from openfl_flows.ops.files import let_go
from openfl_flows.ops.memory import resident_bytes
from openfl_flows.ops.movement import movement
from openfl_flows.ops.rounds import NOTHING, Checkpoint, RoundRecord, SiteRound
from openfl_flows.ops.run import RunDirectory
from openfl_flows.privacy.fixed_point import summed
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
        frames_bytes: Bytes of the update's frames.
        frames: SHA-256 over them; empty under the exact codec.
        bytes_up: Bytes that the site sent, all in all.
        bytes_down: Bytes that it was sent.
        rss_bytes: What the site's process held in the end.
    """

    update: Update
    received: Means
    trained: Means
    validated: Means
    seconds: Mapping[str, float]
    peak_rss_bytes: int
    frames_bytes: int
    frames: str = ""
    bytes_up: int = 0
    bytes_down: int = 0
    rss_bytes: int = 0


class Aggregation:
    """Joins rounds and commits them; goes on from the last whole round of its run directory.

    Args:
        run: Where rounds are committed.
        join: How updates become the next model.
        ema: Moving average of the global model, or None.
        compression: How models travel. Under a lossy codec the model that a round makes is what
            the sites make of its frames, so that all have the same one.
        fragments: Parts of the model, of which each round joins one; ``join`` must be made for it.
        secure: Updates are integers, behind masks or not, and their sum is all that is looked at.
    """

    def __init__(
        self,
        run: RunDirectory,
        join: Join,
        ema: Ema | None,
        compression: Compression = AS_IT_IS,
        fragments: int = 1,
        secure: bool = False,
    ) -> None:
        self._run = run
        self._secure = secure
        self._join = join
        self._ema = ema
        self._compression = compression
        self._fragments = fragments
        self._join_state, self._average = run.join_state(), run.average()
        self._residual = run.residual()
        self._events = EventFiles(run.path / "tensorboard")
        self._began = time.monotonic()

    def begin(self) -> None:
        """Start the clock of a round."""
        self._began = time.monotonic()

    def join(
        self,
        model: State,
        contributions: list[Contribution],
        *,
        left_out: Mapping[str, str] | None = None,
        refused: Mapping[str, str] | None = None,
        attestation: Mapping[str, Any] | None = None,
    ) -> State:
        """Join one round's contributions, commit the round, return the next global model.

        Args:
            model: The global model that the round began with.
            contributions: One of each site; emptied, so that each model can be freed once joined.
            left_out: Why a site of the plan has no part in it, by site.
            refused: Why an update was refused in it, by site.
            attestation: Under which verdicts its parties stand, by site.

        Raises:
            ValueError: An update is refused.
        """
        assert model.digest() == self._run.record["digest"]
        contributions.sort(key=lambda c: c.update.site, reverse=True)
        sites = {c.update.site: _site_round(c) for c in reversed(contributions)}
        received = values(merge(c.received for c in reversed(contributions)))
        bytes_up = sum(c.frames_bytes for c in contributions)
        before = due(model, self._fragments, self._run.round + 1)
        began = time.monotonic()
        if self._secure:
            updates: Iterable[Update] = [summed(before, _one_by_one(contributions))]
            moved = movement(before, [*updates])
            # How far apart the sites are is nobody's business.
            del moved["drift"]
        else:
            updates = _one_by_one(contributions)
            moved = movement(before, [c.update for c in reversed(contributions)])
            began = time.monotonic()
        joined, join_state = self._join.apply(model, updates, self._join_state)
        broadcast = self._broadcast(joined, model)
        joined = broadcast.model
        join_seconds = time.monotonic() - began
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
            bytes_down=broadcast.frames_bytes * len(sites),
            sites={site: _with_join(part, join_seconds) for site, part in sites.items()},
            movement=moved,
            join_seconds=join_seconds,
            frames=frames_digest(list(broadcast.frames.values())) if broadcast.frames else "",
            left_out=left_out or {},
            refused=refused or {},
            rss_bytes=resident_bytes(),
            model_bytes=joined.nbytes,
            attestation=attestation,
        )
        self._run.measured(received)
        self._events.write_global(self._run.round, received)
        saved = self._run.commit(
            record, Checkpoint(joined, join_state, average, broadcast.frames, broadcast.residual)
        )
        self._join_state, self._average, self._residual = (
            saved.join_state, saved.average, saved.residual,
        )  # fmt: skip
        self._events.write_sites(record)
        self._began = time.monotonic()
        return joined

    def _broadcast(self, joined: State, model: State) -> "_Broadcast":
        """What takes the joined model to sites that have ``model``, and what they make of it."""
        round_ = self._run.round + 1
        moved = due(joined, self._fragments, round_)
        if self._compression.codec.exact:
            return _Broadcast(joined, NOTHING, NOTHING, exact_bytes(moved.travelling()))
        own = f"{(round_ - 1) % self._fragments}/"
        left = {
            name.removeprefix(own): a for name, a in self._residual.items() if name.startswith(own)
        }
        encoded = encode(
            moved, model, self._compression, sender=AGGREGATOR, round_=round_, residual=State(left)
        )
        others = {n: a for n, a in self._residual.items() if not n.startswith(own)}
        return _Broadcast(
            model.with_arrays(encoded.arrives),
            State({f"{number:04d}": frame for number, frame in enumerate(encoded.frames)}),
            State({**others, **{own + name: a for name, a in encoded.residual.items()}}),
            sum(frame.nbytes for frame in encoded.frames),
        )


class _Broadcast(NamedTuple):
    model: State
    frames: State
    residual: State
    frames_bytes: int


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
    update = contribution.update.state
    digest = update.digest()
    let_go(update)
    return SiteRound(
        num_samples=contribution.update.num_samples,
        num_steps=contribution.update.num_steps,
        metrics=values({**contribution.trained, **contribution.validated}),
        received=values(contribution.received),
        seconds=contribution.seconds,
        peak_rss_bytes=contribution.peak_rss_bytes,
        bytes_up=contribution.bytes_up,
        bytes_down=contribution.bytes_down,
        frames=contribution.frames,
        update=digest,
        rss_bytes=contribution.rss_bytes,
    )


def _with_join(part: SiteRound, join_seconds: float) -> SiteRound:
    """A site that waited for the others waits for the join, too."""
    if "wait" not in part.seconds:
        return part
    wait = part.seconds["wait"] + join_seconds
    return replace(part, seconds={**part.seconds, "wait": wait})
