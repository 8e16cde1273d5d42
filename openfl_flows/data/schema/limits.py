"""Schemas: what the parties agree on of the data that stay at the sites, and its limits."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from openfl_flows.data.schema.findings import Finding
from openfl_flows.data.schema.kinds import MOLECULE_KINDS, PROTEIN_KINDS, STRUCTURE_KINDS
from openfl_flows.data.vocabulary import check_vocabulary


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many there may be.

    Attributes:
        least: At least so many.
        most: At most so many; None for any number.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    least: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that no number keeps."""
        if self.least < 0 or (self.most is not None and self.most < self.least):
            raise ValueError(f"least={self.least}, most={self.most}: expected 0 <= least <= most")

    def holds(self, number: int) -> bool:
        """Whether there may be so many."""
        return self.least <= number and (self.most is None or number <= self.most)

    def __str__(self) -> str:
        return f"at least {self.least}" if self.most is None else f"{self.least} to {self.most}"


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number with a unit that may be missing.

    Attributes:
        unit: As in :data:`~openfl_flows.data.schema.quantities.OTHER_UNITS`, or any other.
        least: Smallest value that there can be.
        most: Largest.
        missing: Largest share of rows without it.
        median: Limits of the median of a site's values, which tell units of like size apart; None
            for any.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    unit: str
    least: float
    most: float
    missing: float = 1.0
    median: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse limits that no number keeps."""
        if not self.least <= self.most:
            raise ValueError(f"least={self.least}, most={self.most}: expected least <= most")
        if self.median is not None and not self.median[0] <= self.median[1]:
            raise ValueError(f"median={list(self.median)}, expected the smaller first")
        _check_share("missing", self.missing)

    def holds(self, value: float) -> bool:
        """Whether there can be such a value."""
        return self.least <= value <= self.most


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Least sizes of the parts of a site's data."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    train: int = 1
    val: int = 0
    test: int = 0

    def findings(self, file: str, sizes: Mapping[str, int]) -> list[Finding]:
        """Which of them are too small.

        Args:
            file: Name of the file.
            sizes: What there is, by part.
        """
        return [
            Finding("split", file, 0, "", part, str(sizes.get(part, 0)), f"at least {least}")
            for part, least in asdict(self).items()
            if sizes.get(part, 0) < least
        ]


@dataclass(frozen=True, kw_only=True)
class MoleculesV1:
    """A table ``molecules.csv`` with the columns ``smiles``, ``dipole_debye``, ``homo_ev``.

    Attributes:
        rows: How many molecules there must be that can be used.
        dipole_debye: Dipole moment in D.
        homo_ev: Energy of the highest occupied orbital in eV.
        atoms: Heavy atoms of a molecule.
        elements: Classes of atoms, see :mod:`openfl_flows.data.vocabulary`.
        shares: Shares of training, validation and test.
        parts: Least sizes of the parts that these shares make.
        floor: What is told outside the site is rounded down to a multiple of it.
        tolerated: By kind of finding: the largest share of rows that it may be found in; none of
            the kinds that are not named.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    kinds: ClassVar[Mapping[str, str]] = MOLECULE_KINDS

    name: Literal["molecules_v1"] = "molecules_v1"
    rows: Count
    dipole_debye: Quantity
    homo_ev: Quantity
    atoms: Count
    elements: tuple[str, ...]
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    parts: Parts
    floor: int = 10
    tolerated: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what :func:`_check_telling` does, and classes that are none."""
        _check_telling(self)
        check_vocabulary(self.elements)


@dataclass(frozen=True, kw_only=True)
class ProteinsV1:
    """A file ``proteins.fasta``, see :mod:`openfl_flows.data.proteins.fasta`.

    Attributes:
        records: How many there must be that can be used, those to predict not counted.
        kind: What is learned of them.
        classes: Names of the classes, in the agreed order.
        keys: Keys that every header has besides TARGET and SET.
        alphabet: Letters of sequences; a final ``*`` is none of them.
        residues: Length of a sequence.
        value: Of the targets, where these are numbers.
        parts: Least sizes of the parts that ``SET`` names, all test sets together.
        floor: What is told outside the site is rounded down to a multiple of it.
        tolerated: By kind of finding: the largest share of rows that it may be found in; none of
            the kinds that are not named.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    kinds: ClassVar[Mapping[str, str]] = PROTEIN_KINDS

    name: Literal["proteins_v1"] = "proteins_v1"
    records: Count
    kind: Literal["sequence_to_class", "sequence_to_value", "residue_to_class"]
    classes: tuple[str, ...]
    keys: tuple[str, ...] = ()
    alphabet: str
    residues: Count
    value: Quantity | None = None
    parts: Parts
    floor: int = 10
    tolerated: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what :func:`_check_telling` does, values without a unit, keys of no header."""
        _check_telling(self)
        if self.value is not None and self.kind != "sequence_to_value":
            raise ValueError(f"schema.value with schema.kind={self.kind}: expected null")
        if wrong := [key for key in self.keys if not re.fullmatch("[A-Z_]+", key)]:
            raise ValueError(f"schema.keys has {wrong[0]!r}, expected capitals and '_'")


@dataclass(frozen=True, kw_only=True)
class StructuresV1:
    """A set that ``openfl-flows data prepare`` wrote.

    Attributes:
        structures: How many there must be that can be used.
        groups: Least number of groups of like sequences, which are what is split.
        chains: Chains of a structure, ligands included.
        polymers: Kinds of chains besides ligands.
        tokens: Residues, and atoms of all else.
        resolution: In Angstrom (unit A).
        released: Earliest and latest release date.
        with_ligand: Least number of structures with a ligand.
        floor: What is told outside the site is rounded down to a multiple of it.
        tolerated: By kind of finding: the largest share of rows that it may be found in; none of
            the kinds that are not named.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    kinds: ClassVar[Mapping[str, str]] = STRUCTURE_KINDS

    name: Literal["structures_v1"] = "structures_v1"
    structures: Count
    groups: int = 3
    chains: Count
    polymers: tuple[Literal["protein", "dna", "rna"], ...] = ("protein", "dna", "rna")
    tokens: Count
    resolution: Quantity
    released: tuple[date, date]
    with_ligand: int = 0
    floor: int = 10
    tolerated: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what :func:`_check_telling` does, and dates in the wrong order."""
        _check_telling(self)
        if not self.released[0] <= self.released[1]:
            raise ValueError(f"schema.released={self.released}, expected the earlier date first")


Schema = MoleculesV1 | ProteinsV1 | StructuresV1
SCHEMAS: Mapping[str, type[Schema]] = {
    "molecules_v1": MoleculesV1,
    "proteins_v1": ProteinsV1,
    "structures_v1": StructuresV1,
}
"""By the name that the plan has, which a change of meaning changes."""


def schema_digest(schema: Schema) -> str:
    """SHA-256 of name and limits: equal where the parties agreed on the same."""
    return canonical_digest(asdict(schema))


def canonical_digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of a document as JSON with sorted keys and no spaces; dates as ISO 8601."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), default=date.isoformat)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_share(key: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{key}={share}, expected 0 to 1")


def _check_telling(schema: Schema) -> None:
    """Refuse a floor that hides nothing, and tolerance of kinds that are never found."""
    if schema.floor < 2:
        raise ValueError(f"schema.floor={schema.floor}, expected at least 2")
    for kind, share in schema.tolerated.items():
        if kind not in schema.kinds:
            raise ValueError(
                f"schema.tolerated has {kind!r}, expected some of {', '.join(schema.kinds)}"
            )
        _check_share(f"schema.tolerated.{kind}", share)
