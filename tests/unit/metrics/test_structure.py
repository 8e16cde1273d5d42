"""Metrics of structures against cases whose values are known by hand."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from biotite.structure import Atom, AtomArray, BondList, BondType, array
from openfold3.core.data.framework.data_module import openfold_batch_collator
from openfold3.core.data.io.structure.cif import write_structure
from openfold3.core.data.resources.residues import MoleculeType
from openfold3.core.metrics.alignment import Structure, ligand_pose_metrics
from openfold3.core.utils.permutation_alignment import safe_multi_chain_permutation_alignment
from openfold3.core.utils.tensor_utils import tensor_tree_map
from scipy.spatial.transform import Rotation

from openfl_flows.data.structures.set import StructureSet
from openfl_flows.metrics.mean import Mean, merge
from openfl_flows.metrics.structure import LDDT, ligand_rmsds, loss_means, structure_metrics
from openfl_flows.models.openfold3.config import OpenFold3Config
from openfl_flows.models.openfold3.randomness import seeded
from openfl_flows.models.openfold3.rollout import open_validation
from tests.openfold3_set import link_set


def complex_of(ligand: list[str], bonds: list[tuple[int, int]], places: np.ndarray) -> AtomArray:
    """A straight backbone of ten residues, 5 Å beside a ligand."""
    atoms = [
        Atom([1.5 * i, 5.0 + 0.5 * (i % 2), 0.3 * (i % 3)], chain_id="1", atom_name=name)
        for i, name in enumerate(["N", "CA", "C", "O"] * 10)
    ]
    atoms += [
        Atom(place, chain_id="2", atom_name=f"{element}{i}", element=element)
        for i, (element, place) in enumerate(zip(ligand, places, strict=True))
    ]
    made = array(atoms)
    kinds = [MoleculeType.PROTEIN] * 40 + [MoleculeType.LIGAND] * len(ligand)
    made.set_annotation("molecule_type_id", np.array([int(kind) for kind in kinds]))
    made.bonds = BondList(
        len(made), np.array([(40 + i, 40 + j, BondType.SINGLE) for i, j in bonds])
    )
    return made


def ring(num: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(num) / num
    return np.stack([20 + 1.4 * np.cos(angles), 1.4 * np.sin(angles), 0 * angles], axis=1)


def toluene() -> AtomArray:
    bonds = [(i, (i + 1) % 6) for i in range(6)] + [(0, 6)]
    return complex_of(["C"] * 7, bonds, np.vstack([ring(6), [[22.9, 0, 0]]]))


def benzene() -> AtomArray:
    return complex_of(["C"] * 6, [(i, (i + 1) % 6) for i in range(6)], ring(6))


def rmsd(atoms: AtomArray, predicted: np.ndarray, resolved: np.ndarray | None = None) -> float:
    known = np.ones(len(atoms)) if resolved is None else resolved
    found = ligand_rmsds(atoms, predicted[None], atoms.coord[None], known[None])
    assert found.shape == (1, 1)
    return float(found[0, 0])


def test_the_truth_itself_is_found_wherever_it_stands():
    atoms = toluene()
    turned = Rotation.random(random_state=1).apply(atoms.coord) + [10, -20, 30]
    assert rmsd(atoms, atoms.coord) == pytest.approx(0, abs=1e-4)
    assert rmsd(atoms, turned) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("made", [benzene, toluene])
def test_a_ligand_that_is_two_away_is_two_away(made):
    atoms = made()
    moved = atoms.coord.copy()
    # Along the ring's axis, where no renumbering is nearer.
    moved[40:] += [0, 0, 2.0]
    assert rmsd(atoms, moved) == pytest.approx(2.0, abs=1e-4)


def test_equal_atoms_may_be_exchanged_and_others_not():
    atoms = benzene()
    for order in ([1, 2, 3, 4, 5, 0], [5, 4, 3, 2, 1, 0]):
        assert rmsd(atoms, atoms.coord[[*range(40), *(40 + np.array(order))]]) < 1e-4
    atoms = toluene()
    flipped = [0, 5, 4, 3, 2, 1, 6]
    assert rmsd(atoms, atoms.coord[[*range(40), *(40 + np.array(flipped))]]) < 1e-4
    rotated = [1, 2, 3, 4, 5, 0, 6]
    assert rmsd(atoms, atoms.coord[[*range(40), *(40 + np.array(rotated))]]) > 1


def test_oxygens_of_a_carboxylate_are_equal_whatever_their_bonds_are_called():
    places = np.array([[20, 0, 0], [21.5, 0, 0], [22.1, 1.1, 0], [22.1, -1.1, 0]])
    atoms = complex_of(["C", "C", "O", "O"], [(0, 1), (1, 2), (1, 3)], places)
    atoms.bonds.add_bond(41, 42, BondType.DOUBLE)
    assert rmsd(atoms, atoms.coord[[*range(40), 40, 41, 43, 42]]) < 1e-4


def test_the_frame_is_the_pockets_and_not_the_ligands():
    atoms = toluene()
    moved = atoms.coord.copy()
    moved[:40] += [0, 0, 4.0]
    assert rmsd(atoms, moved) == pytest.approx(4.0, abs=1e-4)


def test_atoms_of_unknown_place_do_not_count():
    atoms, known = toluene(), np.ones(47)
    known[46] = 0
    elsewhere = atoms.coord.copy()
    elsewhere[46] += 50
    assert rmsd(atoms, elsewhere, known) < 1e-4
    assert rmsd(atoms, elsewhere) > 10


def test_ions_and_ligands_without_a_pocket_are_not_measured():
    ion = complex_of(["Ni"], [], np.array([[20.0, 0, 0]]))
    far = toluene()
    far.coord[40:] += 100
    for atoms in (ion, far):
        ones = np.ones((2, len(atoms)))
        assert ligand_rmsds(atoms, *[np.stack([atoms.coord] * 2)] * 2, ones).shape == (0, 2)


def test_the_chain_with_most_atoms_at_the_ligand_is_its_pocket():
    atoms = toluene()
    other = atoms[:40].copy()
    other.chain_id[:] = "3"
    other.coord += [30, 0, 8]
    both = other + atoms
    moved = both.coord.copy()
    moved[:40] += 7
    known = np.ones((1, len(both)))
    assert ligand_rmsds(both, moved[None], both.coord[None], known)[0, 0] < 1e-4


Lysozyme = tuple[dict[str, Any], AtomArray]


@pytest.fixture(scope="module")
def lysozyme(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Lysozyme:
    """T4 lysozyme with toluene, mercaptoethanol and a chloride, as OpenFold3 reads it."""
    folder = link_set(shared_data, tmp_path_factory.mktemp("metrics") / "set")
    dataset = open_validation(StructureSet.open(folder), ["7l39"])
    with seeded(1):
        batch = openfold_batch_collator([dataset[0]])
    return batch, batch.pop("atom_array")[0]


def measured(lysozyme: Lysozyme, *changes: Callable[[np.ndarray], np.ndarray]) -> dict[str, Mean]:
    """The metrics of predictions that are changes of the truth, by way of OpenFold3's alignment."""
    features, atoms = lysozyme
    permutations = {"ref_space_uid_to_perm": features["ref_space_uid_to_perm"]}
    batch = copy.deepcopy({k: v for k, v in features.items() if k not in permutations})
    batch = tensor_tree_map(lambda t: t.unsqueeze(1), batch) | permutations
    truth = batch["ground_truth"]["atom_positions"][0, 0].numpy()
    places = np.stack([change(truth.copy()) for change in changes])[None]
    predicted = torch.from_numpy(places.astype(np.float32))
    safe_multi_chain_permutation_alignment(batch, predicted)
    assert any(bool(w.any()) for w in batch["loss_weights"].values())
    num = batch["token_mask"].shape[-1]
    # The first prediction is the one with the least expected error.
    errors = torch.zeros(1, len(changes), num, num, 64)
    for sample in range(len(changes)):
        errors[:, sample, ..., 5 * sample] = 10
    output = {
        "atom_positions_predicted": predicted,
        "pde_logits": errors,
        "distogram_logits": torch.zeros(1, 1, num, num, 64),
    }
    return structure_metrics(batch, output, atoms, OpenFold3Config().settings().confidence)


def test_a_perfect_prediction(lysozyme):
    turn = Rotation.random(random_state=2)
    found = measured(lysozyme, lambda x: turn.apply(x) + [5, 6, 7])
    assert found.keys() == {*LDDT, "ligand_rmsd", "ligand_found"} - {"lddt_inter_protein_protein"}
    for name in LDDT:
        assert name not in found or found[name] == Mean(pytest.approx(1, abs=1e-6), 1)
    # Toluene and mercaptoethanol; a chloride is an ion.
    assert found["ligand_rmsd"] == Mean(pytest.approx(0, abs=1e-3), 2)
    assert found["ligand_found"] == Mean(2, 2)


def test_toluene_flipped_is_toluene_and_toluene_moved_is_not(lysozyme):
    atoms = lysozyme[1]
    ring = {n: int(np.flatnonzero((atoms.res_name == "MBN") & (atoms.atom_name == n))[0])
            for n in ("C2", "C6", "C3", "C5")}  # fmt: skip
    toluene = atoms.res_name == "MBN"
    assert toluene.sum() == 7

    def flip(x: np.ndarray) -> np.ndarray:
        for a, b in (("C2", "C6"), ("C3", "C5")):
            x[[ring[a], ring[b]]] = x[[ring[b], ring[a]]]
        return x

    def move(x: np.ndarray) -> np.ndarray:
        normal = np.linalg.svd(x[toluene] - x[toluene].mean(axis=0))[2][2]
        x[toluene] += 2.5 * normal
        return x

    flipped = measured(lysozyme, flip)
    assert flipped["ligand_rmsd"] == Mean(pytest.approx(0, abs=1e-3), 2)
    assert flipped["lddt_intra_ligand"].value == pytest.approx(1, abs=1e-6)
    moved = measured(lysozyme, move)
    assert moved["ligand_rmsd"] == Mean(pytest.approx(2.5, abs=1e-3), 2)
    assert moved["ligand_found"] == Mean(1, 2)
    assert moved["lddt_intra_protein"].value == pytest.approx(1, abs=1e-6)
    assert moved["lddt_intra_ligand"].value == pytest.approx(1, abs=1e-6)
    assert moved["lddt_inter_protein_ligand"].value < 0.9


def test_a_pose_is_as_far_as_openfold3_says_of_the_files(lysozyme, tmp_path):
    atoms = lysozyme[1][np.isin(lysozyme[1].res_name, ["MBN", "BME"], invert=True)]
    atoms += lysozyme[1][lysozyme[1].res_name == "MBN"]
    atoms = atoms[~np.isnan(atoms.coord).any(axis=1)]
    toluene = atoms.res_name == "MBN"
    moved = atoms.copy()
    moved.coord[toluene] += np.random.default_rng(5).normal(0, 2, (toluene.sum(), 3))
    found = ligand_rmsds(atoms, *(a.coord[None] for a in (moved, atoms)), np.ones((1, len(atoms))))
    for name, written in (("moved", moved), ("true", atoms)):
        write_structure(written.copy(), tmp_path / f"{name}.cif")
    pose = ligand_pose_metrics(
        *(Structure.from_cif(tmp_path / f"{name}.cif") for name in ("moved", "true")),
        ref_chains=["1"],
        pred_ligand_chain=str(atoms.chain_id[toluene][0]),
        ref_ligand_chain=str(atoms.chain_id[toluene][0]),
    )
    assert pose.n_symmetry_mappings == 2
    assert float(found[0, 0]) == pytest.approx(pose.rmsd, abs=2e-3)
    assert pose.rmsd > 1


def test_the_first_is_the_most_confident_and_the_best_the_best(lysozyme):
    noise = np.random.default_rng(3)
    found = measured(lysozyme, lambda x: x + noise.normal(0, 2, x.shape), lambda x: x)
    assert found["lddt_intra_protein"].value < 0.9
    assert found["ligand_rmsd"].value > 0.5
    assert found["best_lddt_intra_protein"].value == pytest.approx(1, abs=1e-6)
    assert found["best_ligand_rmsd"] == Mean(pytest.approx(0, abs=1e-3), 2)


def test_terms_that_are_off_count_no_sample():
    weights = {"plddt": torch.tensor([0.0]), "distogram": torch.tensor([0.03])}
    breakdown = {"distogram_loss": torch.tensor(4.0), "loss": torch.tensor(0.12)}
    breakdown |= {"scaled_distogram_loss": torch.tensor(0.12), "confidence_loss": torch.tensor(0.0)}
    one = loss_means(breakdown, weights)
    assert one == {"distogram_loss": Mean(4.0, 1), "loss": Mean(pytest.approx(0.12), 1)}
    other = loss_means(
        {**breakdown, "plddt_loss": torch.tensor(2.0)}, {**weights, "plddt": torch.tensor([1e-4])}
    )
    assert merge([one, other])["plddt_loss"] == Mean(2.0, 1)
    assert loss_means(breakdown, {name: torch.zeros(1) for name in weights}) == {}
