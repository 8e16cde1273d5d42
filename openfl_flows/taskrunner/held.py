"""The global model that a site has: on disk, and brought up to date by frames."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from openfl_flows.codecs.base import Codec
from openfl_flows.codecs.exchange import AGGREGATOR, decode_bucket
from openfl_flows.codecs.frame import FrameError, read_frame, read_header
from openfl_flows.codecs.recipes import EXACT
from openfl_flows.ops.files import load_state, map_state, save_state
from openfl_flows.state import Array, State, unpack
from openfl_flows.taskrunner.broadcast import HELD, empty, passages
from openfl_flows.taskrunner.wire import bucket_names, fragment_specs, to_fragments

logger = logging.getLogger(__name__)


class HeldModel:
    """What a site has of the global model, across restarts.

    Args:
        file: Where its travelling tensors are kept.
        initial: The model that the federation starts from.
        codec: Of the plan.
        fragments: Parts of the model, of which each round synchronises one.

    Attributes:
        model: The model.
        names: Names of all buckets, in the order in which they are asked for.
    """

    def __init__(self, file: Path, initial: State, *, codec: Codec, fragments: int) -> None:
        self._file = file
        self._codec = codec
        self._fragments = fragments
        self._frozen = {name: initial[name] for name in initial.frozen}
        self._specs = fragment_specs(initial.spec, fragments)
        self.names = tuple(
            name for prefix, spec in self._specs.items() for name in bucket_names(spec, prefix)
        )
        kept = self._kept()
        if kept is not None and kept.spec == initial.spec:
            self.model = kept
        else:
            self._keep(initial)

    def take(self, frames: Mapping[str, Array], round_: int) -> State:
        """The global model that frames bring, which is kept from now on.

        Args:
            frames: One of every bucket.
            round_: The round that begins with it, from 1.

        Raises:
            FrameError: A frame is refused, or they do not make the model that they say.
        """
        digest = read_header(frames[self.names[0]]).result
        if digest != self.model.digest():
            model = self._made(frames, round_ - 1, digest)
            if model.digest() != digest:
                raise FrameError(
                    f"model of {AGGREGATOR!r} refused: frames of round {round_ - 1} make the model "
                    f"{model.digest()[:12]}, expected {digest[:12]} as they say"
                )
            self._keep(model)
        return self.model

    def _made(self, frames: Mapping[str, Array], made: int, digest: str) -> State:
        held, own = self.model.digest(), to_fragments(self.model, self._fragments)
        way = partial(passages, self.model.spec, made, fragments=self._fragments, result=digest)
        steps, wholes = way(codec=self._codec, reference=held), way(codec=EXACT)
        buckets = {}
        for name in self.names:
            frame = frames[name]
            found = read_header(frame)
            if found.codec == HELD:
                passage, part = steps[name]
                read_frame(frame, empty(passage.header(part)), 0, what="model")
                buckets[name] = own[name]
            else:
                passage, part = (steps if found.reference else wholes)[name]
                buckets[name] = decode_bucket(passage, part, frame, own[name])
        travelled: dict[str, Array] = {}
        for prefix, spec in self._specs.items():
            parts = [np.asarray(buckets[name]) for name in bucket_names(spec, prefix)]
            travelled |= unpack(parts, spec)
        return self._whole(travelled)

    def _keep(self, model: State) -> None:
        save_state(self._file, model.travelling())
        self.model = self._whole(map_state(self._file))

    def _kept(self) -> State | None:
        if not self._file.exists():
            return None
        try:
            return self._whole(load_state(self._file))
        except ValueError as error:
            logger.warning("%s. The model is downloaded anew", error)
            return None

    def _whole(self, travelled: Mapping[str, Array]) -> State:
        return State({**travelled, **self._frozen}, frozen=tuple(self._frozen))
