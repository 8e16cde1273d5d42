"""Masks of pairs of sites, which cancel in the sum of all (Bonawitz et al. 2017).

Sites ``a < b`` agree on a key by X25519 (RFC 7748) over public keys that they announce. In each
round ``a`` adds a stream of words made from it to its update, and ``b`` subtracts the same, modulo
2⁶⁴: each update alone is uniformly random to whoever lacks the keys of at least one of its pairs.
Nobody can take the place of a site that is gone, so every site has to come back; its secrets are in
its local state for that.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from openfl_flows.atomic import SECRET, write_json
from openfl_flows.privacy.keystream import KEY_BYTES, Keystream
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.state import State

SECRETS = "masks.json"

_PIECE = 2**18


class Masks:
    """One site's masks in one federation.

    The key is made once and kept. Which update a round's masks hid is kept too, because two updates
    under the same masks would give away their difference.

    Args:
        folder: The site's local state.
        site: Its name.
        federation: Name of the federation, which tells its keys from those of any other.

    Raises:
        WithheldError: The secrets on disk are not readable.
    """

    def __init__(self, folder: Path, site: str, federation: str) -> None:
        self._file = folder / SECRETS
        self._site = site
        self._federation = federation
        self._pairs: dict[str, bytes] = {}
        kept = self._kept()
        if kept is None or kept["federation"] != federation:
            key = X25519PrivateKey.generate().private_bytes_raw()
            kept = {"federation": federation, "key": key.hex(), "round": 0, "sent": ""}
            self._keep(kept)
        self._key = X25519PrivateKey.from_private_bytes(bytes.fromhex(kept["key"]))

    @property
    def public(self) -> bytes:
        """The key to announce: 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def agree(self, publics: Mapping[str, bytes]) -> None:
        """Make the keys of all pairs.

        Args:
            publics: What every other site announced.

        Raises:
            WithheldError: A key is none.
        """
        for peer, public in publics.items():
            try:
                shared = self._key.exchange(X25519PublicKey.from_public_bytes(public))
            except ValueError:
                raise WithheldError(
                    f"the key that came for the masks with {peer!r} is refused: it is no X25519 key"
                ) from None
            who = json.dumps([self._federation, *sorted((self._site, peer))])
            self._pairs[peer] = _derived(shared, f"pair {who}")

    def hide(self, update: State, model: str, round_: int) -> State:
        """An update with the masks of all pairs added.

        Args:
            update: As :func:`openfl_flows.privacy.fixed_point.to_fixed` makes it.
            model: Digest of the global model that the round began with.
            round_: Its number.

        Raises:
            WithheldError: The masks of this round, or of a later one, have hidden another update.
        """
        assert self._pairs, "nobody has agreed on keys"
        self._use(update, model, round_)
        hidden = {name: array.copy() for name, array in update.items()}
        for peer, pair in self._pairs.items():
            stream = Keystream(_derived(pair, f"round {round_} of {model}"))
            add = np.add if self._site < peer else np.subtract
            for array in hidden.values():
                flat = array.reshape(-1)
                for start in range(0, flat.size, _PIECE):
                    piece = flat[start : start + _PIECE]
                    add(piece, stream.words(piece.size), out=piece)
        return State(hidden)

    def _use(self, update: State, model: str, round_: int) -> None:
        """Note which update this round's masks hide, before anything leaves."""
        kept = self._kept()
        assert kept is not None
        sent = hashlib.sha256(f"{model} {update.digest()}".encode()).hexdigest()
        if kept["round"] > round_ or (kept["round"] == round_ and kept["sent"] != sent):
            raise WithheldError(
                f"{self._file}: {self._site!r} has sent a masked update of round {kept['round']}, "
                f"expected that very update or a later round, not another one of round {round_}: "
                "the same masks twice would give away the difference"
            )
        if kept["round"] < round_:
            self._keep({**kept, "round": round_, "sent": sent})

    def _kept(self) -> dict[str, Any] | None:
        if not self._file.is_file():
            return None
        try:
            kept: dict[str, Any] = json.loads(self._file.read_text())
            _ = kept["federation"], kept["sent"], kept["round"] + 0
            if len(bytes.fromhex(kept["key"])) != KEY_BYTES:
                raise ValueError
        except (ValueError, TypeError, KeyError):
            raise WithheldError(
                f"{self._file}: not readable, expected the secrets that the masks of "
                f"{self._site!r} are made of"
            ) from None
        return kept

    def _keep(self, document: Mapping[str, Any]) -> None:
        write_json(self._file, document, SECRET)


def _derived(secret: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose.encode()).derive(secret)
