"""The blind split of a party: configuration and key, asked for the part of anything it has."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openfl_flows.data.blind.config import SplitConfig
from openfl_flows.data.blind.folds import PARTS, commitment, group_number, part_of
from openfl_flows.data.blind.key_file import read_key
from openfl_flows.data.blind.molecules import MoleculeGroups
from openfl_flows.data.blind.proteins import ProteinGroups, read_clusters

Index = NDArray[np.int64]

NO_PART = ""
"""In place of a part: what belongs to groups of different parts is in none."""


@dataclass(frozen=True, kw_only=True)
class BlindSplit:
    """Parts of groups.

    Attributes:
        config: What the parties agree on.
        secret: The key; not shown.
        molecules: Names groups of molecules.
        proteins: Names groups of proteins.
    """

    config: SplitConfig
    secret: bytes = field(repr=False)
    molecules: MoleculeGroups
    proteins: ProteinGroups

    @classmethod
    def open(cls, config: SplitConfig) -> "BlindSplit":
        """Read the key and the clusters that a configuration names.

        Raises:
            ValueError: A file is not there, or is not what was agreed on.
        """
        return cls.of(config, read_key(config.key_path))

    @classmethod
    def of(cls, config: SplitConfig, secret: bytes) -> "BlindSplit":
        """With a key that is at hand.

        Raises:
            ValueError: The clusters are not there, or not those that were agreed on.
        """
        clusters = config.clusters
        return cls(
            config=config,
            secret=secret,
            molecules=MoleculeGroups(rule=config.molecules, rings=config.rings),
            proteins=(
                ProteinGroups()
                if clusters is None
                else read_clusters(Path(clusters).expanduser(), config.clusters_sha256)
            ),
        )

    @property
    def commitment(self) -> str:
        """What tells this key from another and does not give it away."""
        return commitment(self.secret)

    def part(self, kind: str, group: str) -> str:
        """The part of one group."""
        return part_of(group_number(self.secret, kind, group), self.config.fractions)

    def common_part(self, groups: Collection[tuple[str, str]]) -> str:
        """The one part that all groups are in, or :data:`NO_PART`."""
        parts = {self.part(kind, group) for kind, group in groups}
        return parts.pop() if len(parts) == 1 else NO_PART

    def molecule_parts(self, smiles: Iterable[str]) -> list[str]:
        """The part of each molecule.

        Raises:
            ValueError: RDKit refuses a SMILES.
        """
        return [self.part("molecule", self.molecules.group(each)) for each in smiles]

    def protein_parts(self, names: Sequence[str], sequences: Sequence[str]) -> list[str]:
        """The part of each protein."""
        return [
            self.part("protein", self.proteins.group(name, sequence))
            for name, sequence in zip(names, sequences, strict=True)
        ]


def open_split(config: SplitConfig) -> BlindSplit | None:
    """The blind split of a configuration; None where that is ``random``.

    Raises:
        ValueError: A file is not there, or is not what was agreed on.
    """
    return BlindSplit.open(config) if config.blind else None


def indices_by_part(parts: Sequence[str]) -> tuple[Index, Index, Index]:
    """Sorted positions of training, validation and test.

    Raises:
        ValueError: One of them is empty.
    """
    labels = np.asarray(parts)
    counts = {part: int((labels == part).sum()) for part in PARTS}
    for part, count in counts.items():
        if not count:
            raise ValueError(
                f"the blind split puts none of them in {part} ({told(counts)}), expected at least "
                "1: more data, or other split.fractions"
            )
    train, val, test = (np.flatnonzero(labels == part) for part in PARTS)
    return train, val, test


def told(counts: Mapping[str, int]) -> str:
    """Counts of parts in words."""
    return ", ".join(f"{count:,} {part}" for part, count in counts.items())
