"""Dipole and HOMO energy of molecules from GFN2-xTB.

Each molecule is labelled from its SMILES alone, so neither the number of workers nor the order of
the work changes a label, and a label can be kept in a file. Needs tblite (`pip install tblite`).
"""

import csv
import importlib.util
import io
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

NUM_CONFORMERS = 5
"""Conformers among which the one of lowest energy is labelled."""
# RDKit seeds conformer i with seed * (i + 1): with 0 they would all be the same.
EMBEDDING_SEED = 7
"""Seed of the conformers, the same for every molecule."""
BOHR_IN_ANGSTROM = 0.529177210903
ATOMIC_DIPOLE_IN_DEBYE = 2.541746473
"""One e·a0, the atomic unit of the dipole moment."""

_CACHE_COLUMNS = ("smiles", "mu", "homo", "failure")
_CACHED_AT_ONCE = 512


class LabelError(Exception):
    """A molecule has no label; the message is the step that failed."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """Two properties of one molecule: `mu` (|dipole|, Debye) and `homo` (Hartree)."""

    mu: float
    homo: float


def label(smiles: str) -> Label:
    """Compute the dipole and the HOMO energy of one molecule with GFN2-xTB.

    ETKDGv3 embeds `NUM_CONFORMERS` conformers, MMFF94 relaxes each, and the one with the lowest
    GFN2-xTB energy is labelled by that single point. Stereochemistry that the SMILES leaves open
    is whatever that conformer has. Values are rounded to the four decimals of QM9.
    Method: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019).

    Raises:
        ValueError: the SMILES cannot be read.
        LabelError: no conformer, no force field or no converged wave function.
    """
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise ValueError(f"SMILES {smiles!r} cannot be read; expected a molecule that RDKit reads")
    mol = Chem.AddHs(mol)
    # RDKit's stubs give its embedding options the wrong types.
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = EMBEDDING_SEED
    conformers = list(rdDistGeom.EmbedMultipleConfs(mol, NUM_CONFORMERS, parameters))
    if not conformers:
        raise LabelError("no conformer")
    relaxed = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=2000)
    if any(status < 0 for status, _ in relaxed):
        raise LabelError("no MMFF94 parameters")
    if any(status > 0 for status, _ in relaxed):
        raise LabelError("MMFF94 not converged")
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    points = [_single_point(numbers, mol.GetConformer(i).GetPositions()) for i in conformers]
    return min(points, key=lambda point: point[0])[1]


def label_all(
    molecules: Sequence[str], workers: int = 1
) -> tuple[dict[str, Label], dict[str, str]]:
    """Label molecules in `workers` processes.

    Returns:
        The labels by SMILES, and the reason by SMILES for each molecule that has none.
    """
    labels: dict[str, Label] = {}
    failures: dict[str, str] = {}
    # OpenMP reads its thread count once, when the library is loaded: only a fresh process obeys.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_use_one_thread) as pool:
        outcomes = pool.imap(_label_or_reason, molecules, chunksize=16)
        for smiles, outcome in zip(molecules, outcomes, strict=True):
            if isinstance(outcome, Label):
                labels[smiles] = outcome
            else:
                failures[smiles] = outcome
    return labels, failures


def label_cached(
    molecules: Sequence[str], cache: Path, workers: int = 1
) -> tuple[dict[str, Label], dict[str, str]]:
    """As :func:`label_all`, of a file first.

    Args:
        molecules: Canonical SMILES.
        cache: CSV with the columns ``smiles``, ``mu``, ``homo``, ``failure``; made if absent, what
            is new is appended. A last line without an end is of a run that was killed: it is cut.
        workers: Processes.

    Raises:
        ValueError: tblite is not installed, or the file is no such table.
    """
    if importlib.util.find_spec("tblite") is None:
        raise ValueError("GFN2-xTB needs tblite, which is not installed: pip install tblite")
    known = _read_cache(cache)
    asked = dict.fromkeys(molecules)
    fresh = [smiles for smiles in asked if smiles not in known]
    for start in range(0, len(fresh), _CACHED_AT_ONCE):
        part = fresh[start : start + _CACHED_AT_ONCE]
        labels, failures = label_all(part, workers)
        known |= labels
        known |= failures
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows((smiles, found.mu, found.homo, "") for smiles, found in labels.items())
        writer.writerows((smiles, "", "", reason) for smiles, reason in failures.items())
        with cache.open("a", encoding="utf-8") as file:
            file.write(text.getvalue())
    found_all = {smiles: known[smiles] for smiles in asked}
    return (
        {smiles: found for smiles, found in found_all.items() if isinstance(found, Label)},
        {smiles: found for smiles, found in found_all.items() if isinstance(found, str)},
    )


def _read_cache(cache: Path) -> dict[str, Label | str]:
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(",".join(_CACHE_COLUMNS) + "\n", encoding="utf-8")
    text = cache.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        cache.write_text(whole, encoding="utf-8")
    reader = csv.DictReader(io.StringIO(whole))
    if tuple(reader.fieldnames or ()) != _CACHE_COLUMNS:
        raise ValueError(f"{cache}: expected the columns {', '.join(_CACHE_COLUMNS)}")
    return {
        row["smiles"]: row["failure"] or Label(mu=float(row["mu"]), homo=float(row["homo"]))
        for row in reader
    }


def _single_point(numbers: np.ndarray, positions: np.ndarray) -> tuple[float, Label]:
    """Energy in Hartree and label of one geometry (positions in Angstrom)."""
    # tblite is an extra: nothing else needs it.
    from tblite.interface import Calculator

    calculator = Calculator("GFN2-xTB", numbers, positions / BOHR_IN_ANGSTROM)
    calculator.set("verbosity", 0)
    try:
        result = calculator.singlepoint()
    except RuntimeError as error:
        raise LabelError("GFN2-xTB not converged") from error
    occupied = result.get("orbital-occupations") > 0.5
    homo = float(result.get("orbital-energies")[occupied].max())
    mu = float(np.linalg.norm(result.get("dipole"))) * ATOMIC_DIPOLE_IN_DEBYE
    return float(result.get("energy")), Label(mu=round(mu, 4), homo=round(homo, 4))


def _label_or_reason(smiles: str) -> Label | str:
    try:
        return label(smiles)
    except LabelError as error:
        return str(error)


def _use_one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
