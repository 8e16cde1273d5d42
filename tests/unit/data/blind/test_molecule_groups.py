"""Like molecules have one group, however they are written."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from rdkit import Chem

from openfl_flows.data.blind.leakage import measure, near_molecules
from openfl_flows.data.blind.molecules import MoleculeGroups
from openfl_flows.data.source import SAMPLE

CORE = MoleculeGroups()
ATOMS = MoleculeGroups(rule="atoms")


def sample(limit: int) -> list[str]:
    with SAMPLE.open() as file:
        return [row["smiles"] for row in csv.DictReader(file)][-limit:]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("C1CCCC1N", "C1CCCCCC1O"),
        ("C1CCNCC1", "C1CC[NH2+]C1"),
        ("CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1CCCO"),
        ("C[C@H](N)c1ccccc1", "C[C@@H](N)c1ccccc1"),
        ("[Na+].[O-]C(=O)c1ccncc1", "OC(=O)c1ccncc1"),
        ("c1ccc(cc1)c1ccncc1", "c1cnccc1CC1CCCCC1"),
        ("[2H]C1CCCC1", "C1CCCC1"),
    ],
)
def test_kin_have_one_group(one, other) -> None:
    assert CORE.group(one) == CORE.group(other)


@pytest.mark.parametrize(
    ("one", "other"), [("c1ccccc1", "c1ccncc1"), ("C1CCCC1", "C1CCNC1"), ("CCO", "CCN")]
)
def test_others_do_not(one, other) -> None:
    assert CORE.group(one) != CORE.group(other)


def test_more_rings_tell_more_apart() -> None:
    one, other = "c1ccc(cc1)c1ccncc1", "c1cnccc1CC1CCCCC1"
    assert MoleculeGroups(rings=2).group(one) != MoleculeGroups(rings=2).group(other)
    fused = "c1ccc2ccccc2c1CC1CCCC1"
    assert MoleculeGroups(rings=2).group(fused) == CORE.group(fused)


@pytest.mark.parametrize("groups", [CORE, ATOMS, MoleculeGroups(rings=3)], ids=repr)
def test_the_order_of_atoms_does_not_matter(groups) -> None:
    rng = np.random.default_rng(0)
    for smiles in sample(300):
        molecule = Chem.MolFromSmiles(smiles)
        order = rng.permutation(molecule.GetNumAtoms()).tolist()
        other = Chem.MolToSmiles(Chem.RenumberAtoms(molecule, order), canonical=False)
        assert groups.group(other) == groups.group(smiles), (smiles, other)


@pytest.mark.parametrize("smiles", ["", "C1CC", "not a molecule"])
def test_what_is_no_molecule_is_refused(smiles) -> None:
    with pytest.raises(ValueError, match="RDKit refuses"):
        CORE.group(smiles)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_another_process_groups_alike(seed) -> None:
    smiles = sample(40)
    code = (
        "from openfl_flows.data.blind.molecules import MoleculeGroups\n"
        f"print([MoleculeGroups().group(each) for each in {smiles[::-1]!r}][::-1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == repr([CORE.group(each) for each in smiles])


def test_a_near_duplicate_is_found_and_counted() -> None:
    smiles = ["CCCCCCCCO", "CCCCCCCCCO", "c1ccncc1C", "broken("]
    pairs = near_molecules(smiles, [0, 2, 3])
    assert pairs.tolist() == [[0, 1]]
    found = measure(pairs, ["train", "test", "train", ""], [0, 2, 3])
    assert (found.asked, found.pairs, found.crossing, found.leaking) == (2, 1, 1.0, 0.5)
    assert found.random_crossing == pytest.approx(2 / 3)
    assert measure(pairs, ["val", "val", "train", ""], [0, 2, 3]).crossing == 0
    assert measure(pairs, ["val", "", "train", ""], [0, 2, 3]).pairs == 0


def test_groups_leak_far_less_than_chance(shared_data) -> None:
    import gzip

    with gzip.open(shared_data / "qm9" / "zinc100k.smi.gz", "rt") as file:
        smiles = [line.split()[0] for line in file if line.strip()][:8000]
    pairs = near_molecules(smiles, range(1500))
    groups = {i: CORE.group(smiles[i]) for i in np.unique(pairs).tolist()}
    apart = np.mean([groups[i] != groups[j] for i, j in pairs.tolist()])
    assert len(pairs) >= 10
    assert apart < 0.3
