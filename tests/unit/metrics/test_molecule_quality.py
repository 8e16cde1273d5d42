"""Molecule quality: hand-built molecules whose verdict is known, and real ones."""

import numpy as np
import pytest
from rdkit import Chem

from openfl_flows.data.molecules import read_molecules
from openfl_flows.data.smiles import build_molecule, encode_smiles
from openfl_flows.metrics.molecules import (
    MoleculeQuality,
    canonical_smiles,
    evaluate_molecules,
)

VOCABULARY = ("C", "N", "O", "F", "S")


def graph(elements, *bonds, width=9):
    atoms = np.full(width, -1)
    atoms[: len(elements)] = [VOCABULARY.index(element) for element in elements]
    matrix = np.zeros((width, width), dtype=int)
    for begin, end, order in bonds:
        matrix[begin, end] = matrix[end, begin] = order
    return atoms, matrix


def stack(*graphs):
    atoms, bonds = zip(*graphs, strict=True)
    return np.stack(atoms), np.stack(bonds)


ETHANOL = graph("CCO", (0, 1, 1), (1, 2, 1))
ETHANOL_REORDERED = graph("OCC", (0, 1, 1), (1, 2, 1))
FULL_NITROGEN = graph("NCCCC", (0, 1, 1), (0, 2, 1), (0, 3, 1), (0, 4, 1))
FULL_OXYGEN = graph("OCCC", (0, 1, 1), (0, 2, 1), (0, 3, 1))
FULLER_NITROGEN = graph("NCCCCC", *((0, end, 1) for end in range(1, 6)))
FULL_CARBON = graph("CCCCCC", *((0, end, 1) for end in range(1, 6)))
FULL_FLUORINE = graph("FCC", (0, 1, 1), (0, 2, 1))
TWO_PIECES = graph("CCO", (0, 1, 1))
BENZENE = graph("CCCCCC", *((i, (i + 1) % 6, 4) for i in range(6)))
AROMATIC_CHAIN = graph("CC", (0, 1, 4))
NOTHING = graph("")


@pytest.mark.parametrize(
    ("molecule", "smiles"),
    [
        (ETHANOL, "CCO"),
        (ETHANOL_REORDERED, "CCO"),
        (FULL_NITROGEN, "C[N+](C)(C)C"),
        (FULL_OXYGEN, "C[O+](C)C"),
        (FULLER_NITROGEN, None),
        (FULL_CARBON, None),
        (FULL_FLUORINE, None),
        (TWO_PIECES, "CC"),
        (BENZENE, "c1ccccc1"),
        (AROMATIC_CHAIN, None),
        (NOTHING, None),
    ],
)
def test_smiles_of_known_molecules(molecule, smiles):
    assert canonical_smiles(*stack(molecule), VOCABULARY) == (smiles,)


def test_counts_and_shares():
    molecules = stack(ETHANOL, ETHANOL_REORDERED, FULL_NITROGEN, FULL_CARBON, TWO_PIECES)
    quality, smiles = evaluate_molecules(*molecules, VOCABULARY, ["CCO"])
    assert smiles == ("CCO", "CCO", "C[N+](C)(C)C", None, "CC")
    assert quality == MoleculeQuality(
        num_generated=5,
        num_valid=3,
        num_connected=2,
        num_relaxed_valid=4,
        num_unique=3,
        num_novel=2,
    )
    assert quality.metrics() == {
        "validity": 3 / 5,
        "connected": 2 / 5,
        "relaxed_validity": 4 / 5,
        "uniqueness": 3 / 4,
        "novelty": 2 / 3,
    }


def test_all_invalid_gives_zeros_not_errors():
    quality, smiles = evaluate_molecules(*stack(FULL_CARBON, NOTHING), VOCABULARY, [])
    assert smiles == (None, None)
    assert set(quality.metrics().values()) == {0.0}


def test_known_molecule_is_not_novel_whatever_its_training_file_wrote():
    zwitterion = encode_smiles("[NH3+]CC(=O)[O-]", vocabulary=VOCABULARY, max_atoms=9)[:2]
    generated = encode_smiles("NCC(O)=O", vocabulary=VOCABULARY, max_atoms=9)[:2]
    known = canonical_smiles(*stack(zwitterion), VOCABULARY)
    assert evaluate_molecules(*stack(generated), VOCABULARY, known)[0].num_novel == 0


def test_wilson_interval():
    # Wilson's formula by hand: n = 100, p = 0.95, z = 1.959964.
    quality = MoleculeQuality(
        num_generated=100,
        num_valid=95,
        num_connected=95,
        num_relaxed_valid=95,
        num_unique=95,
        num_novel=95,
    )
    assert quality.validity_interval == pytest.approx((0.888249, 0.978456), abs=2e-5)


def test_padding_in_between_is_skipped():
    atoms, bonds = ETHANOL
    order = [0, 5, 1, 6, 2, 3, 4, 7, 8]
    assert canonical_smiles(atoms[None, order], bonds[None][:, order][:, :, order], VOCABULARY) == (
        "CCO",
    )


def test_builder_keeps_atoms_and_bonds_and_adds_no_charge():
    molecule = build_molecule(*FULL_NITROGEN, VOCABULARY)
    assert [atom.GetSymbol() for atom in molecule.GetAtoms()] == list("NCCCC")
    assert molecule.GetNumBonds() == 4
    assert not any(atom.GetFormalCharge() for atom in molecule.GetAtoms())


def test_arrays_are_not_changed():
    atoms, bonds = stack(BENZENE, FULL_NITROGEN, FULL_CARBON)
    before = atoms.copy(), bonds.copy()
    evaluate_molecules(atoms, bonds, VOCABULARY, [])
    np.testing.assert_array_equal(atoms, before[0])
    np.testing.assert_array_equal(bonds, before[1])


def broken(change):
    atoms, bonds = (array.copy() for array in stack(ETHANOL))
    return change(atoms, bonds) or (atoms, bonds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: (a, b[:, :-1]), "expected .N, n., .N, n, n."),
        (lambda a, b: a.__setitem__((0, 0), 5), r"atom classes span -1\.\.5, expected -1\.\.4"),
        (lambda a, b: b.__setitem__((0, 0, 0), 5), r"bond classes span 0\.\.5"),
        (lambda a, b: b.__setitem__((0, 0, 1), 2), "not symmetric"),
        (lambda a, b: a.__setitem__((0, 2), -1), "padding position"),
        (lambda a, b: (a[:0], b[:0]), "no molecules"),
    ],
)
def test_arrays_that_are_no_molecules_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate_molecules(*broken(change), VOCABULARY, [])


def test_real_neutral_molecules_come_back_as_themselves(shared_data):
    molecules, _ = read_molecules(shared_data / "qm9" / "qm9.csv.gz", limit=3000)
    neutral = molecules.subset(np.flatnonzero(~molecules.charged))
    quality, smiles = evaluate_molecules(neutral.atoms, neutral.bonds, neutral.vocabulary, [])
    assert quality.validity == quality.connected == 1
    for written, original in zip(smiles, neutral.smiles, strict=True):
        molecule = Chem.MolFromSmiles(original)
        assert written == Chem.MolToSmiles(molecule, isomericSmiles=False)
