"""A site's way up: its updates, hidden if the plan says so, as frames, and what these left out."""

import re
import time
from pathlib import Path
from typing import NamedTuple

from openfl_flows.codecs.base import Compression
from openfl_flows.codecs.exchange import Encoded, encode, exact_bytes, frames_digest
from openfl_flows.joins.streaming import due
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.ops.files import load_state, map_state, save_state
from openfl_flows.privacy.fixed_point import to_fixed
from openfl_flows.privacy.ledger import Ledger
from openfl_flows.privacy.masks import Masks
from openfl_flows.privacy.protection import OPEN, Protection
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
        protection: How updates are hidden.
        sites: How many sites there are.

    Attributes:
        masks: Of a federation whose aggregator gets sums alone, once the sites have agreed on
            keys; a simulation has nobody to hide them from, and the sum is the same.
    """

    def __init__(
        self,
        folder: Path,
        site: str,
        compression: Compression,
        fragments: int = 1,
        protection: Protection = OPEN,
        sites: int = 1,
    ) -> None:
        self._folder = folder
        self._site = site
        self._compression = compression
        self._fragments = fragments
        self._sites = sites
        self._summed = protection.summed
        noise = protection.noise
        self._ledger = None if noise is None else Ledger(folder, site, noise)
        self.masks: Masks | None = None

    def check_budget(self, model: State, round_: int) -> None:
        """Make sure, before a round is trained, that its update may be sent.

        Raises:
            WithheldError: The site has spent what it may, or the account of it is not readable.
        """
        if self._ledger is not None:
            self._ledger.check(round_, model.digest())

    def spent(self) -> Means:
        """What the updates sent so far have cost, as a metric; nothing where nobody counts."""
        return {} if self._ledger is None else {"epsilon": Mean(self._ledger.epsilon, 1)}

    def encode(self, trained: State, model: State, round_: int, *, num_samples: int = 1) -> Encoded:
        """The frames of a round's update.

        Args:
            trained: The trained model, whole.
            model: The global model that the round began with.
            round_: Its number.
            num_samples: The update's weight, by which it is multiplied where updates are summed.

        Raises:
            ValueError: A value cannot be encoded, the residual's file is corrupt, or the site has
                spent what it may.
        """
        rounds = sorted(int(m[1]) for f in self._folder.glob("residual-*") if (m := _of(f)))
        of_fragment = [r for r in rounds if (r - round_) % self._fragments == 0]
        before = max((r for r in of_fragment if r < round_), default=None)
        encoded = encode(
            self._hidden(due(trained, self._fragments, round_), model, round_, num_samples),
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

    def deliver(
        self, trained: State, model: State, round_: int, *, num_samples: int = 1
    ) -> Delivery:
        """Send an update over the link of a simulation, which is none.

        Args:
            trained: The trained model, mapped from its file.
            model: As for :meth:`encode`.
            round_: As for :meth:`encode`.
            num_samples: As for :meth:`encode`.

        Raises:
            ValueError: As for :meth:`encode`.
        """
        update = due(trained, self._fragments, round_)
        file = self._folder / "delivered.safetensors"
        began = time.monotonic()
        if self._compression.codec.exact:
            hidden = self._hidden(update, model, round_, num_samples)
            if hidden is update:
                return Delivery(update, exact_bytes(update.travelling()), "", 0.0)
            seconds = time.monotonic() - began
            save_state(file, hidden)
            return Delivery(map_state(file), exact_bytes(hidden.travelling()), "", seconds)
        encoded = self.encode(trained, model, round_)
        seconds = time.monotonic() - began
        save_state(file, update.with_arrays(encoded.arrives))
        size = sum(frame.nbytes for frame in encoded.frames)
        return Delivery(map_state(file), size, frames_digest(encoded.frames), seconds)

    def _hidden(self, update: State, model: State, round_: int, num_samples: int) -> State:
        """An update with the plan's noise in it, as integers and behind masks if it says so."""
        if self._ledger is not None:
            update = self._ledger.release(update, model, round_)
        if not self._summed:
            return update
        fixed = to_fixed(update, model, num_samples=num_samples, sites=self._sites)
        return fixed if self.masks is None else self.masks.hide(fixed, model.digest(), round_)

    def _file(self, round_: int) -> Path:
        return self._folder / f"residual-{round_:05d}.safetensors"


def _of(file: Path) -> re.Match[str] | None:
    return _NAME.fullmatch(file.name)
