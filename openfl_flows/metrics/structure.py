"""How near predicted structures are to true ones, as sums with their counts.

Legend: S predictions of one structure, N atoms; positions in Å. What OpenFold3 measures is
measured by it: lDDT (Mariani et al. 2013, doi 10.1093/bioinformatics/btt473) within chains and over
interfaces, the mean over thresholds of 0.5, 1, 2 and 4 Å; ranked first is the prediction with the
least predicted distance error (Abramson et al. 2024, doi 10.1038/s41586-024-07487-w, SI 5.7.3).

An lDDT is summed over structures that have one, the RMSD over ligands: a structure without ligand
adds nothing, neither value nor count, so sites' means pool to the mean over all their structures.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from biotite.structure import AtomArray
from numpy.typing import NDArray
from openfold3.core.data.resources.residues import MoleculeType
from openfold3.core.data.resources.token_atom_constants import PROTEIN_BACKBONE_ATOMS
from openfold3.core.metrics.alignment import symmetry_mappings
from openfold3.core.metrics.confidence import (
    compute_global_predicted_distance_error,
    probs_to_expected_error,
)
from openfold3.core.metrics.quality import get_metrics
from openfold3.core.utils.geometry.kabsch_alignment import (
    apply_transformation,
    get_optimal_transformation,
)

from openfl_flows.metrics.mean import Mean

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.intp]

LDDT = (
    "lddt_intra_protein",
    "lddt_inter_protein_protein",
    "lddt_intra_ligand",
    "lddt_inter_protein_ligand",
)
"""What is taken of OpenFold3's metrics, under its names."""

POCKET = 10.0
"""Protein atoms nearer than this to the true ligand, in Å, are its pocket."""

NEAR = 2.0
"""An RMSD below this, in Å, counts as a pose that was found."""

_FEWEST = 3  # atoms that a frame, or an RMSD that is one of a molecule and no ion, needs


def structure_metrics(
    batch: Mapping[str, Any], output: Mapping[str, Any], atoms: AtomArray, confidence: Any
) -> dict[str, Mean]:
    """Measure all predictions of one structure.

    Args:
        batch: What the module returned with ``output``: the truth is already that permutation of
            equal chains and atoms that is nearest to each prediction. One structure.
        output: The module's, of S predictions, all finite.
        atoms: The structure's N atoms in the order of the batch, with bonds.
        confidence: The ``confidence`` part of the model's configuration.

    Returns:
        :data:`LDDT` and ``ligand_rmsd`` (Å) of the prediction that is ranked first, and
        ``ligand_found``, the share of ligands with an RMSD below :data:`NEAR`; where there are
        several predictions, those of the best by each metric, too, under ``best_``. What cannot be
        measured is absent.

    """
    predicted = _samples(output["atom_positions_predicted"])
    found = get_metrics(batch, output)
    scores = {name: _samples(found[name]) for name in LDDT if name in found}
    truth = batch["ground_truth"]
    rmsds = ligand_rmsds(
        atoms, predicted, _samples(truth["atom_positions"]), _samples(truth["atom_resolved_mask"])
    )
    first = int(np.argmin(predicted_errors(output, confidence)))
    chosen = _summary({name: s[first] for name, s in scores.items()}, rmsds[:, first])
    if len(predicted) == 1:
        return chosen
    best = _summary({name: s.max() for name, s in scores.items()}, rmsds.min(axis=1))
    return {**chosen, **{f"best_{name}": mean for name, mean in best.items()}}


def loss_means(
    breakdown: Mapping[str, Any], loss_weights: Mapping[str, torch.Tensor]
) -> dict[str, Mean]:
    """The losses of one sample that were on, unweighted, and ``loss``, their weighted sum.

    A sample's weights turn terms off, e.g. those of the confidence without a good resolution; such
    a term counts no sample.

    Args:
        breakdown: What ``OpenFold3Loss`` gives with ``_return_breakdown``.
        loss_weights: The batch's, by term.

    Returns:
        E.g. ``distogram_loss``, ``mse_loss``, ``loss``; nothing where every term was off.
    """
    on = [f"{name}_loss" for name, weight in loss_weights.items() if bool(weight.any())]
    terms = {name: Mean(float(breakdown[name]), 1) for name in on if name in breakdown}
    return {**terms, "loss": Mean(float(breakdown["loss"]), 1)} if terms else {}


def ligand_rmsds(
    atoms: AtomArray, predicted: Floats, truth: Floats, resolved: Floats
) -> NDArray[np.float64]:
    """RMSD of every ligand's pose once its pocket is superposed, over all ways to number its atoms.

    The pocket is the backbone within :data:`POCKET` of the true ligand, of the protein chain with
    most atoms there; the ligand is not moved on its own (PoseBusters as AlphaFold 3 measures it).
    Atoms are interchangeable by element and connectivity, so a carboxylate's oxygens are, too. Of a
    molecule with more than 10,000 such numberings only as many are tried: an upper bound.

    Args:
        atoms: N atoms, with bonds.
        predicted: (S, N, 3).
        truth: (S, N, 3), the same positions in S permutations or not.
        resolved: (S, N), 0 for atoms whose true position is unknown.

    Returns:
        (L, S) in Å: a row for each ligand chain with a pocket and at least three resolved atoms.
        Ions are no ligands here.
    """
    ligands = atoms.molecule_type_id == MoleculeType.LIGAND
    rows = []
    for chain in dict.fromkeys(atoms.chain_id[ligands].tolist()):
        ligand = np.flatnonzero(ligands & (atoms.chain_id == chain))
        numberings = np.array(symmetry_mappings(atoms[ligand], atoms[ligand]))
        row = [
            _pose_rmsd(atoms, ligand, numberings, predicted[s], truth[s], resolved[s] > 0)
            for s in range(len(predicted))
        ]
        if all(rmsd is not None for rmsd in row):
            rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, len(predicted))


def predicted_errors(output: Mapping[str, Any], confidence: Any) -> Floats:
    """The distance error (S,) that the model expects of each prediction: less is ranked higher."""
    probabilities = torch.softmax(output["pde_logits"].float(), dim=-1)
    errors = probs_to_expected_error(probabilities, **confidence.pde)
    logits = output["distogram_logits"].float()
    return _samples(
        compute_global_predicted_distance_error(errors, logits, **confidence.distogram)[0]
    )


def _pose_rmsd(
    atoms: AtomArray,
    ligand: Indices,
    numberings: Indices,
    predicted: Floats,
    truth: Floats,
    resolved: NDArray[np.bool_],
) -> float | None:
    """One ligand in one prediction; None without a pocket or with too few resolved atoms."""
    known = resolved[ligand]
    pocket = _pocket(atoms, truth[ligand[known]], truth, resolved)
    if known.sum() < _FEWEST or len(pocket) < _FEWEST:
        return None
    mobile, fixed = (torch.from_numpy(p[pocket].astype(np.float64)) for p in (predicted, truth))
    frame = get_optimal_transformation(mobile, fixed, torch.ones(len(pocket), dtype=torch.float64))
    pose = torch.from_numpy(predicted[ligand].astype(np.float64))
    placed = apply_transformation(pose, frame).numpy()
    squares = ((placed[numberings] - truth[ligand]) ** 2).sum(axis=-1)  # (numberings, atoms)
    return float(np.sqrt(squares[:, known].mean(axis=1).min()))


def _pocket(
    atoms: AtomArray, ligand: Floats, truth: Floats, resolved: NDArray[np.bool_]
) -> Indices:
    """Indices of the backbone atoms around a ligand's true positions (M, 3)."""
    protein = np.flatnonzero(resolved & (atoms.molecule_type_id == MoleculeType.PROTEIN))
    if not len(protein) or not len(ligand):
        return protein[:0]
    distances = np.linalg.norm(truth[protein, None] - ligand[None], axis=-1).min(axis=1)
    near: Indices = protein[distances < POCKET]
    if not len(near):
        return near
    chains, counts = np.unique(atoms.chain_id[near], return_counts=True)
    primary = atoms.chain_id[near] == chains[np.argmax(counts)]
    pocket: Indices = near[primary & np.isin(atoms.atom_name[near], PROTEIN_BACKBONE_ATOMS)]
    return pocket


def _summary(scores: Mapping[str, float], rmsds: Floats) -> dict[str, Mean]:
    means = {name: Mean(float(score), 1) for name, score in scores.items()}
    if len(rmsds):
        means["ligand_rmsd"] = Mean(float(rmsds.sum()), len(rmsds))
        means["ligand_found"] = Mean(float((rmsds < NEAR).sum()), len(rmsds))
    return means


def _samples(tensor: torch.Tensor) -> Floats:
    """The S predictions of a batch of one, as an array."""
    assert tensor.shape[0] == 1, f"one structure at a time, got {tensor.shape[0]}"
    array: Floats = tensor[0].detach().cpu().float().numpy()
    return array
