"""The card of a site's data: counts of agreed names and nothing else, so that it may leave.

A card has no value, name or path of the data, and no exact count: each is rounded down to a
multiple of the floor, so that neither a count nor a difference of two counts is exact below it. Its
digest names the card, not the data.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openfl_flows.atomic import write_json
from openfl_flows.data.schema.limits import Schema, canonical_digest, schema_digest

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is told of a site's data.

    Attributes:
        schema: Name of the schema.
        schema_digest: Of the schema with its limits.
        floor: What counts are rounded down to a multiple of.
        broken: Kinds of findings for which the data do not fit the schema, sorted.
        counts: Rounded, by group and name.
    """

    schema: str
    schema_digest: str
    floor: int
    broken: tuple[str, ...]
    counts: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(
        cls, schema: Schema, counts: Mapping[str, Mapping[str, int]], broken: Collection[str]
    ) -> "Card":
        """The card of exact counts.

        Args:
            schema: What the data were held against.
            counts: By group and name; names are of this package or of the schema.
            broken: Kinds of findings for which the data do not fit.
        """
        return cls(
            schema=schema.name,
            schema_digest=schema_digest(schema),
            floor=schema.floor,
            broken=tuple(sorted(broken)),
            counts={
                group: {name: _rounded(number, schema.floor) for name, number in names.items()}
                for group, names in counts.items()
            },
        )

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> "Card":
        """The card of what :meth:`document` gave.

        Raises:
            ValueError: It is no such document, or its digest is another.
        """
        try:
            card = cls(
                schema=document["schema"]["name"],
                schema_digest=document["schema"]["digest"],
                floor=document["floor"],
                broken=tuple(document["broken"]),
                counts=document["counts"],
            )
            same = card.document() == document
        except (LookupError, TypeError, AttributeError):
            same = False
        if not same:
            raise ValueError("this is no card of data, or it was changed since it was written")
        return card

    @property
    def fits(self) -> bool:
        """Whether the data are what the plan says."""
        return not self.broken

    @property
    def digest(self) -> str:
        """SHA-256 of the document without it, which is not of the data: that could be guessed."""
        return canonical_digest(self._content())

    def document(self) -> dict[str, Any]:
        """Plain values, with the digest."""
        return {**self._content(), "digest": self.digest}

    def write(self, path: Path) -> None:
        """Write the document as JSON, atomically."""
        write_json(path, self.document())

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "schema": {"name": self.schema, "digest": self.schema_digest},
            "floor": self.floor,
            "fits": self.fits,
            "broken": list(self.broken),
            "counts": {
                group: {name: names[name] for name in sorted(names)}
                for group, names in sorted(self.counts.items())
            },
        }


def told(number: int, floor: int) -> str:
    """A count as it may be told: ``fewer than 10``, ``120 or more``."""
    return f"{_rounded(number, floor)} or more" if number >= floor else f"fewer than {floor}"


def _rounded(number: int, floor: int) -> int:
    return number // floor * floor
