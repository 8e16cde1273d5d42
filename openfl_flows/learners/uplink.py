"""A site's way up: its updates as frames, and on disk what the frames have left out so far."""

import re
import time
from pathlib import Path
from typing import NamedTuple

from openfl_flows.codecs.base import Compression
from openfl_flows.codecs.exchange import Encoded, encode, exact_bytes, frames_digest
from openfl_flows.joins.streaming import due
from openfl_flows.ops.files import load_state, map_state, save_state
from openfl_flows.state import State

_NAME = re.compile(r"residual-(\d{5})\.safetensors")


class Delivery(NamedTuple):
    """An update on the aggregator's side of a simulated link.

    Attributes:
        state: The update as it arrives, mapped from a file.
        bytes_up: Bytes of its frames.
        frames: SHA-256 over them; empty under the exact codec, whose frames hold the state.
        seconds: Wall seconds of encoding.
    """

    state: State
    bytes_up: int
    frames: str
    seconds: float


class Uplink:
    """Encodes one site's updates.

    A round that is repeated after a failure elsewhere begins with the residual that it began with
    before, so its frames are the same, byte for byte.

    Args:
        folder: The site's local state, where the residuals of the last rounds are kept.
        site: Name of the site.
        compression: The codec, and whether it has error feedback.
        fragments: Parts of the model, of which each round sends one.
    """

    def __init__(
        self, folder: Path, site: str, compression: Compression, fragments: int = 1
    ) -> None:
        self._folder = folder
        self._site = site
        self._compression = compression
        self._fragments = fragments

    def encode(self, trained: State, model: State, round_: int) -> Encoded:
        """The frames of a round's update.

        Args:
            trained: The trained model, whole.
            model: The global model that the round began with.
            round_: Its number.

        Raises:
            ValueError: A value cannot be encoded, or the residual's file is corrupt.
        """
        rounds = sorted(int(m[1]) for f in self._folder.glob("residual-*") if (m := _of(f)))
        of_fragment = [r for r in rounds if (r - round_) % self._fragments == 0]
        before = max((r for r in of_fragment if r < round_), default=None)
        encoded = encode(
            due(trained, self._fragments, round_),
            model,
            self._compression,
            sender=self._site,
            round_=round_,
            residual=None if before is None else load_state(self._file(before)),
        )
        if encoded.residual:
            save_state(self._file(round_), encoded.residual)
            for old in of_fragment:
                if old not in (before, round_):
                    self._file(old).unlink()
        return encoded

    def deliver(self, trained: State, model: State, round_: int) -> Delivery:
        """Send an update over the link of a simulation, which is none.

        Args:
            trained: The trained model, mapped from its file.
            model: As for :meth:`encode`.
            round_: As for :meth:`encode`.

        Raises:
            ValueError: As for :meth:`encode`.
        """
        update = due(trained, self._fragments, round_)
        if self._compression.codec.exact:
            return Delivery(update, exact_bytes(update.travelling()), "", 0.0)
        began = time.monotonic()
        encoded = self.encode(trained, model, round_)
        seconds = time.monotonic() - began
        file = self._folder / "delivered.safetensors"
        save_state(file, update.with_arrays(encoded.arrives))
        size = sum(frame.nbytes for frame in encoded.frames)
        return Delivery(map_state(file), size, frames_digest(encoded.frames), seconds)

    def _file(self, round_: int) -> Path:
        return self._folder / f"residual-{round_:05d}.safetensors"


def _of(file: Path) -> re.Match[str] | None:
    return _NAME.fullmatch(file.name)
