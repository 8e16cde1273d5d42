"""What is kept of a round: its record, and the checkpoint of the aggregator after it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from openfl_flows.state import State


@dataclass(frozen=True, kw_only=True)
class SiteRound:
    """One site's part in a round.

    Attributes:
        num_samples: Training samples seen.
        num_steps: Optimizer steps taken.
        metrics: Training and local validation, by name.
        received: Validation of the global model as it arrived, by name.
        seconds: Wall seconds by task, and of ``encode``, ``decode``, ``upload``, ``download``,
            ``wait`` and ``absent`` where they were measured.
        peak_rss_bytes: The most memory the site's process ever held.
        bytes_up: Bytes that the site sent.
        bytes_down: Bytes that it was sent.
        frames: SHA-256 over the frames of its update, in hexadecimal.
        update: Digest of its update as the aggregator had it; empty where nothing was sent.
        rss_bytes: What the site's process held after the round, 0 where it was not measured.
    """

    num_samples: int
    num_steps: int
    metrics: Mapping[str, float]
    received: Mapping[str, float]
    seconds: Mapping[str, float]
    peak_rss_bytes: int
    bytes_up: int = 0
    bytes_down: int = 0
    frames: str = ""
    update: str = ""
    rss_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One round: the model that it made and how.

    Attributes:
        round: Counted from 1.
        digest: Digest of the global model after the join.
        seconds: Wall seconds of the whole round.
        bytes_up: Bytes of the frames of all sites' updates.
        bytes_down: Bytes of the frames that take the model that the round made to all sites.
        metrics: Validation of the model that the round made. The sites measure it when they
            receive it, so it is empty until the next round, or the end.
        sites: Each site's part.
        movement: Norms of :func:`openfl_flows.ops.movement.movement`.
        join_seconds: Wall seconds of joining the updates and encoding the result.
        frames: SHA-256 over the frames that take the model to the sites, in hexadecimal.
        left_out: Why a site of the plan had no part in it, by site.
        refused: Why an update was refused in it, by site; it may have sent another one since.
        rss_bytes: What the aggregator's process held once it had joined.
        model_bytes: Of the model.
        attestation: By site, its verdict on the aggregator and the aggregator's on it, as
            :mod:`openfl_flows.ops.standings` has them; None where nobody is attested.
    """

    round: int
    digest: str
    seconds: float
    bytes_up: int
    bytes_down: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    sites: Mapping[str, SiteRound]
    movement: Mapping[str, float] = field(default_factory=dict)
    join_seconds: float = 0.0
    frames: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    rss_bytes: int = 0
    model_bytes: int = 0
    attestation: Mapping[str, Any] | None = None


NOTHING = State({})


class Checkpoint(NamedTuple):
    """The aggregator's state after a round: all that a resume needs from its side.

    Attributes:
        model: The global model.
        join_state: What the join keeps.
        average: The moving average, None where none is kept.
        frames: What took the model to the sites, by bucket; nothing under the exact codec.
        residual: What the frames left out so far; nothing without error feedback.
    """

    model: State
    join_state: State
    average: State | None
    frames: State = NOTHING
    residual: State = NOTHING
