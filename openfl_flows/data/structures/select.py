"""Which structures of a prepared set a run is about, from what is known of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from openfold3.core.data.resources.lists import (
    CRYSTALLIZATION_AIDS,
    GLYCAN_CCD_CODES,
    IONS,
    LIGAND_EXCLUSION_LIST,
)
from pydantic import ConfigDict
from rdkit import Chem, rdBase

from openfl_flows.data.structures.set import StructureSet
from openfl_flows.seeds import derived_seed

SAMPLE = Path(__file__).parents[1] / "samples" / "structures" / "prepared"
"""The structures that the package ships, prepared."""

NO_LIGANDS = frozenset({*IONS, *CRYSTALLIZATION_AIDS, *LIGAND_EXCLUSION_LIST, *GLYCAN_CCD_CODES})
"""Components that do not make a structure one with a ligand: ions, what crystals are grown with
(AlphaFold 3, supplement, tables 9 and 10) and sugars, as OpenFold3 lists them."""

LEAST_LIGAND_ATOMS = 6
"""Heavy atoms of the smallest ligand."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What is known of a prepared structure without reading its atoms.

    Attributes:
        name: Its id in the set.
        released: Day of its release, or the one that its site gave it.
        num_tokens: Size: residues, and atoms of all else.
        polymers: Kind of each polymer chain: ``protein``, ``dna`` or ``rna``.
        clusters: Clusters of like sequences that its polymer chains are in.
        ligands: Codes of its ligands; ions, additives and sugars are none.
    """

    name: str
    released: date
    num_tokens: int
    polymers: tuple[str, ...]
    clusters: frozenset[str]
    ligands: tuple[str, ...]

    @property
    def is_monomer_with_ligand(self) -> bool:
        """One polymer chain, a protein, with at least one ligand."""
        return self.polymers == ("protein",) and bool(self.ligands)


@dataclass(frozen=True, kw_only=True)
class StructureSelection:
    """The structures of a run, and how they are dealt to sites.

    Attributes:
        path: ``sample`` for the structures that the package ships, or the folder of a set that
            ``openfl-flows data prepare`` wrote.
        subset: ``all``; those released ``before`` the cut; those released ``after`` it or on it; or
            ``mixed``, as many from before as from after, the larger side thinned.
        date_cut: The cut, for all subsets but ``all``.
        only: ``any``, or ``monomer_ligand``: a single protein chain with a ligand.
        max_tokens: Leave out what is larger; validation reads a structure whole.
        limit: Take at most this many, the same ones every time.
        deal: ``iid``; ``sizes`` by given fractions; ``clusters`` with like sequences at one site
            only; ``dates`` with a contiguous range of release dates at each site; ``ligands`` with
            the structures that have one at the first sites.
        fractions: Share of each site, for ``sizes``.
        split: Shares of each site's training, validation and test, by cluster; None where
            ``held_out`` is given.
        held_out: Groups of like structures that are validated on, and as many that are tested on,
            taken out before dealing and the same at all sites: for few structures, and to compare
            numbers of sites. None where every site splits its own.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    path: str = "sample"
    subset: Literal["all", "before", "after", "mixed"] = "all"
    date_cut: date | None = None
    only: Literal["any", "monomer_ligand"] = "any"
    max_tokens: int | None = None
    limit: int | None = None
    deal: Literal["iid", "sizes", "clusters", "dates", "ligands"] = "iid"
    fractions: tuple[float, ...] | None = None
    split: tuple[float, float, float] | None = (0.8, 0.1, 0.1)
    held_out: int | None = None

    def __post_init__(self) -> None:
        """Refuse counts below one, shares that are none, and options that nothing would read."""
        for name in ("max_tokens", "limit", "held_out"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data.{name}={value}, expected at least 1")
        if (self.date_cut is None) != (self.subset == "all"):
            wanted = "none" if self.subset == "all" else "a date such as 2015-01-01"
            raise ValueError(
                f"data.date_cut={self.date_cut} with data.subset={self.subset}, expected {wanted}"
            )
        if (self.fractions is None) != (self.deal != "sizes"):
            wanted = "one for each site" if self.deal == "sizes" else "none"
            raise ValueError(
                f"data.fractions={self.fractions} with data.deal={self.deal}, expected {wanted}"
            )
        if (self.split is None) != (self.held_out is not None):
            raise ValueError(
                f"data.split={self.split} with data.held_out={self.held_out}, expected one of them "
                "and null for the other"
            )
        if self.split and (min(self.split) <= 0 or abs(sum(self.split) - 1) > 1e-6):
            raise ValueError(f"data.split={self.split}, expected shares above 0 that sum to 1")

    def open(self) -> StructureSet:
        """The set that ``path`` names.

        Raises:
            ValueError: There is none.
        """
        return StructureSet.open(SAMPLE if self.path == "sample" else Path(self.path))


def read_structures(prepared: StructureSet) -> tuple[Structure, ...]:
    """What is known of each structure of a set, in the order of their names.

    Raises:
        ValueError: The set's cache lacks what is needed; the message names file and structure.
    """
    molecules = prepared.cache["reference_molecule_data"]
    ligands = {code: _is_ligand(code, entry) for code, entry in molecules.items()}
    found = []
    for name, entry in sorted(prepared.structures.items()):
        try:
            found.append(_structure(prepared.folder, name, entry, ligands))
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise ValueError(
                f"{prepared.folder}: structure {name} cannot be read ({error!r}), expected a set "
                "that `openfl-flows data prepare` wrote"
            ) from None
    return tuple(found)


def select(structures: Sequence[Structure], selection: StructureSelection) -> tuple[Structure, ...]:
    """The structures of a run, in the order of their names.

    Which ones a limit or the mixture leaves out depends on nothing but the names of those that
    compete, so that another structure displaces at most one.

    Raises:
        ValueError: None is left; the message says at which step.
    """
    left = sorted(structures, key=lambda structure: structure.name)
    steps: list[tuple[str, Callable[[Structure], bool]]] = []
    if selection.only == "monomer_ligand":
        steps.append(("data.only=monomer_ligand", lambda s: s.is_monomer_with_ligand))
    if (tokens := selection.max_tokens) is not None:
        steps.append((f"data.max_tokens={tokens}", lambda s: s.num_tokens <= tokens))
    for key, keep in steps:
        before, left = len(left), [structure for structure in left if keep(structure)]
        if not left:
            raise ValueError(f"{key} leaves none of {before} structures, expected at least 1")
    chosen = _by_date(left, selection)
    if selection.limit is not None:
        chosen = _thinned(chosen, selection.limit)
    return tuple(chosen)


def _by_date(structures: list[Structure], selection: StructureSelection) -> list[Structure]:
    cut = selection.date_cut
    if cut is None:
        return structures
    sides = {
        "before": [structure for structure in structures if structure.released < cut],
        "after": [structure for structure in structures if structure.released >= cut],
    }
    wanted = list(sides) if selection.subset == "mixed" else [selection.subset]
    for side in wanted:
        if not sides[side]:
            raise ValueError(
                f"data.date_cut={cut}: none of {len(structures)} structures was released {side}, "
                f"expected at least 1 for data.subset={selection.subset}"
            )
    if selection.subset != "mixed":
        return sides[selection.subset]
    least = min(map(len, sides.values()))
    if selection.limit is not None:
        least = min(least, selection.limit // 2)
        if not least:
            raise ValueError(f"data.limit={selection.limit}, expected 2 or more for a mixture")
    both = [structure for side in sides.values() for structure in _thinned(side, least)]
    return sorted(both, key=lambda structure: structure.name)


def _thinned(structures: list[Structure], num: int) -> list[Structure]:
    kept = sorted(structures, key=lambda structure: derived_seed("limit", structure.name))[:num]
    return sorted(kept, key=lambda structure: structure.name)


def _structure(
    folder: Path, name: str, entry: Mapping[str, Any], is_ligand: Mapping[str, bool]
) -> Structure:
    chains = entry["chains"].values()
    polymers = [chain for chain in chains if chain["molecule_type"] != "LIGAND"]
    codes = [chain["reference_mol_id"] for chain in chains if chain["molecule_type"] == "LIGAND"]
    with np.load(folder / "structure_files" / name / f"{name}.npz") as arrays:
        num_tokens = len(np.unique(arrays["token_id"]))
    return Structure(
        name=name,
        released=date.fromisoformat(entry["release_date"]),
        num_tokens=num_tokens,
        polymers=tuple(sorted(chain["molecule_type"].lower() for chain in polymers)),
        clusters=frozenset(str(chain["cluster_id"]) for chain in polymers),
        ligands=tuple(sorted(code for code in codes if is_ligand[code])),
    )


def _is_ligand(code: str, entry: Mapping[str, Any]) -> bool:
    if code in NO_LIGANDS:
        return False
    with rdBase.BlockLogs():
        # Not sanitized: only atoms are counted, and metal complexes break the rules of valence.
        molecule = Chem.MolFromSmiles(entry["canonical_smiles"], sanitize=False)
    return molecule is not None and molecule.GetNumHeavyAtoms() >= LEAST_LIGAND_ATOMS
