"""What the parties agree on about their split, and what each of them has for it."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

KEY_FILE = "private/blind.key"
"""Where a party of a federation has the key, in its workspace; nothing exports that folder."""

CLUSTERS = "plan/clusters.csv"
"""Where a workspace has the table of public clusters, which travels with the plan."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How training, validation and test are told apart.

    Attributes:
        name: ``random``, as ``partition`` and ``data`` say: by seeds, or as a file says. ``blind``:
            by groups of like molecules, proteins or structures, whose part follows from a key that
            all parties have (see docs/blind_split.md).
        fractions: Shares of training, validation and test, of ``blind``.
        key_file: The key, of ``blind``; at a site, relative to its workspace.
        molecules: What molecules are grouped by: ``core``, their largest ring systems; or
            ``atoms``, the kinds of their atoms, for sets of very small molecules.
        rings: Rings from which on a core is complete.
        clusters: Table of public clusters of proteins; words of the sequence where None.
        clusters_sha256: Digest that this table must have, None where any will do.
        complexes: What of a structure must be in one part: ``all``, its proteins, nucleic acids and
            ligands; or ``polymers`` alone.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Literal["random", "blind"] = "random"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    key_file: str | None = None
    molecules: Literal["core", "atoms"] = "core"
    rings: int = 1
    clusters: str | None = None
    clusters_sha256: str | None = None
    complexes: Literal["all", "polymers"] = "all"

    def __post_init__(self) -> None:
        """Refuse shares that are none, and options that nothing would read."""
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(
                f"split.fractions={self.fractions}, expected shares above 0 that sum to 1"
            )
        if self.rings < 1:
            raise ValueError(f"split.rings={self.rings}, expected at least 1")
        if (self.key_file is None) != (self.name == "random"):
            wanted = "none" if self.name == "random" else f"a file such as {KEY_FILE}"
            raise ValueError(
                f"split.key_file={self.key_file} with split.name={self.name}, expected {wanted}"
            )
        if self.clusters is None and self.clusters_sha256 is not None:
            raise ValueError(
                f"split.clusters_sha256={self.clusters_sha256} with split.clusters=null, expected "
                "the table that has this digest"
            )

    @property
    def blind(self) -> bool:
        """Whether parts follow from the key."""
        return self.name == "blind"

    @property
    def key_path(self) -> Path:
        """The key file of a blind split."""
        assert self.key_file is not None
        return Path(self.key_file).expanduser()


def agreed_split(config: SplitConfig) -> dict[str, Any]:
    """A blind split as the plan of a federation says it: with the places of files at every site.

    Raises:
        OSError: The table of clusters cannot be read.
    """
    found = {**asdict(config), "fractions": list(config.fractions), "key_file": KEY_FILE}
    if config.clusters is not None:
        content = Path(config.clusters).expanduser().read_bytes()
        found |= {"clusters": CLUSTERS, "clusters_sha256": hashlib.sha256(content).hexdigest()}
    return found


RANDOM = SplitConfig()
"""The split that needs no key."""
