"""Groups of a prepared structure: of each of its polymer chains and of each of its ligands.

A structure belongs to several groups at once, and a party cannot see which other structures hold a
group together with another one: what a union of groups would join here, it would not join
elsewhere. So groups are never joined. Each has its own part, and a structure whose groups are in
different parts is in none. That is the price of a split in which neither a protein nor a ligand of
a test structure was trained on anywhere.
"""

from collections.abc import Collection
from typing import Literal

from openfold3.core.data.io.sequence.fasta import get_chain_id_to_seq_from_fasta

from openfl_flows.data.blind.molecules import MoleculeGroups
from openfl_flows.data.blind.proteins import ProteinGroups
from openfl_flows.data.blind.split import BlindSplit
from openfl_flows.data.structures.select import Structure
from openfl_flows.data.structures.set import StructureSet

Groups = frozenset[tuple[str, str]]
"""Kind and name of each group."""


def structure_groups(
    prepared: StructureSet,
    structures: Collection[Structure],
    complexes: Literal["all", "polymers"],
    molecules: MoleculeGroups,
    proteins: ProteinGroups,
) -> dict[str, Groups]:
    """Groups of each structure, by its name.

    Ligands are those of :class:`~openfl_flows.data.structures.select.Structure`: no ions, no sugars
    and nothing that crystals are grown with, which very many structures have.

    Args:
        prepared: The set that they are of.
        structures: Which ones.
        complexes: Whether ligands count.
        molecules: Names the group of a ligand.
        proteins: Names the group of a protein.

    Raises:
        ValueError: A ligand is none that RDKit reads.
    """
    references = prepared.cache["reference_molecule_data"]
    found = {}
    for structure in structures:
        name = structure.name
        file = prepared.folder / "structure_files" / name / f"{name}.fasta"
        sequences = get_chain_id_to_seq_from_fasta(file)
        chains = prepared.structures[name]["chains"]
        groups = {
            _polymer(chains[chain]["molecule_type"], sequence, proteins)
            for chain, sequence in sequences.items()
            if chains[chain]["molecule_type"] != "LIGAND"
        }
        for code in structure.ligands if complexes == "all" else ():
            try:
                groups.add(("molecule", molecules.group(references[code]["canonical_smiles"])))
            except ValueError as error:
                raise ValueError(f"structure {name}, ligand {code}: {error}") from None
        found[name] = frozenset(groups)
    return found


def _polymer(kind: str, sequence: str, proteins: ProteinGroups) -> tuple[str, str]:
    if kind == "PROTEIN":
        return "protein", proteins.group("", sequence)
    return kind.lower(), sequence


def structure_parts(
    split: BlindSplit, prepared: StructureSet, structures: Collection[Structure]
) -> dict[str, str]:
    """The part of each structure by its name; :data:`~.split.NO_PART` where its groups disagree.

    Raises:
        ValueError: A ligand is none that RDKit reads.
    """
    groups = structure_groups(
        prepared, structures, split.config.complexes, split.molecules, split.proteins
    )
    return {name: split.common_part(each) for name, each in groups.items()}
