"""Scaffolds, ring counts and property bins of molecules."""

import numpy as np
import pytest
from rdkit.Chem.Scaffolds import MurckoScaffold

from openfl_flows.data.molecules import read_molecules
from openfl_flows.data.strata import MISSING_BIN, murcko_scaffolds, property_bins, ring_counts


def test_scaffolds_drop_side_chains_and_name_acyclics():
    smiles = ["CCO", "Cc1ccccc1", "C1CC1CC1CO1", "C[C@H]1CC1"]
    assert murcko_scaffolds(smiles) == ["", "c1ccccc1", "C1CC1CC1CO1", "C1CC1"]


def test_ring_counts():
    assert ring_counts(["C", "C1CC1", "C1CC2CC12"]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("function", [murcko_scaffolds, ring_counts])
def test_refused_smiles_are_named(function):
    with pytest.raises(ValueError, match=r"'C\('"):
        function(["C", "C("])


def test_bins_are_ordered_and_equally_filled():
    values = np.random.default_rng(0).normal(size=1000)
    labels = property_bins(values, bins=4)
    assert np.bincount(labels).tolist() == [250] * 4
    order = np.argsort(values)
    assert (np.diff(labels[order]) >= 0).all()


def test_missing_values_have_their_own_bin():
    labels = property_bins([1.0, np.nan, 2.0], bins=2)
    assert labels.tolist() == [0, MISSING_BIN, 1]
    for bins in (0, 3):
        with pytest.raises(ValueError, match=f"bins is {bins}, expected 1 to 2"):
            property_bins([1.0, np.nan, 2.0], bins=bins)


def test_scaffolds_agree_with_rdkit_on_real_molecules(shared_data):
    table = shared_data / "qm9" / "qm9.csv.gz"
    molecules, _ = read_molecules(table, limit=3000)
    expected = [MurckoScaffold.MurckoScaffoldSmiles(smiles) for smiles in molecules.smiles]
    assert murcko_scaffolds(molecules.smiles) == expected
