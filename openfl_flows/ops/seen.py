"""How far a site has seen its federation come: encryption does not keep a host from old files.

Whoever controls the aggregator's machine can put an older state of it in place of the newer one,
and no measurement tells. The sites remember: a federation goes from round to round, and after so
many rounds there is one model.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from openfl_flows.atomic import write_atomically
from openfl_flows.strict_json import canonical, parse

FILE = "seen.json"
"""In a site's local state."""

logger = logging.getLogger(__name__)


class WentBackError(ValueError):
    """The federation is not where this site has seen it."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The last model that a site was given.

    Attributes:
        federation: SHA-384 of the plan.
        round: How many rounds have made it; 0 for the initial one.
        digest: Its digest.
        excused: SHA-256 of the statements by which this site has let it go back, which serve once.
    """

    federation: str
    round: int
    digest: str
    excused: tuple[str, ...] = ()


Excuse = Callable[[Seen], str]
"""Gives the SHA-256 of a signed statement that covers a way back, or raises why there is none."""


class Memory:
    """What a site has seen, on disk before anything is done with what it sees next.

    Args:
        folder: The site's local state.
        federation: SHA-384 of the plan; another plan is another federation.
        excuse: Tells whether a way back is covered; None to let it go back with a warning.
    """

    def __init__(self, folder: Path, federation: str, excuse: Excuse | None = None) -> None:
        self._file, self._federation, self._excuse = folder / FILE, federation, excuse

    def see(self, round_: int, digest: str) -> None:
        """Take note of a model before anything is done with it.

        Args:
            round_: How many rounds have made it.
            digest: Its digest.

        Raises:
            WentBackError: The federation went back, and nothing that is signed says so.
            ValueError: What is remembered is not readable.
        """
        last = self._read()
        seen = Seen(federation=self._federation, round=round_, digest=digest)
        if last is None or last.federation != self._federation:
            self._write(seen)
        elif round_ > last.round:
            self._write(replace(seen, excused=last.excused))
        elif (round_, digest) != (last.round, last.digest):
            self._go_back(last, seen)

    def _go_back(self, last: Seen, seen: Seen) -> None:
        went = (
            f"the federation went back: after {seen.round} rounds with model {seen.digest[:12]}, "
            f"but this site has seen it after {last.round} with {last.digest[:12]}"
        )
        if self._excuse is None:
            logger.warning("%s", went.capitalize())
            self._write(replace(seen, excused=last.excused))
            return
        try:
            excuse = self._excuse(seen)
            if excuse in last.excused:
                raise ValueError("the statement that allows it has served before")
        except ValueError as error:
            raise WentBackError(f"Refused: {went}; {error}") from None
        logger.warning("%s, as the signed statement %s says", went.capitalize(), excuse[:12])
        self._write(replace(seen, excused=(*last.excused, excuse)))

    def _read(self) -> Seen | None:
        if not self._file.is_file():
            return None
        try:
            found: dict[str, Any] = parse(self._file.read_bytes())
            return Seen(
                federation=str(found["federation"]),
                round=int(found["round"]),
                digest=str(found["digest"]),
                excused=tuple(found["excused"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{self._file}: not readable, expected how far this site has seen its federation "
                f"come: {error}"
            ) from None

    def _write(self, seen: Seen) -> None:
        write_atomically(self._file, canonical(asdict(seen)) + b"\n")
