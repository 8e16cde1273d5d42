"""The global model on its way down, and what of it is expected back.

Sites have the model, had the one before, or neither. Each says by a tag which model it has, and
asks for every bucket by name. It gets a frame without payload where it has the bucket already, the
frame of the round's step where it has the model that the round began with, and else the bucket as
it is. So a site that was away is served too, and the initial model, which every site can make
itself, is never sent.
"""

from dataclasses import replace

import numpy as np

from openfl_flows.codecs.base import Codec
from openfl_flows.codecs.exchange import AGGREGATOR, Passage
from openfl_flows.codecs.frame import HEADER_BYTES, Header, write_frame
from openfl_flows.codecs.recipes import EXACT
from openfl_flows.ops.rounds import NOTHING
from openfl_flows.state import Array, Spec, State
from openfl_flows.taskrunner.wire import (
    bucket_names,
    fragment_due,
    fragment_specs,
    to_fragments,
    update_due,
)

HELD = "held"
"""Stands for the codec in a frame without payload: the receiver's bucket is the model's."""

_TAG = "held:"
_NONE = np.empty(0)


def held_tag(digest: str) -> str:
    """The tag by which a site says which model it has."""
    return f"{_TAG}{digest}"


def held_digest(tags: set[str]) -> str:
    """The model that a site says it has; "" where it says nothing of it."""
    return next((tag.removeprefix(_TAG) for tag in tags if tag.startswith(_TAG)), "")


class Broadcast:
    """Frames of one global model, for whoever asks.

    Args:
        model: The model.
        round_: The round that made it; 0 for the initial one.
        codec: Of the plan.
        fragments: Parts of the model, of which each round synchronises one.
        before: Digest of the model that the round began with; "" where there was no round.
        step: The frames that make the model of that one, in order; none under the exact codec.
        secure: The sites' updates are integers behind masks.
    """

    def __init__(
        self,
        model: State,
        round_: int,
        *,
        codec: Codec,
        fragments: int,
        before: str = "",
        step: State = NOTHING,
        secure: bool = False,
    ) -> None:
        self._digest = model.digest()
        self._round, self._codec = round_, codec
        self._whole = passages(
            model.spec, round_, codec=EXACT, fragments=fragments, result=self._digest
        )
        self._buckets = to_fragments(model, fragments)
        prefix, self._due = fragment_due(model.spec, fragments, round_ + 1)
        self._due_names = bucket_names(self._due, prefix)
        prefix, self._update = update_due(model.spec, fragments, round_ + 1, secure=secure)
        self._update_names = bucket_names(self._update, prefix)
        self._before = before
        prefix, spec = fragment_due(model.spec, fragments, round_)
        self._moved = bucket_names(spec, prefix)
        self._step = dict(zip(self._moved, step.values(), strict=False))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all buckets."""
        return tuple(self._buckets)

    @property
    def due(self) -> dict[str, Array]:
        """The buckets that the round that begins with the model synchronises, in order."""
        return {name: self._buckets[name] for name in self._due_names}

    @property
    def references(self) -> dict[str, Array]:
        """The buckets of an update, in order, with what they are changes of; masks hide that."""
        return {name: self._buckets.get(name, _NONE) for name in self._update_names}

    @property
    def update_bytes(self) -> int:
        """The most that the frames of a site's update in that round may take."""
        passage = self.expected("")
        return sum(HEADER_BYTES + passage.num_bytes(part) for part in range(passage.parts))

    def expected(self, site: str) -> Passage:
        """What is known of the frames of a site's update in that round."""
        return Passage(
            sender=site,
            round=self._round + 1,
            spec=self._update,
            reference=self._digest,
            codec=self._codec,
        )

    def frame(self, name: str, held: str) -> Array:
        """The frame of one bucket.

        Args:
            name: Of the bucket.
            held: Digest of the model that the receiver has; "" where it has none.
        """
        passage, part = self._whole[name]
        header = passage.header(part)
        began_with = held != "" and held == self._before
        if held == self._digest or (began_with and name not in self._moved):
            nothing = np.empty(0, np.uint8)
            return write_frame(empty(replace(header, reference=held)), nothing, compress=False)
        if began_with and name in self._step:
            return self._step[name]
        return write_frame(header, self._buckets[name].view(np.uint8), compress=False)


def passages(
    spec: Spec, round_: int, *, codec: Codec, fragments: int, result: str, reference: str = ""
) -> dict[str, tuple[Passage, int]]:
    """The passage of every bucket of the aggregator's, by its name, and its number in it.

    Args:
        spec: The model's tensors.
        round_: The round that made the model that is sent.
        codec: How it is encoded.
        fragments: Parts of the model.
        result: Digest of the model.
        reference: Digest of the model that changes are relative to; "" where there are none.
    """
    found = {}
    for prefix, part_spec in fragment_specs(spec, fragments).items():
        passage = Passage(
            sender=AGGREGATOR, round=round_, spec=part_spec, reference=reference, result=result,
            codec=codec,
        )  # fmt: skip
        for part, name in enumerate(bucket_names(part_spec, prefix)):
            found[name] = passage, part
    return found


def empty(header: Header) -> Header:
    """The header of a frame without payload."""
    return replace(header, codec=HELD, size=0)
