"""A site's account of what it has released, on disk before anything leaves."""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openfl_flows.atomic import SECRET, write_json
from openfl_flows.privacy.accounting import spent_epsilon
from openfl_flows.privacy.gaussian import Gaussian, release
from openfl_flows.privacy.keystream import KEY_BYTES
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.state import State

LEDGER = "privacy.json"

# The round at hand may have to be repeated, and under streaming the one before.
_KEYS_KEPT = 2


class Ledger:
    """Releases updates with noise, and refuses when the budget is spent.

    A release is in the file before its frames leave the site. An update that is sent again after a
    failure gets the same noise and costs nothing, for which the keys of the last releases are kept;
    one that was trained anew and came out differently is a release of its own.

    Args:
        folder: The site's local state.
        site: Its name, for messages.
        how: The mechanism.
    """

    def __init__(self, folder: Path, site: str, how: Gaussian) -> None:
        self._file = folder / LEDGER
        self._site = site
        self._how = how

    def check(self, round_: int, model: str) -> None:
        """Make sure, before a round is trained, that its update may be sent.

        Args:
            round_: Its number.
            model: Digest of the global model that it begins with.

        Raises:
            WithheldError: It may not, or the ledger is not readable.
        """
        releases = self._releases()
        if not any((made["round"], made["model"]) == (round_, model) for made in releases):
            self._check_budget(releases, round_)

    def release(self, trained: State, model: State, round_: int) -> State:
        """An update with noise, entered in the ledger.

        Args:
            trained: What of the trained model is to be sent.
            model: The global model that the round began with.
            round_: Its number.

        Raises:
            WithheldError: It would cost more than is left, cannot be released, or the ledger is
                not readable.
        """
        releases = self._releases()
        which = {
            "round": round_,
            "model": model.digest(),
            "update": trained.digest(),
            "noise_multiplier": self._how.noise_multiplier,
            "clip_norm": self._how.clip_norm,
        }
        for made in reversed(releases):
            if which.items() <= made.items() and made["key"] is not None:
                return release(trained, model, self._how, bytes.fromhex(made["key"])).state
        self._check_budget(releases, round_)
        key = secrets.token_bytes(KEY_BYTES)
        released = release(trained, model, self._how, key)
        entry = {
            **which,
            "norm": released.norm,
            "clipped": released.norm > self._how.clip_norm,
            "epsilon": self._epsilon([*releases, {"noise_multiplier": self._how.noise_multiplier}]),
            "key": key.hex(),
        }
        releases.append(entry)
        for old in releases[:-_KEYS_KEPT]:
            old["key"] = None
        document = {"site": self._site, "delta": self._how.delta, "releases": releases}
        write_json(self._file, document, SECRET)
        return released.state

    @property
    def epsilon(self) -> float:
        """ε spent so far.

        Raises:
            WithheldError: The ledger is not readable.
        """
        return self._epsilon(self._releases())

    def _epsilon(self, releases: Sequence[Any]) -> float:
        return spent_epsilon([made["noise_multiplier"] for made in releases], self._how.delta)

    def _check_budget(self, releases: Sequence[Any], round_: int) -> None:
        if self._how.max_epsilon is None:
            return
        spent = self._epsilon(releases)
        after = self._epsilon([*releases, {"noise_multiplier": self._how.noise_multiplier}])
        if after > self._how.max_epsilon:
            raise WithheldError(
                f"{self._file}: {self._site!r} has spent epsilon {spent:.4g} in {len(releases)} "
                f"releases; round {round_} would make it {after:.4g}, expected at most "
                f"privacy.max_epsilon={self._how.max_epsilon:g}: nothing is trained or sent"
            )

    def _releases(self) -> list[dict[str, Any]]:
        if not self._file.is_file():
            return []
        try:
            releases: list[dict[str, Any]] = json.loads(self._file.read_text())["releases"]
            for made in releases:
                _ = made["round"], made["model"], made["update"], made["key"]
                if not made["noise_multiplier"] > 0:
                    raise ValueError
        except (ValueError, TypeError, KeyError):
            raise WithheldError(
                f"{self._file}: not readable, expected the account of what {self._site!r} has "
                "released; without it nobody knows what is left of the budget"
            ) from None
        return releases
