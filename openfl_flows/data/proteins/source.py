"""Where the proteins of a run come from, and what a model sees of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from openfl_flows.data.proteins.fasta import PRED, Record, read_fasta
from openfl_flows.data.proteins.rejections import Rejection
from openfl_flows.data.proteins.residues import (
    LETTERS,
    Seen,
    foreign_letter,
    keep_ends,
    kept_positions,
    replace_foreign,
    without_stop,
)
from openfl_flows.data.proteins.targets import (
    MASKED,
    class_index,
    finite_value,
    residue_classes,
)
from openfl_flows.seeds import derived_seed

SAMPLE = Path(__file__).parents[1] / "samples" / "proteins.fasta"

SITE_FILE = "proteins.fasta"
"""Name of the file in the data folder of a site of a federation."""

Kind = Literal["sequence_to_class", "sequence_to_value", "residue_to_class"]
"""What is learned: a class or a number for each protein, or a class for each residue."""

Target = int | float | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Protein:
    """One protein to train on or to be tested with.

    Attributes:
        record: As read.
        sequence: What the model sees, L letters of :data:`~.residues.LETTERS`.
        target: Class index, value, or (L,) class indices, :data:`~.targets.MASKED` where not
            learned.
    """

    record: Record
    sequence: str
    target: Target

    @property
    def name(self) -> str:
        """First word of the header."""
        return self.record.name


@dataclass(frozen=True)
class Proteins:
    """All proteins of a file, in its order.

    Attributes:
        proteins: Those with a target.
        rejections: Records left out.
        replaced: Letters unknown to the model that became X.
        cropped: Names of proteins that lost their middle.
        unlabelled: Proteins to predict (``SET=pred``), which are not among `proteins`.
        undrawn: Proteins that `limit` left out.
    """

    proteins: tuple[Protein, ...]
    rejections: tuple[Rejection, ...] = ()
    replaced: int = 0
    cropped: tuple[str, ...] = ()
    unlabelled: int = 0
    undrawn: int = 0

    def __len__(self) -> int:
        """Number of proteins."""
        return len(self.proteins)

    @property
    def parts(self) -> dict[str, int]:
        """Number of proteins of each part: training, validation, then test sets by name."""
        names = [p.record.part for p in self.proteins]
        order = sorted(set(names), key=lambda name: (name != "train", name != "val", name))
        return {name: names.count(name) for name in order}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes results look better, or worse, than they are; one sentence each."""
        trained = {p.sequence for p in self.proteins if p.record.part == "train"}
        chosen = {p.sequence for p in self.proteins if p.record.part == "val"}
        found = []
        for part in self.parts:
            if part == "train":
                continue
            earlier = trained if part == "val" else trained | chosen
            inside = [p for p in self.proteins if p.record.part == part]
            leaked = sum(p.sequence in earlier for p in inside)
            if leaked:
                found.append(
                    f"{leaked:,} of {len(inside):,} proteins of the {part} set have the sequence "
                    f"of a protein {'to train on' if part == 'val' else 'to train or select on'}"
                )
        targets: dict[str, set[str | None]] = {}
        for p in self.proteins:
            targets.setdefault(p.sequence, set()).add(p.record.target)
        if disputed := sum(len(different) > 1 for different in targets.values()):
            found.append(f"{disputed:,} sequences have several names and different targets")
        return tuple(found)

    def note(self) -> str:
        """Counts in words, warnings included; one line."""
        parts = ", ".join(f"{count:,} {name}" for name, count in self.parts.items())
        repeated = len(self) - len({p.sequence for p in self.proteins})
        counts = (
            (len(self.rejections), "rejected"),
            (self.undrawn, "not drawn"),
            (self.unlabelled, "to predict"),
            (len(self.cropped), "cropped in the middle"),
            (self.replaced, "letters replaced by X"),
            (repeated, "with the sequence of another"),
        )
        told = [f"{count:,} {what}" for count, what in counts if count]
        return "; ".join(
            [f"{len(self):,} proteins ({parts})", *told, *(f"warning: {w}" for w in self.warnings)]
        )


@dataclass(frozen=True, kw_only=True)
class ProteinSource:
    """A FASTA file of biotrainer, see :mod:`openfl_flows.data.proteins.fasta`.

    Attributes:
        path: ``sample`` for the proteins that the package ships, or a file; plain or gzip.
        kind: What is learned, see :data:`Kind`.
        classes: Names of the classes; their order is the index, the same at every site. One letter
            each for ``residue_to_class``, none for ``sequence_to_value``.
        max_length: Most residues that the model sees of a protein (ESM-2 was trained on crops of
            1,024 tokens); None is no limit.
        long: Of a longer protein, keep both ends (``crop``), ``leave_out`` the protein, or
            ``refuse`` the file.
        letters: Letters that the model does not know (J, gaps) become X (``replace``), or are an
            error (``refuse``).
        limit: Take at most this many of the training and validation proteins, drawn at random once
            and for all; test sets stay whole.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    path: str = "sample"
    kind: Kind = "sequence_to_class"
    classes: tuple[str, ...]
    max_length: int | None = 510
    long: Literal["crop", "refuse", "leave_out"] = "crop"
    letters: Literal["replace", "refuse"] = "replace"
    limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse counts below one and classes that do not fit the kind."""
        for name, value in (("limit", self.limit), ("max_length", self.max_length)):
            if value is not None and value < 1:
                raise ValueError(f"data.{name}={value}, expected at least 1")
        given = f"data.classes={list(self.classes)} with data.kind={self.kind}"
        if self.kind == "sequence_to_value":
            if self.classes:
                raise ValueError(f"{given}, expected none: a value has no class")
            return
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"{given}, expected at least two different names")
        if any(len(name.split()) != 1 or name != name.strip() for name in self.classes):
            raise ValueError(f"{given}, expected names without spaces, as they stand in a header")
        letters = all(len(name) == 1 and name.isascii() for name in self.classes)
        if self.kind == "residue_to_class" and not letters:
            raise ValueError(f"{given}, expected names of one letter, one for each residue")

    @property
    def file(self) -> Path:
        """The file that is read."""
        return SAMPLE if self.path == "sample" else Path(self.path)

    def read(self) -> Proteins:
        """Read the proteins with a target.

        Raises:
            ValueError: The file cannot be used; the message names file, line and value.
            OSError: The file cannot be read.
        """
        if not self.file.is_file():
            raise ValueError(f"data.path={self.path}: no such file, expected proteins as FASTA")
        records = read_fasta(self.file)
        labelled = [record for record in records if record.part != PRED]
        usable: list[tuple[Protein, Seen]] = []
        rejections: list[Rejection] = []
        lines: dict[str, int] = {}
        for record in labelled:
            first = lines.setdefault(record.name, record.line)
            if first != record.line:
                reason = f"the same record as at line {first}"
                rejections.append(Rejection(record.line, record.name, reason))
                continue
            seen = self.as_seen(record)
            if isinstance(seen, Rejection):
                rejections.append(seen)
                continue
            target = self._target(record)
            if isinstance(target, np.ndarray) and (target == MASKED).all():
                reason = "all residues that the model sees are masked"
                rejections.append(Rejection(record.line, record.name, reason))
                continue
            usable.append((Protein(record, seen.sequence, target), seen))
        if not usable:
            first_reason = f", the first because: {rejections[0].reason}" if rejections else ""
            raise ValueError(
                f"{self.file}: no protein to learn from among {len(records)} records; "
                f"{len(records) - len(labelled)} are to predict, {len(rejections)} were rejected"
                f"{first_reason}"
            )
        drawn = self._drawn(usable)
        return Proteins(
            proteins=tuple(protein for protein, _ in drawn),
            rejections=tuple(rejections),
            replaced=sum(seen.replaced for _, seen in drawn),
            cropped=tuple(protein.name for protein, seen in drawn if seen.cropped),
            unlabelled=len(records) - len(labelled),
            undrawn=len(usable) - len(drawn),
        )

    def as_seen(self, record: Record) -> Seen | Rejection:
        """What the model sees of a record, of any part, or why it is left out.

        Raises:
            ValueError: Its letters or its length are refused.
        """
        where = self._where(record)
        sequence = without_stop(record.sequence)
        foreign = foreign_letter(sequence)
        if foreign and self.letters == "refuse":
            raise ValueError(
                f"{where} has {foreign[1]!r} at residue {foreign[0] + 1}, expected one of {LETTERS}"
            )
        full, replaced = replace_foreign(sequence) if foreign else (sequence, 0)
        limit = self.max_length
        if limit is not None and len(full) > limit and self.long != "crop":
            reason = f"{len(full)} residues, longer than {limit}"
            if self.long == "refuse":
                raise ValueError(f"{where} has {reason} (data.max_length)")
            return Rejection(record.line, record.name, reason)
        kept = keep_ends(full, limit)
        return Seen(sequence=kept, replaced=replaced, cropped=len(full) - len(kept))

    def _target(self, record: Record) -> Target:
        where = self._where(record)
        assert record.target is not None
        if self.kind == "residue_to_class":
            found = residue_classes(
                where, record.target, record.mask, record.sequence, self.classes
            )
            return found[kept_positions(len(found), self.max_length)]
        if record.mask is not None:
            raise ValueError(f"{where} has a MASK, expected none with data.kind={self.kind}")
        if self.kind == "sequence_to_class":
            return class_index(where, record.target, self.classes)
        return finite_value(where, record.target)

    def _where(self, record: Record) -> str:
        return f"{self.file}, line {record.line}: {record.name}"

    def _drawn(self, usable: Sequence[tuple[Protein, Seen]]) -> Sequence[tuple[Protein, Seen]]:
        """All test proteins and at most `limit` others, in file order."""
        to_learn = [i for i, (p, _) in enumerate(usable) if p.record.part in ("train", "val")]
        if self.limit is None or len(to_learn) <= self.limit:
            return usable
        order = np.random.default_rng(derived_seed("limit")).permutation(len(to_learn))
        left_out = {to_learn[i] for i in order[self.limit :]}
        return [pair for i, pair in enumerate(usable) if i not in left_out]


def site_source(folder: Path, source: ProteinSource) -> ProteinSource:
    """The same source with the file in a site's data folder, see :data:`SITE_FILE`.

    Raises:
        ValueError: There is no such file.
    """
    file = folder / SITE_FILE
    if not file.is_file():
        raise ValueError(f"{file}: no such file, expected proteins as FASTA")
    return replace(source, path=str(file))
