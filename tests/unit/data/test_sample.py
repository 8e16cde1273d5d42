"""The embedded molecule sample and the script that makes it."""

import csv
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import Descriptors

from openfl_flows.data import make_sample
from openfl_flows.data.molecules import read_molecules
from openfl_flows.data.xtb import Label

SAMPLE = Path(str(resources.files("openfl_flows.data") / "samples" / "molecules.csv"))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with SAMPLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_columns_and_ids(rows):
    assert tuple(rows[0]) == make_sample.COLUMNS
    assert [row["mol_id"] for row in rows] == [f"sample_{i}" for i in range(1, len(rows) + 1)]
    assert len(rows) > 2900
    assert SAMPLE.stat().st_size < 300_000


def test_smiles_are_canonical_unique_and_sorted(rows):
    smiles = [row["smiles"] for row in rows]
    assert [Chem.CanonSmiles(text) for text in smiles] == smiles
    assert len(set(smiles)) == len(smiles)
    keys = [(Chem.MolFromSmiles(text).GetNumAtoms(), text) for text in smiles]
    assert keys == sorted(keys)


def test_molecules_are_small_neutral_and_closed_shell(rows):
    for row in rows:
        assert_in_scope(row["smiles"])


def test_labels_are_plausible_in_their_units(rows):
    mu = [float(row["mu"]) for row in rows]
    homo = [float(row["homo"]) for row in rows]
    assert 0 <= min(mu) < 0.05
    assert 4 < max(mu) < 12
    assert 1.5 < sum(mu) / len(mu) < 4
    assert all(-0.60 < value < -0.25 for value in homo)


def test_symmetric_molecules_have_no_dipole(rows):
    mu = {row["smiles"]: float(row["mu"]) for row in rows}
    assert mu["C"] == pytest.approx(0, abs=1e-3)
    assert mu["C#C"] == pytest.approx(0, abs=1e-3)
    assert mu["C#N"] == pytest.approx(2.98, abs=0.5)  # measured: 2.98 D


def test_the_package_reads_every_row(rows):
    molecules, rejections = read_molecules(SAMPLE)
    assert not rejections
    assert len(molecules) == len(rows)


def test_distribution_is_near_that_of_qm9(rows):
    shares = make_sample.distribution(row["smiles"] for row in rows)
    published = {"C": 0.720, "N": 0.117, "O": 0.160, "F": 0.003}
    published |= {"none": 0.727, "single": 0.235, "double": 0.031, "triple": 0.008, "n=9": 0.834}
    tolerance = {"F": 0.002, "none": 0.005, "single": 0.005, "double": 0.003, "triple": 0.002}
    tolerance |= {"n=9": 0.05}
    for name, share in published.items():
        assert shares[name] == pytest.approx(share, abs=tolerance.get(name, 0.012)), name


def test_distribution_by_hand():
    shares = make_sample.distribution(["C=O", "c1ccccc1", "C"])
    assert shares["C"] == pytest.approx(8 / 9)
    assert shares["none"] == pytest.approx(1 - 14 / 32)
    assert shares["double"] == pytest.approx(8 / 32)
    assert shares["single"] == pytest.approx(6 / 32)
    assert shares["n=6"] == pytest.approx(1 / 3)
    assert "triple" not in shares


@settings(max_examples=15, deadline=None)
@given(st.integers(min_value=0, max_value=2**63))
def test_growing_is_deterministic_and_stays_in_scope(seed):
    molecules = make_sample.grow_molecules(5, seed)
    assert molecules == make_sample.grow_molecules(5, seed)
    assert len(set(molecules)) == 5
    for smiles in molecules:
        assert Chem.CanonSmiles(smiles) == smiles
        assert_in_scope(smiles)


def test_seeds_differ():
    assert make_sample.grow_molecules(20, 0) != make_sample.grow_molecules(20, 1)


def test_every_refused_pattern_can_be_met(monkeypatch):
    monkeypatch.setattr(make_sample, "_REFUSED_QUERIES", ())
    molecules = [Chem.MolFromSmiles(s) for s in make_sample.grow_molecules(5000, 0)]
    for name, smarts in make_sample.REFUSED.items():
        query = Chem.MolFromSmarts(smarts)
        assert any(mol.HasSubstructMatch(query) for mol in molecules), name


def test_nothing_to_grow_is_refused():
    with pytest.raises(ValueError, match="num is 0"):
        make_sample.grow_molecules(0, 0)


def test_written_sample_is_read_back(tmp_path):
    path = tmp_path / "sample.csv"
    make_sample.write_sample(path, {"O": Label(mu=2.2871, homo=-0.4471)})
    assert path.read_text() == "mol_id,smiles,mu,homo\nsample_1,O,2.2871,-0.4471\n"


@pytest.mark.slow
def test_sample_is_what_the_script_grows(rows):
    grown = make_sample.grow_molecules(3000, 0)
    assert {row["smiles"] for row in rows} <= set(grown)


def assert_in_scope(smiles: str) -> None:
    mol = Chem.MolFromSmiles(smiles)
    assert mol is not None
    assert 1 <= mol.GetNumAtoms() <= max(make_sample.SIZE_WEIGHTS)
    assert {atom.GetSymbol() for atom in mol.GetAtoms()} <= set(make_sample.VALENCE)
    assert not any(atom.GetFormalCharge() for atom in mol.GetAtoms())
    assert Descriptors.NumRadicalElectrons(mol) == 0
    assert len(Chem.GetMolFrags(mol)) == 1
    Chem.Kekulize(mol, clearAromaticFlags=True)
    assert not any(bond.GetIsAromatic() for bond in mol.GetBonds())
    fresh = Chem.MolFromSmiles(smiles)
    for name, smarts in make_sample.REFUSED.items():
        assert not fresh.HasSubstructMatch(Chem.MolFromSmarts(smarts)), name
