"""Parity: two runs of one plan, e.g. a simulation and a federation, round by round."""

from itertools import zip_longest
from typing import Any, NamedTuple

from openfl_flows.ops.run import RunDirectory

SHOWN = 16
"""Characters of a digest that a table shows."""


class RoundDigests(NamedTuple):
    """The global model after one round of two runs.

    Attributes:
        round: Number of the round; 0 is the initial model.
        a: Digest in the first run, None where it has no such round.
        b: Digest in the second run.
        equal: Whether both have the same model, to the last bit, and made it of the same frames.
    """

    round: int
    a: str | None
    b: str | None
    equal: bool


def compare_rounds(a: RunDirectory, b: RunDirectory) -> list[RoundDigests]:
    """Digests of two runs from the initial model to the last round of the longer."""
    pairs = zip_longest(_digests(a.record), _digests(b.record))
    sent = zip_longest(_frames(a.record), _frames(b.record))
    return [
        RoundDigests(round_, x, y, x == y and sent_x == sent_y)
        for round_, ((x, y), (sent_x, sent_y)) in enumerate(zip(pairs, sent, strict=True))
    ]


def to_text(rows: list[RoundDigests], *, a: str = "a", b: str = "b") -> str:
    """A table to read, one line a round."""
    lines = [("round", a, b, "")]
    for row in rows:
        x, y = ((digest or "-")[:SHOWN] for digest in (row.a, row.b))
        lines.append((str(row.round), x, y, "equal" if row.equal else "DIFFERENT"))
    return "\n".join(f"{n:>5}  {x:<{SHOWN}}  {y:<{SHOWN}}  {e}".rstrip() for n, x, y, e in lines)


def _digests(record: dict[str, Any]) -> list[str]:
    return [record["initial"]["digest"], *(r["digest"] for r in record["rounds"])]


def _frames(record: dict[str, Any]) -> list[dict[str, str]]:
    """Digests of the frames of each round, by sender; of none before the first."""
    return [
        {},
        *(
            {"": r.get("frames", ""), **{n: s.get("frames", "") for n, s in r["sites"].items()}}
            for r in record["rounds"]
        ),
    ]
