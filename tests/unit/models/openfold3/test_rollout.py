"""Validation by full rollout: repeatable, without a trace, and with a picture of its own."""

import random

import numpy as np
import pytest
import torch
from openfold3.core.data.framework.single_datasets.validation import ValidationPDBDataset
from openfold3.core.data.io.structure.cif import parse_mmcif
from openfold3.projects.of3_all_atom.runner import OpenFold3AllAtom

from openfl_flows.data.structures.set import StructureSet
from openfl_flows.metrics.mean import merge
from openfl_flows.models.openfold3.config import OpenFold3Config
from openfl_flows.models.openfold3.network import build
from openfl_flows.models.openfold3.rollout import (
    open_validation,
    roll_out,
    validate,
    write_rollout,
)


@pytest.fixture(scope="module")
def module() -> OpenFold3AllAtom:
    torch.set_num_threads(1)
    config = OpenFold3Config(rollout_steps=10, rollout_samples=2, num_recycles=0, msa_rows=8)
    return build(config, seed=0)


def opened(structures: StructureSet, *ids: str) -> ValidationPDBDataset:
    return open_validation(structures, ids)


def test_a_rollout_is_repeatable_and_leaves_no_trace(structures, module, tmp_path):
    dataset = opened(structures, "1ubq")
    module.train()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    recycles = module.model.synced_generator.bit_generator.state
    first = roll_out(module, dataset, 0, seed=1)
    assert module.training
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert module.model.synced_generator.bit_generator.state == recycles
    assert not any(p.grad is not None for p in module.parameters())

    random.random(), np.random.random(), torch.rand(3)
    again, other = (roll_out(module, dataset, 0, seed=seed) for seed in (1, 2))
    assert again.means == first.means
    assert np.array_equal(again.predicted.coord, first.predicted.coord)
    assert not np.array_equal(other.predicted.coord, first.predicted.coord)

    assert first.means["lddt_intra_protein"].count == 1
    assert 0 < first.means["lddt_intra_protein"].value < 0.6
    assert first.means["best_lddt_intra_protein"].value >= first.means["lddt_intra_protein"].value
    assert first.means["rollout_distogram_loss"].value == pytest.approx(np.log(64), abs=0.2)
    # One chain without ligand has nothing to say of ligands.
    assert not [name for name in first.means if "ligand" in name]

    write_rollout(first, tmp_path)
    for name, atoms in (("1ubq", first.predicted), ("1ubq_true", first.truth)):
        read = parse_mmcif(tmp_path / f"{name}.cif").atom_array
        assert np.allclose(read.coord, atoms.coord, atol=2e-3)
    crystal = structures.folder / "structure_files" / "1ubq" / "1ubq.npz"
    assert len(first.truth) == int(np.isfinite(np.load(crystal)["coord"]).all(axis=-1).sum())


def test_what_cannot_be_measured_is_counted(structures, module):
    measured = validate(module, opened(structures, "1ubq"), seed=1)
    assert measured["unmeasured"].value == 0
    weights = module.model.diffusion_module.linear_s.weight
    kept = weights.detach().clone()
    with torch.no_grad():
        weights.fill_(float("nan"))
    try:
        broken = validate(module, opened(structures, "1ubq"), seed=1)
    finally:
        with torch.no_grad():
            weights.copy_(kept)
    assert broken.keys() == {"unmeasured"}
    assert broken["unmeasured"].value == 1
    pooled = merge([measured, broken])
    assert pooled["unmeasured"].value == 0.5
    assert pooled["lddt_intra_protein"] == measured["lddt_intra_protein"]


def test_a_structure_that_is_not_there_is_named(structures):
    with pytest.raises(ValueError, match=r"cache\.json: holds no structure 9xyz"):
        opened(structures, "1ubq", "9xyz")
