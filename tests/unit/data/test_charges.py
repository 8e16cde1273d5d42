"""Charged atoms: classes by name, and molecules that come back as they were written."""

import csv
import gzip
from collections.abc import Iterator

import pytest
from rdkit import Chem

from openfl_flows.data.smiles import build_molecule, encode_smiles
from openfl_flows.data.vocabulary import atom_class, check_vocabulary, class_name

ZINC = ("C", "N", "O", "F", "P", "S", "Cl", "Br", "I", "N+", "O-", "O+")
QM9 = ("C", "N", "O", "F", "N+", "O-", "N-", "C-")


def canonical(molecule: Chem.Mol) -> str:
    return Chem.MolToSmiles(molecule, isomericSmiles=False)


def came_back(smiles: str, vocabulary: tuple[str, ...], max_atoms: int = 40) -> bool:
    """Whether decoding the encoded molecule gives its canonical SMILES, without stereochemistry."""
    atoms, bonds, dropped = encode_smiles(smiles, vocabulary=vocabulary, max_atoms=max_atoms)
    molecule = build_molecule(atoms, bonds, vocabulary)
    Chem.SanitizeMol(molecule)
    return not dropped and canonical(molecule) == canonical(Chem.MolFromSmiles(smiles))


@pytest.mark.parametrize("name", ["C", "N+", "O-", "S+2", "Cl", "Cl-", "Fe+3"])
def test_names_of_classes_are_read_and_written(name) -> None:
    assert class_name(*atom_class(name)) == name


@pytest.mark.parametrize("name", ["", "X", "n", "N++", "N+0", "+", "[N+]", "CC"])
def test_names_of_no_class_are_refused(name) -> None:
    with pytest.raises(ValueError, match="expected an element, with its charge"):
        check_vocabulary(("C", name))


def test_a_class_may_not_have_two_names() -> None:
    with pytest.raises(ValueError, match="distinct"):
        check_vocabulary(("N+", "N+1"))


@pytest.mark.parametrize(
    "smiles",
    [
        "C[N+](C)(C)CC(=O)[O-]",
        "c1cc[nH]c1",
        "c1ccc2[nH]cnc2c1",
        "O=c1cc[nH]cc1",
        "C[n+]1ccccc1",
        "[O-][n+]1ccccc1",
        "O=[N+]([O-])c1ccccc1",
        "CC(C)[NH2+]C",
        "[H][n+]1cc[nH]c1",
        "CS(=O)(=O)NP(=O)(O)OCl",
        "C[C@@H](F)/C=C/Br",
    ],
)
def test_charged_and_aromatic_molecules_come_back(smiles) -> None:
    assert came_back(smiles, ZINC)


def test_without_charged_classes_charges_are_dropped_and_said() -> None:
    atoms, bonds, dropped = encode_smiles("C[N+](C)(C)C", vocabulary=("C", "N"), max_atoms=5)
    assert dropped
    assert atoms.tolist() == [0, 1, 0, 0, 0]
    assert not any(a.GetFormalCharge() for a in build_molecule(atoms, bonds, ("C", "N")).GetAtoms())


def test_a_charge_without_a_class_is_refused_once_charges_are_represented() -> None:
    with pytest.raises(ValueError, match=r"atom O- is outside C,N,O,N\+"):
        encode_smiles("C[N+](=O)[O-]", vocabulary=("C", "N", "O", "N+"), max_atoms=9)


def lines(file) -> Iterator[str]:
    with gzip.open(file, "rt") as stream:
        yield from (line.split()[0] for line in stream)


def test_zinc_comes_back_whole(shared_data) -> None:
    written = list(lines(shared_data / "qm9" / "zinc100k.smi.gz"))[::50]
    assert [smiles for smiles in written if not came_back(smiles, ZINC)] == []


@pytest.mark.slow
def test_all_of_zinc_comes_back_whole(shared_data) -> None:
    written = lines(shared_data / "qm9" / "zinc100k.smi.gz")
    assert [smiles for smiles in written if not came_back(smiles, ZINC)] == []


def test_the_charged_molecules_of_qm9_come_back_whole(shared_data) -> None:
    with gzip.open(shared_data / "qm9" / "qm9.csv.gz", "rt") as stream:
        rows = list(csv.DictReader(stream))
    # Some are written without charges, as N(=O)=O.
    charged = [row["smiles"] for row in rows if {*row["canonical_smiles"]} & {*"+-"}]
    assert len(charged) > 1_800
    assert [smiles for smiles in charged if not came_back(smiles, QM9, 9)] == []
