"""What a site keeps of its part in a federation, to hold against the aggregator's ledger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openfl_flows.atomic import write_json
from openfl_flows.ops.ledger import Ledger
from openfl_flows.strict_json import parse

OWN_PART = "own_part.json"
"""In a site's local state: by round, what it trained from and what it gave."""


def note_own_part(folder: Path, round_: int, part: Mapping[str, Any]) -> None:
    """Keep what a site gave to a round; the last time counts where it did so more than once.

    Args:
        folder: The site's local state.
        round_: The round, from 1.
        part: ``model``, the digest of what it trained from; ``num_samples`` and ``num_steps``.
    """
    known = read_own_part(folder) if (folder / OWN_PART).is_file() else {}
    rounds = {str(number): known[number] for number in sorted(known) if number < round_}
    write_json(folder / OWN_PART, {"rounds": {**rounds, str(round_): dict(part)}})


def read_own_part(folder: Path) -> dict[int, Mapping[str, Any]]:
    """What a site gave, by round.

    Raises:
        ValueError: There is no such file, or it is not readable.
    """
    file = folder / OWN_PART
    if not file.is_file():
        raise ValueError(f"{file}: no such file, expected the local state of a site")
    try:
        rounds = parse(file.read_bytes())["rounds"]
        return {int(number): dict(part) for number, part in rounds.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file}: not readable: {error}") from None


def check_own_part(ledger: Ledger, folder: Path, site: str) -> int:
    """Make sure that a ledger says of a site what the site itself knows.

    Args:
        ledger: With an intact chain.
        folder: The site's local state.
        site: Its name.

    Returns:
        The number of rounds in which it took part.

    Raises:
        ValueError: The ledger has another contribution of the site than the site made.
    """
    known, told = read_own_part(folder), 0
    for body in ledger.rounds:
        number = body["round"]
        part, line = known.get(number), body["sites"].get(site)
        if line is None:
            if part is not None and site not in body["left_out"]:
                raise ValueError(f"{folder}: {site} trained round {number}, the ledger is silent")
            continue
        told += 1
        said = {"model": body["before"], **{k: line[k] for k in ("num_samples", "num_steps")}}
        if part != said:
            raise ValueError(
                f"{folder}: of round {number} {site} knows {part}, but the ledger has {said}"
            )
    return told
