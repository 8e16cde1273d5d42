"""Quality of generated molecules: validity, uniqueness, novelty, as the published runs count them.

Vignac et al., DiGress, ICLR 2023 (arXiv:2209.14734), section 6. Uniqueness and novelty depend on
how many molecules were generated: always state `num_generated` beside them.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from scipy.stats import binomtest

from openfl_flows.data.smiles import BOND_CLASSES, build_molecule

_CHARGEABLE = frozenset({7, 8, 16})  # N, O, S


@dataclass(frozen=True, kw_only=True)
class MoleculeQuality:
    """Counts over a set of generated molecules, and the shares that follow.

    Attributes:
        num_generated: All molecules.
        num_valid: Those that RDKit sanitizes as they are (strict); fragments are allowed.
        num_connected: Those that are valid and in one piece.
        num_relaxed_valid: Those that are valid, or become so with a charge of +1 on neutral
            N, O or S atoms that have exactly one bond too many.
        num_unique: Different SMILES among the relaxed-valid.
        num_novel: Of these, SMILES that are not in the training set.
    """

    num_generated: int
    num_valid: int
    num_connected: int
    num_relaxed_valid: int
    num_unique: int
    num_novel: int

    @property
    def validity(self) -> float:
        """Share of strictly valid molecules; the published validity."""
        return self.num_valid / self.num_generated

    @property
    def validity_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `validity` (J. Am. Stat. Assoc. 22 (1927) 209)."""
        test = binomtest(self.num_valid, self.num_generated)
        interval = test.proportion_ci(confidence_level=0.95, method="wilson")
        return float(interval.low), float(interval.high)

    @property
    def connected(self) -> float:
        """Share of molecules that are valid and in one piece."""
        return self.num_connected / self.num_generated

    @property
    def relaxed_validity(self) -> float:
        """Share of molecules that are valid once a charge is allowed."""
        return self.num_relaxed_valid / self.num_generated

    @property
    def uniqueness(self) -> float:
        """Different SMILES per relaxed-valid molecule, as published; 0 where none is."""
        return self.num_unique / self.num_relaxed_valid if self.num_relaxed_valid else 0.0

    @property
    def novelty(self) -> float:
        """Share of the different SMILES that are not in the training set; 0 where none is."""
        return self.num_novel / self.num_unique if self.num_unique else 0.0

    def metrics(self) -> dict[str, float]:
        """Return the shares by name."""
        names = ("validity", "connected", "relaxed_validity", "uniqueness", "novelty")
        return {name: getattr(self, name) for name in names}


def evaluate_molecules(
    atoms: NDArray[np.integer],
    bonds: NDArray[np.integer],
    vocabulary: Sequence[str],
    train_smiles: Iterable[str | None],
) -> tuple[MoleculeQuality, tuple[str | None, ...]]:
    """Judge generated molecules.

    Args:
        atoms: (N, n) index into `vocabulary`, -1 is padding.
        bonds: (N, n, n) symmetric: 0 none, 1 single, 2 double, 3 triple, 4 aromatic.
        vocabulary: Atom classes in order; those with a charge are built with it.
        train_smiles: What `canonical_smiles` made of the training set. SMILES written otherwise
            would make known molecules look novel.

    Returns:
        The quality, and the SMILES of each molecule as `canonical_smiles` gives it, in order.

    Raises:
        ValueError: There are no molecules, or the arrays do not describe molecules.
    """
    _check_arrays(atoms, bonds, vocabulary)
    if not len(atoms):
        raise ValueError("no molecules were generated, expected at least 1")
    verdicts = [_judge(a, b, vocabulary) for a, b in zip(atoms, bonds, strict=True)]
    smiles = tuple(verdict.smiles for verdict in verdicts)
    unique = {entry for entry in smiles if entry is not None}
    known = train_smiles if isinstance(train_smiles, set | frozenset) else frozenset(train_smiles)
    quality = MoleculeQuality(
        num_generated=len(verdicts),
        num_valid=sum(verdict.valid for verdict in verdicts),
        num_connected=sum(verdict.valid and verdict.num_fragments == 1 for verdict in verdicts),
        num_relaxed_valid=sum(entry is not None for entry in smiles),
        num_unique=len(unique),
        num_novel=len(unique - known),
    )
    return quality, smiles


def canonical_smiles(
    atoms: NDArray[np.integer], bonds: NDArray[np.integer], vocabulary: Sequence[str]
) -> tuple[str | None, ...]:
    """Write molecules the one way in which they can be compared.

    Args:
        atoms: (N, n) index into `vocabulary`, -1 is padding.
        bonds: (N, n, n) symmetric bond classes.
        vocabulary: Atom classes in order; those with a charge are built with it.

    Returns:
        RDKit's canonical SMILES of the largest fragment; None where the molecule is not valid
        even when a charge is allowed.

    Raises:
        ValueError: The arrays do not describe molecules.
    """
    _check_arrays(atoms, bonds, vocabulary)
    return tuple(_judge(a, b, vocabulary).smiles for a, b in zip(atoms, bonds, strict=True))


@dataclass(frozen=True)
class _Verdict:
    valid: bool
    num_fragments: int
    smiles: str | None


def _judge(
    atoms: NDArray[np.integer], bonds: NDArray[np.integer], vocabulary: Sequence[str]
) -> _Verdict:
    molecule = build_molecule(atoms, bonds, vocabulary)
    with rdBase.BlockLogs():
        valid = molecule.GetNumAtoms() > 0 and _sanitizes(molecule)
        if not valid:
            molecule = build_molecule(atoms, bonds, vocabulary)
            if not (_charge_overfull_atoms(molecule) and _sanitizes(molecule)):
                return _Verdict(False, 0, None)
        fragments = Chem.GetMolFrags(molecule, asMols=True)
        largest = max(fragments, key=lambda fragment: fragment.GetNumAtoms())
        return _Verdict(valid, len(fragments), Chem.MolToSmiles(largest))


def _sanitizes(molecule: Chem.RWMol) -> bool:
    failed = Chem.SanitizeMol(molecule, catchErrors=True)
    return bool(failed == Chem.SanitizeFlags.SANITIZE_NONE)


def _charge_overfull_atoms(molecule: Chem.RWMol) -> bool:
    """Set +1 on neutral N, O, S one bond over the limit; False where anything else is wrong."""
    problems = Chem.DetectChemistryProblems(molecule)
    table = Chem.GetPeriodicTable()
    for problem in problems:
        if problem.GetType() != "AtomValenceException":
            return False
        atom = molecule.GetAtomWithIdx(problem.GetAtomIdx())
        number = atom.GetAtomicNum()
        valence = sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds())
        neutral = number in _CHARGEABLE and not atom.GetFormalCharge()
        if not neutral or valence - max(table.GetValenceList(number)) != 1:
            return False
        atom.SetFormalCharge(1)
    return bool(problems)


def _check_arrays(
    atoms: NDArray[np.integer], bonds: NDArray[np.integer], vocabulary: Collection[str]
) -> None:
    if atoms.ndim != 2 or bonds.shape != (*atoms.shape, atoms.shape[1]):
        raise ValueError(
            f"atoms have shape {atoms.shape} and bonds {bonds.shape}, expected (N, n), (N, n, n)"
        )
    if not atoms.size:
        return
    if atoms.min() < -1 or atoms.max() >= len(vocabulary):
        raise ValueError(
            f"atom classes span {atoms.min()}..{atoms.max()}, expected -1..{len(vocabulary) - 1}"
        )
    if bonds.min() < 0 or bonds.max() >= len(BOND_CLASSES):
        raise ValueError(f"bond classes span {bonds.min()}..{bonds.max()}, expected 0..4")
    if not np.array_equal(bonds, bonds.transpose(0, 2, 1)):
        raise ValueError("bonds are not symmetric")
    absent = atoms < 0
    if bonds[absent].any():
        raise ValueError("a bond ends at a padding position")
