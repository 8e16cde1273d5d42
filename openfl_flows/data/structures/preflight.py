"""Run OpenFold3's own preprocessing on one structure, and compare what went in with what came out.

OpenFold3 drops what it does not like: chains that are short, unknown, clashing or broken, atoms
and ligands that a component does not know. Most of it is a line in a log. Whatever is missing or
different afterwards is a reason to refuse the structure.
"""

import json
import logging
import random
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from biotite import InvalidFileError
from biotite.structure import AtomArray, BadStructureError, get_residue_count, get_residue_starts
from biotite.structure.bonds import BondType
from biotite.structure.io.pdbx import CIFFile
from numpy.typing import NDArray
from openfold3.core.data.io.sequence.fasta import get_chain_id_to_seq_from_fasta
from openfold3.core.data.io.structure.atom_array import read_atomarray_from_npz
from openfold3.core.data.io.utils import encode_numpy_types
from openfold3.core.data.pipelines.preprocessing.structure import (
    preprocess_structure_and_write_outputs_of3,
)
from openfold3.core.data.resources.residues import MoleculeType
from rdkit import rdBase

from openfl_flows.data.structures.chemistry import Identified
from openfl_flows.data.structures.findings import Finding, Refused
from openfl_flows.data.structures.repair import Polymer, Repaired
from openfl_flows.seeds import derived_seed

_TERMINAL = 2
"""Atoms that OpenFold3 takes off a chain's ends (OXT, OP3)."""

_ORDERS = {"SING": BondType.SINGLE, "DOUB": BondType.DOUBLE, "TRIP": BondType.TRIPLE}

Trouble = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError, BadStructureError, InvalidFileError,
)  # fmt: skip
"""What is raised of structures that nobody foresaw; not what a full disk raises."""


@dataclass(frozen=True, kw_only=True)
class Preprocessed:
    """What OpenFold3 says of a structure.

    Attributes:
        metadata: Release date, resolution, chains, interfaces, token count.
        references: Metadata of reference molecules of ligands with several residues, by name.
        sequences: One-letter sequence by OpenFold3's chain.
    """

    metadata: Mapping[str, Any]
    references: Mapping[str, Any]
    sequences: Mapping[str, str]


def preprocess(
    name: str, repaired: Repaired, folder: Path, references: Mapping[str, Mapping[str, Any]]
) -> Preprocessed:
    """Let OpenFold3 preprocess a structure, and check what comes out.

    Args:
        name: Id of the structure.
        repaired: What goes in.
        folder: Gets ``<name>/<name>.npz`` and ``.fasta``, and ``reference_mols/*.sdf`` of ligands
            of several residues.
        references: Metadata of all components' reference molecules, which are written already.

    Raises:
        Refused: It fails, or the outcome is not the same molecules.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"{name}.cif"
    repaired.block.write_file(str(source))
    dictionary = CIFFile()
    for code, component in repaired.components.items():
        dictionary[code] = component.block
    molecules = folder / "reference_mols"
    molecules.mkdir(exist_ok=True)
    # RDKit's conformers are seeded from this generator.
    random.seed(derived_seed("reference", name))
    with _log_lines() as said, warnings.catch_warnings(), rdBase.BlockLogs():
        warnings.simplefilter("ignore")
        try:
            structures, own = preprocess_structure_and_write_outputs_of3(
                input_cif=source,
                ccd=dictionary,
                out_dir=folder / name,
                reference_mol_out_dir=molecules,
                output_formats=("npz",),
                skip_components=set(references),
            )
        except Trouble as error:
            text = f"{name}: OpenFold3: {type(error).__name__}: {error}"
            raise Refused(Finding(kind="failed", text=text)) from None
    source.unlink()
    metadata = structures[name]
    if metadata["status"] != "success":
        text = f"{name}: OpenFold3: {metadata['status']}"
        raise Refused([Finding(kind="failed", text=text), *_dropped(name, said, "failed")])
    atoms = read_atomarray_from_npz(folder / name / f"{name}.npz")
    sequences = get_chain_id_to_seq_from_fasta(folder / name / f"{name}.fasta")
    reasons = differences(name, repaired, atoms, sequences)
    reasons += _other_references(name, repaired.ligands, references)
    if reasons:
        raise Refused([*reasons, *_dropped(name, said, reasons[0].kind)])
    plain = json.loads(json.dumps([metadata, own], default=encode_numpy_types))
    return Preprocessed(metadata=plain[0], references=plain[1], sequences=sequences)


def differences(
    name: str, repaired: Repaired, atoms: AtomArray, sequences: Mapping[str, str]
) -> list[Finding]:
    """What is not after preprocessing what it was before; empty if all is.

    Args:
        name: Id of the structure.
        repaired: Before.
        atoms: After; a chain may be there several times in an assembly.
        sequences: After, by OpenFold3's chain.
    """
    reasons: list[Finding] = []
    for chain, polymer in repaired.chains.items():
        reasons += _chain_differences(name, chain, polymer, atoms, sequences)
    found = _ligand_residues(atoms)
    for ligand in repaired.ligands:
        residue = ligand.residue
        copies = found.pop((residue.chain, residue.number, ligand.component.code), [])
        if not copies:
            text = f"{name}: ligand {residue} is gone, expected {len(residue.names)} heavy atoms"
            reasons.append(Finding(kind="ligand_lost", text=text))
        for copy in copies:
            wrong = _ligand_difference(ligand, atoms[copy])
            if wrong:
                text = f"{name}: ligand {residue}: {wrong}"
                reasons.append(Finding(kind="ligand_changed", text=text))
                break
    for chain, number, code in found:
        text = f"{name}: {code} {chain} {number} is a ligand, expected none there"
        reasons.append(Finding(kind="ligand_changed", text=text))
    return reasons


def _chain_differences(
    name: str, chain: str, polymer: Polymer, atoms: AtomArray, sequences: Mapping[str, str]
) -> list[Finding]:
    """Of one chain and its copies in an assembly."""
    mine = (atoms.auth_asym_id == chain) & (atoms.molecule_type_id != MoleculeType.LIGAND)
    if not mine.any():
        text = f"{name}: chain {chain} is gone, expected {polymer.length} residues"
        return [Finding(kind="chain_lost", text=text)]
    wrong: list[str] = []
    for copy in np.unique(atoms.chain_id[mine]):
        there = atoms[mine & (atoms.chain_id == copy)]
        kind = MoleculeType(int(there.molecule_type_id[0])).name
        length = len(sequences.get(str(copy), ""))
        resolved = int((~np.isnan(there.coord).any(axis=-1)).sum())
        if kind not in polymer.kinds:
            wrong.append(f"it is {kind}, expected {' or '.join(polymer.kinds)}")
        if length != polymer.length or get_residue_count(there) != polymer.length:
            wrong.append(
                f"it has {get_residue_count(there)} residues and a sequence of {length}, "
                f"expected {polymer.length}"
            )
        if not polymer.atoms - _TERMINAL <= resolved <= polymer.atoms:
            wrong.append(f"it has {resolved} heavy atoms, expected {polymer.atoms}")
    text = f"{name}: chain {chain}: {wrong[0] if wrong else ''}"
    return [Finding(kind="chain_changed", text=text)] if wrong else []


def _ligand_residues(
    atoms: AtomArray,
) -> dict[tuple[str, str, str], list[NDArray[np.intp]]]:
    """Atoms of each ligand residue, by author's chain, number and code."""
    found: dict[tuple[str, str, str], list[NDArray[np.intp]]] = {}
    starts = get_residue_starts(atoms, add_exclusive_stop=True)
    for start, stop in pairwise(starts):
        if atoms.molecule_type_id[start] == MoleculeType.LIGAND:
            number = f"{atoms.res_id[start]}{str(atoms.ins_code[start]).strip('.? ')}"
            key = (str(atoms.auth_asym_id[start]), number, str(atoms.res_name[start]))
            found.setdefault(key, []).append(np.arange(start, stop))
    return found


def _ligand_difference(ligand: Identified, there: AtomArray) -> str:
    """What is wrong with a ligand after preprocessing; empty if it is the same molecule."""
    resolved = ~np.isnan(there.coord).any(axis=-1)
    names = Counter(str(name) for name in there.atom_name[resolved])
    if names != Counter(ligand.names):
        return f"it has {names.total()} heavy atoms with coordinates, expected {len(ligand.names)}"
    elements = {str(n): str(e).upper() for n, e in zip(there.atom_name, there.element, strict=True)}
    expected = ligand.component.elements
    wrong = [name for name, element in elements.items() if expected.get(name) != element]
    if wrong:
        return f"atom {wrong[0]} is {elements[wrong[0]]}, expected {expected.get(wrong[0])}"
    bonds = {
        frozenset((str(there.atom_name[i]), str(there.atom_name[j]))): BondType(
            int(kind)
        ).without_aromaticity()
        for i, j, kind in there.bonds.as_array()
        if resolved[i] and resolved[j]
    }
    missing = ligand.bonds.keys() - bonds.keys()
    extra = bonds.keys() - ligand.bonds.keys()
    if missing or extra:
        first = "-".join(sorted(next(iter(missing or extra))))
        return (
            f"it has {len(bonds)} bonds, expected {len(ligand.bonds)}: "
            f"{first} is {'missing' if missing else 'not expected'}"
        )
    for pair, order in ligand.bonds.items():
        if order in _ORDERS and bonds[pair] not in (_ORDERS[order], BondType.COORDINATION):
            return f"bond {'-'.join(sorted(pair))} is {bonds[pair].name}, expected {order}"
    return ""


def _other_references(
    name: str, ligands: Sequence[Identified], references: Mapping[str, Mapping[str, Any]]
) -> list[Finding]:
    """Own ligands whose reference molecule is not the molecule that was given."""
    return [
        Finding(
            kind="ligand_changed",
            text=f"{name}: ligand {one.residue}: its reference molecule is {found}, "
            f"expected {one.smiles}",
        )
        for one in ligands
        for found in [references[one.component.code]["canonical_smiles"]]
        if one.smiles is not None and found != one.smiles
    ]


def _dropped(name: str, said: Sequence[str], kind: str) -> list[Finding]:
    """What OpenFold3's log says about chains and ligands that it dropped."""
    lines = [line for line in said if "chain" in line and line.startswith(("Removed", "Skipping"))]
    return [Finding(kind=kind, text=f"{name}: OpenFold3: {line}") for line in lines]


@contextmanager
def _log_lines() -> Iterator[list[str]]:
    """Collect what OpenFold3 logs, instead of showing it."""
    lines: list[str] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage().splitlines()[0])

    logger = logging.getLogger("openfold3")
    handler = Collecting()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
