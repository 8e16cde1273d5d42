"""Validation by full rollout: predict whole structures, without crops, and measure them.

A rollout's noise depends on the seed and the structure's id alone, so that rounds compare like with
like. A training that goes on afterwards finds its mode and its random numbers as they were.
"""

import contextlib
import json
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from biotite.structure import AtomArray
from openfold3.core.data.framework.data_module import openfold_batch_collator
from openfold3.core.data.framework.single_datasets.validation import ValidationPDBDataset
from openfold3.core.data.io.structure.cif import write_structure
from openfold3.core.metrics.confidence import compute_plddt
from openfold3.core.utils.geometry.kabsch_alignment import kabsch_align
from openfold3.core.utils.tensor_utils import tensor_tree_map
from openfold3.projects.of3_all_atom.config.dataset_configs import TrainingDatasetSpec
from openfold3.projects.of3_all_atom.runner import OpenFold3AllAtom

from openfl_flows.data.structures.set import StructureSet
from openfl_flows.metrics.mean import Mean, merge
from openfl_flows.metrics.structure import loss_means, predicted_errors, structure_metrics
from openfl_flows.models.openfold3.randomness import seeded
from openfl_flows.models.openfold3.samples import Batch
from openfl_flows.models.openfold3.trainer import LossesOffError
from openfl_flows.models.ranks import ALONE, Ranks
from openfl_flows.seeds import derived_seed

logger = logging.getLogger(__name__)

# What OpenFold3 asks of a chain or interface that it validates beyond one that it trains on.
_MEASURED = {
    "low_homology": True,
    "metric_eligible": True,
    "use_metrics": True,
    "source_subset": "base",
}
_CHAIN = {**_MEASURED, "ranking_model_fit": None, "sabdab_annotation": None}


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """The prediction of one structure that is ranked first, with what was measured of all.

    Attributes:
        name: The structure's id.
        predicted: The atoms at their predicted positions, pLDDT (0 to 100) as B-factors.
        truth: The same atoms at their true positions, of those that are known; the prediction is
            superposed on them.
        means: Of :func:`structure_metrics` and :func:`loss_means`.
    """

    name: str
    predicted: AtomArray
    truth: AtomArray
    means: Mapping[str, Mean]


def open_validation(structures: StructureSet, ids: Collection[str]) -> ValidationPDBDataset:
    """OpenFold3's validation dataset over some structures of a set, each whole.

    OpenFold3 makes such a dataset's cache of the PDB's ranking of ligands, over the network; here
    every chain and interface counts.

    Raises:
        ValueError: An id is not in the set.
    """
    cache = validation_cache(structures.subset(ids))
    with tempfile.TemporaryDirectory(prefix="openfl-flows-") as folder:
        file = Path(folder) / "cache.json"
        # OpenFold3 reads what kind of cache it is from the second line.
        file.write_text(json.dumps(cache, indent=1))
        spec = TrainingDatasetSpec(
            name="validation",
            dataset_class="ValidationPDBDataset",
            mode="validation",
            config={"dataset_paths": structures.paths(file)},
        )
        return ValidationPDBDataset(spec.config)


def validation_cache(cache: Mapping[str, Any]) -> dict[str, Any]:
    """A training cache, as plain values, as a cache of a validation dataset."""
    found = {}
    for name, structure in cache["structure_data"].items():
        chains = {key: {**chain, **_CHAIN} for key, chain in structure["chains"].items()}
        interfaces = {key: {**part, **_MEASURED} for key, part in structure["interfaces"].items()}
        counted = {"token_count": None, "chains": chains, "interfaces": interfaces}
        found[name] = {**structure, **counted}
    kind = {"_type": "ValidationDatasetCache"}
    return {**kind, **cache, **kind, "structure_data": found}


def validate(
    module: OpenFold3AllAtom, dataset: ValidationPDBDataset, *, seed: int, ranks: Ranks = ALONE
) -> dict[str, Mean]:
    """Roll out every structure of :func:`open_validation` and pool what was measured.

    Args:
        module: What predicts.
        dataset: The structures.
        seed: Of the noise.
        ranks: The processes that share the structures, each with an equal module.

    Returns:
        The metrics, and ``unmeasured``, the share of structures that could not be measured: that
        OpenFold3 could not align, or whose prediction is not finite.
    """

    def measured(index: int) -> Mapping[str, Mean]:
        try:
            means = roll_out(module, dataset, index, seed=seed).means
        except (LossesOffError, FloatingPointError) as error:
            logger.warning("not measured: %s", error)
            return {"unmeasured": Mean(1.0, 1)}
        return {**means, "unmeasured": Mean(0.0, 1)}

    share = ranks.share(range(len(dataset)))
    return merge(ranks.in_order(lambda: [measured(index) for index in share]))


def roll_out(
    module: OpenFold3AllAtom, dataset: ValidationPDBDataset, index: int, *, seed: int
) -> Rollout:
    """Predict one structure with the module as it is, and measure the prediction.

    Raises:
        LossesOffError: OpenFold3 could not align prediction and truth.
        FloatingPointError: The prediction is not finite.
    """
    name = str(dataset.datapoint_cache.iloc[index]["pdb_id"])
    device = next(module.parameters()).device
    with seeded(derived_seed(seed, "rollout", name)), _evaluating(module), torch.no_grad():
        batch = openfold_batch_collator([dataset[index]])
        atoms: AtomArray = batch.pop("atom_array")[0]
        batch, output = module(tensor_tree_map(lambda t: t.to(device), batch, strict_type=False))
        if not torch.isfinite(output["atom_positions_predicted"]).all():
            raise FloatingPointError(f"structure {name}: the prediction is not finite")
        weights = batch["loss_weights"]
        if not any(bool(weight.any()) for weight in weights.values()):
            raise LossesOffError(f"structure {name}: OpenFold3 could not align its prediction")
        _, terms = module.loss(batch, output, _return_breakdown=True)
    means = {f"rollout_{term}": mean for term, mean in loss_means(terms, weights).items()}
    measured = structure_metrics(batch, output, atoms, module.config.confidence)
    first = int(np.argmin(predicted_errors(output, module.config.confidence)))
    predicted, truth = _structures(atoms, batch, output, first)
    return Rollout(name=name, predicted=predicted, truth=truth, means={**means, **measured})


def write_rollout(rollout: Rollout, folder: Path) -> None:
    """Write ``<id>.cif``, the prediction, and ``<id>_true.cif`` in one frame."""
    folder.mkdir(parents=True, exist_ok=True)
    write_structure(rollout.predicted.copy(), folder / f"{rollout.name}.cif", include_bonds=True)
    write_structure(rollout.truth.copy(), folder / f"{rollout.name}_true.cif", include_bonds=True)


def _structures(
    atoms: AtomArray, batch: Batch, output: Mapping[str, torch.Tensor], sample: int
) -> tuple[AtomArray, AtomArray]:
    """A prediction superposed on the truth, and the truth."""
    positions = batch["ground_truth"]["atom_positions"][0, sample].float()
    resolved = batch["ground_truth"]["atom_resolved_mask"][0, sample].float()
    placed = kabsch_align(
        output["atom_positions_predicted"][0, sample].float(), positions, resolved
    )
    predicted, truth = atoms.copy(), atoms.copy()
    predicted.coord = placed.cpu().numpy()
    plddt = compute_plddt(output["plddt_logits"][0, sample].float())
    predicted.set_annotation("b_factor", 100 * plddt.cpu().numpy())
    truth.coord = positions.cpu().numpy()
    return predicted, truth[resolved.cpu().numpy() > 0]


@contextlib.contextmanager
def _evaluating(module: OpenFold3AllAtom) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
