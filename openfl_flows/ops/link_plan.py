"""Which codec, how many steps between syncs and how many fragments a thin link asks for.

What there is to choose from is predicted one by one with :mod:`openfl_flows.ops.round_time`::

    B = values b / F + 512 frames           one way, for each site: b bytes a value, F fragments
    compute = steps s + v,  steps = H / F   s seconds a step, v seconds of validation a round
    hidden = τ s                            the τ steps that are taken while bytes travel, τ < steps

F = 1 waits for its bytes (τ = 0). With more fragments τ is the fewest steps that hide the transfer,
or all but one of a round's where not even these do. Bytes of a value, seconds of encoding and what
rounding loses are measured: on normal random numbers, or in a run.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from openfl_flows.codecs.base import Compression
from openfl_flows.codecs.frame import HEADER_BYTES, Header, write_frame
from openfl_flows.ops.link import Link
from openfl_flows.ops.round_time import RoundTime, SiteWork, predicted_round
from openfl_flows.seeds import derived_seed
from openfl_flows.state import BUCKET_BYTES

SAMPLE = 2**20
"""Values that a codec is measured on."""

_SIGMA = 1e-3
_ROUNDS = 2
_FEEDBACK_ROUNDS = 4
_FRAME_VALUES = BUCKET_BYTES // 4
_NO_DIGEST = "0" * 64


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecCost:
    """What a codec costs, per float32 value.

    Attributes:
        name: Of the codec.
        raw_bytes: Bytes of the payload.
        sent_bytes: Bytes that travel, compressed where that pays.
        error: Root mean square of what one encoding loses, relative to the values'.
        encode_seconds: Processor seconds of encoding.
        decode_seconds: Processor seconds of decoding.
        measured: On what these are measured.
    """

    name: str
    raw_bytes: float
    sent_bytes: float
    error: float
    encode_seconds: float
    decode_seconds: float
    measured: str = "normal random numbers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast a site computes.

    Attributes:
        step: Seconds of one step, or epoch.
        fixed: Seconds of a round that do not depend on its steps: validation.
    """

    step: float
    fixed: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What a federation has to move, and how fast it computes and transfers.

    Attributes:
        values: Floating point numbers of the model that travel.
        exact_bytes: Bytes of its integers, which no codec touches.
        period: Steps between two syncs of the same tensor, H; or epochs.
        unit: Which of the two.
        paces: By site.
        links: By site.
        aggregator: Its own line, None where it is wider than all links together.
        join: Seconds that the join of the whole model is known to take.
    """

    values: int
    exact_bytes: int = 0
    period: int
    unit: Literal["steps", "epochs"] = "steps"
    paces: Mapping[str, Pace]
    links: Mapping[str, Link]
    aggregator: Link | None = None
    join: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One way to run the federation, with what it is predicted to cost.

    Attributes:
        codec: How values travel.
        multiple: Times the plan's H.
        fragments: F.
        steps: Steps (epochs) of a round, H / F.
        delay: τ, steps that are taken while bytes travel.
        num_bytes: Of one site's round, one way.
        round: Its time.
    """

    codec: CodecCost
    multiple: int
    fragments: int
    steps: int
    delay: int
    num_bytes: float
    round: RoundTime

    @property
    def idle(self) -> float:
        """Share of the round that is not the slowest site's computation."""
        return self.round.idle

    @property
    def transfer(self) -> float:
        """Seconds that bytes travel, both ways, at the slowest site."""
        slowest = self.round.sites[self.round.slowest]
        return slowest.download + slowest.upload

    @property
    def exposed(self) -> float:
        """Of these, the seconds that no computation hides."""
        return self.round.sites[self.round.slowest].exposed

    @property
    def bytes_per_day(self) -> float:
        """Of one site, both ways."""
        return 2 * self.num_bytes * 86400 / self.round.total


def measure_codec(compression: Compression, *, num: int = SAMPLE) -> CodecCost:
    """Encode and decode normal random numbers; with error feedback, over some rounds.

    Time is the processor's, and the least of the rounds', since whatever else runs only adds to it.
    """
    codec = compression.codec
    generator = np.random.Generator(np.random.SFC64(derived_seed("link plan")))
    header = Header(
        sender="sample", round=1, spec=_NO_DIGEST, reference="", result="", codec=codec.name,
        part=0, parts=1, dtype="float32", size=num,
    )  # fmt: skip
    residual, spent = np.zeros(num, np.float32), []
    for round_ in range(_FEEDBACK_ROUNDS if compression.error_feedback else _ROUNDS):
        values = generator.standard_normal(num, np.float32) * np.float32(_SIGMA)
        if compression.error_feedback:
            values += residual
        began = time.process_time()
        payload = codec.encode(values, round_)
        frame = write_frame(header, payload, compress=codec.compress)
        encoded = time.process_time()
        decoded = codec.decode(payload, num)
        spent.append((encoded - began, time.process_time() - encoded))
        residual = values - decoded
    return CodecCost(
        name=codec.name,
        raw_bytes=codec.num_bytes(num) / num,
        sent_bytes=(frame.size - HEADER_BYTES) / num,
        error=float(np.linalg.norm(residual) / np.linalg.norm(values)),
        encode_seconds=min(encode for encode, _ in spent) / num,
        decode_seconds=min(decode for _, decode in spent) / num,
    )


def predict(
    load: Load, codec: CodecCost, *, multiple: int = 1, fragments: int = 1, delay: int | None = None
) -> Choice:
    """Predict one choice.

    Args:
        load: What is moved and computed.
        codec: How values travel.
        multiple: Times the plan's H.
        fragments: F, a divisor of H.
        delay: τ, None for the fewest steps that hide the transfer, none at all with F = 1.

    Raises:
        ValueError: F does not divide H, or rounds are counted in epochs and F is not 1.
    """
    if not divides(load, multiple, fragments):
        raise ValueError(
            f"{fragments} fragments of {load.period * multiple} {load.unit} between syncs, "
            "expected a number of steps that the fragments divide"
        )
    values, exact = load.values / fragments, load.exact_bytes / fragments
    frames = math.ceil(values / _FRAME_VALUES) + (load.exact_bytes > 0)
    num_bytes = values * codec.sent_bytes + exact + HEADER_BYTES * frames
    steps = load.period * multiple // fragments
    encode, decode = values * codec.encode_seconds, values * codec.decode_seconds

    def work(pace: Pace, delay: int) -> SiteWork:
        return SiteWork(
            bytes_down=num_bytes,
            bytes_up=num_bytes,
            compute=steps * pace.step + pace.fixed,
            decode=decode,
            encode=encode,
            hidden=delay * pace.step,
            requests=frames,
        )

    def round_(delay: int) -> RoundTime:
        return predicted_round(
            {site: work(pace, delay) for site, pace in load.paces.items()},
            load.links,
            # The aggregator decodes every update and encodes its own step.
            join=max(load.join / fragments, len(load.paces) * decode + encode),
            aggregator=load.aggregator,
        )

    time_ = round_(0 if delay is None else delay)
    if delay is None:
        delay = 0 if fragments == 1 else _hiding(load, time_, steps)
        time_ = round_(delay)
    return Choice(
        codec=codec,
        multiple=multiple,
        fragments=fragments,
        steps=steps,
        delay=delay,
        num_bytes=num_bytes,
        round=time_,
    )


def divides(load: Load, multiple: int, fragments: int) -> bool:
    """Whether a round can be of one fragment of that many."""
    if load.unit == "epochs":
        return fragments == 1
    return load.period * multiple % fragments == 0


def choices(
    load: Load, codecs: Sequence[CodecCost], multiples: Sequence[int], fragments: Sequence[int]
) -> Iterator[Choice]:
    """All that can be chosen: the least lossy codec first, then the smallest H, then F."""
    for codec in sorted(codecs, key=lambda c: (c.error, c.sent_bytes)):
        for multiple in multiples:
            for number in fragments:
                if divides(load, multiple, number):
                    yield predict(load, codec, multiple=multiple, fragments=number)


def fitting(all_: Sequence[Choice], share: float) -> dict[str, Choice]:
    """For each codec that can, the smallest H, and for it the smallest F, with idle in ``share``.

    Codecs stay in their order, the least lossy first.
    """
    found: dict[str, Choice] = {}
    for choice in all_:
        best = found.get(choice.codec.name)
        size = (choice.multiple, choice.fragments)
        if choice.idle <= share and (best is None or size < (best.multiple, best.fragments)):
            found[choice.codec.name] = choice
    return found


def advised(fit: Mapping[str, Choice]) -> Choice | None:
    """Of those that fit: the smallest H, then the least lossy codec, which has its smallest F.

    H comes first since a larger one makes training itself another. But a codec that loses more than
    half of the values' squares lives on error feedback alone: it comes after all others.
    """
    return min(
        fit.values(),
        key=lambda choice: (choice.codec.error**2 > 0.5, choice.multiple, choice.codec.error),
        default=None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Needed:
    """What would have to change where nothing fits.

    Attributes:
        choice: What comes nearest.
        multiple: Times the plan's H that would do, None if none would.
        width: Times the bandwidth of all links that would do, None if none would.
    """

    choice: Choice
    multiple: int | None
    width: int | None


def needed(load: Load, all_: Sequence[Choice], share: float) -> Needed:
    """The choice with the least idle time, and the powers of two that would make it fit.

    Raises:
        ValueError: There is nothing to choose from.
    """
    if not all_:
        raise ValueError("nothing to choose from, expected at least one codec")
    best = min(all_, key=lambda choice: choice.idle)

    def idle(times: int, width: int) -> float:
        wide = replace(
            load,
            links={site: _wider(link, width) for site, link in load.links.items()},
            aggregator=load.aggregator and _wider(load.aggregator, width),
        )
        return predict(
            wide, best.codec, multiple=best.multiple * times, fragments=best.fragments
        ).idle

    powers = [2**power for power in range(1, 21)]
    times = next((power for power in powers if idle(power, 1) <= share), None)
    return Needed(
        choice=best,
        multiple=None if times is None else best.multiple * times,
        width=next((power for power in powers if idle(1, power) <= share), None),
    )


def _hiding(load: Load, blocking: RoundTime, steps: int) -> int:
    """The fewest steps in which every site's bytes travel, at most all but one of a round's."""
    took = (
        (blocking.sites[site].exposed, pace.step) for site, pace in load.paces.items() if pace.step
    )
    return min(steps - 1, max((math.ceil(seconds / step) for seconds, step in took), default=0))


def _wider(link: Link, times: int) -> Link:
    return replace(link, up_bits=times * link.up_bits, down_bits=times * link.down_bits)
