"""Reading molecules: exact graphs, no row lost silently, the cache never changes the answer."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from openfl_flows.data.molecules import (
    HARTREE_IN_EV,
    Rejection,
    read_molecules,
    split,
    write_rejections,
)
from openfl_flows.data.smiles import PADDING, encode_smiles

HEADER = "mol_id,smiles,mu,homo\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_graph_labels_and_units(tmp_path):
    path = write(tmp_path / "m.csv", HEADER + "a,C#N,2.9,-0.5\nb,NC=O,,nan\n")
    molecules, rejections = read_molecules(path, max_atoms=4)
    assert rejections == ()
    assert molecules.smiles == ("C#N", "NC=O")
    np.testing.assert_array_equal(molecules.atoms, [[0, 1, -1, -1], [1, 0, 2, -1]])
    bonds = np.zeros((2, 4, 4))
    bonds[0, 0, 1] = bonds[0, 1, 0] = 3
    bonds[1, 0, 1] = bonds[1, 1, 0] = 1
    bonds[1, 1, 2] = bonds[1, 2, 1] = 2
    np.testing.assert_array_equal(molecules.bonds, bonds)
    np.testing.assert_allclose(
        molecules.targets, [[2.9, -0.5 * HARTREE_IN_EV], [np.nan, np.nan]], rtol=1e-6
    )
    np.testing.assert_array_equal(molecules.num_atoms, [2, 3])
    assert molecules.atoms.dtype == molecules.bonds.dtype == np.int8
    assert molecules.targets.dtype == np.float32


def test_hartree_columns_choose_what_is_converted(tmp_path):
    path = write(tmp_path / "m.csv", HEADER + "a,C,1,-6.5\n")
    molecules, _ = read_molecules(path, hartree_columns=())
    np.testing.assert_allclose(molecules.targets, [[1, -6.5]])


def test_aromatic_rings_are_kekulised():
    atoms, bonds, _ = encode_smiles("c1ccccc1", vocabulary=("C",), max_atoms=6)
    assert (atoms == 0).all()
    assert np.bincount(bonds.ravel(), minlength=5).tolist() == [24, 6, 6, 0, 0]
    np.testing.assert_array_equal(bonds, bonds.T)
    np.testing.assert_array_equal(bonds.sum(axis=1), np.full(6, 3))


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C(", "RDKit refuses"),
        ("", "no heavy atom"),
        ("[H][H]", "no heavy atom"),
        ("CCl", "atom Cl is outside C,N,O,F"),
        ("*C", r"atom \* is outside"),
        ("C.O", "2 fragments"),
        ("CCCCCCCCCC", "10 heavy atoms, at most 9"),
    ],
)
def test_refused_smiles_say_why(smiles, reason):
    with pytest.raises(ValueError, match=reason):
        encode_smiles(smiles, vocabulary=("C", "N", "O", "F"), max_atoms=9)


def test_every_row_is_kept_or_rejected_with_its_line(tmp_path):
    text = (
        "mol_id,smiles,uncharacterized\n"
        "a,C,False\n\nb,CBr,False\nc,CC,True\nd,C[N+](C)(C)C,0\ne,not-smiles,0\n"
    )
    molecules, rejections = read_molecules(write(tmp_path / "m.csv", text), target_columns=())
    assert molecules.smiles == ("C", "C[N+](C)(C)C")
    assert molecules.num_charged == 1
    assert molecules.targets.shape == (2, 0)
    assert rejections == (
        Rejection(4, "b", "CBr", "atom Br is outside C,N,O,F"),
        Rejection(5, "c", "CC", "flagged uncharacterized"),
        Rejection(7, "e", "not-smiles", "RDKit refuses the SMILES"),
    )


def test_limit_counts_accepted_molecules(tmp_path):
    path = write(tmp_path / "m.csv", "smiles\nC\nCl\nCC\nCCC\n")
    molecules, rejections = read_molecules(path, target_columns=(), limit=2)
    assert molecules.smiles == ("C", "CC")
    assert [r.line for r in rejections] == [3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,smiles,mu\na,C,1\n", "no column 'homo'; the columns are id, smiles, mu"),
        ("", "no column 'smiles'"),
        (HEADER + "a,C,1,-0.2\nb,C,much,-0.2\n", "line 3: mu is 'much'"),
        (HEADER + "a,C,1,inf\n", "line 2: homo is 'inf'"),
        (HEADER + "a,C,1\n", "line 2: 3 cells, expected 4"),
        (HEADER, "no usable molecule; 0 rows"),
        (HEADER + "a,Cl,1,2\n", "no usable molecule; 1 rows.*atom Cl"),
        ("smiles,mu,homo,uncharacterized\nC,1,2,maybe\n", "line 2: uncharacterized is 'maybe'"),
        ("smiles,mu,homo,mu\nC,1,2,3\n", "occurs twice"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path, text, message):
    path = write(tmp_path / "m.csv", text)
    with pytest.raises(ValueError, match=message) as raised:
        read_molecules(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocabulary": ()}, "vocabulary"),
        ({"vocabulary": ("H", "C")}, "without H"),
        ({"vocabulary": ("C", "C")}, "distinct"),
        ({"max_atoms": 0}, "max_atoms is 0"),
        ({"limit": 0}, "limit is 0"),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        read_molecules(tmp_path / "absent.csv", **options)


def test_damaged_gzip_and_foreign_encoding(tmp_path):
    path = tmp_path / "m.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "a,C,1,2\n" * 100).encode())[:-20])
    with pytest.raises(ValueError, match="damaged gzip"):
        read_molecules(path)
    path.write_bytes(HEADER.encode() + b"\xff,C,1,2\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_molecules(path)


def test_gzip_and_byte_order_mark_change_nothing(tmp_path):
    text = HEADER + "a,CO,1,-0.2\n"
    plain, _ = read_molecules(write(tmp_path / "m.csv", text))
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    zipped, _ = read_molecules(tmp_path / "m.csv.gz")
    np.testing.assert_array_equal(plain.bonds, zipped.bonds)
    np.testing.assert_array_equal(plain.targets, zipped.targets)


def assert_same(first, second):
    (molecules, rejections), (others, other_rejections) = first, second
    assert rejections == other_rejections
    for name in ("smiles", "vocabulary", "target_names"):
        assert getattr(molecules, name) == getattr(others, name)
    for name in ("atoms", "bonds", "targets", "charged"):
        array, other = getattr(molecules, name), getattr(others, name)
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)


def test_cache_gives_the_same_and_is_not_parsed_again(tmp_path, monkeypatch):
    path = write(tmp_path / "m.csv", HEADER + "a,CO,1,-0.2\nb,Cl,,\nc,N,,\n")
    fresh = read_molecules(path, cache_dir=tmp_path / "cache")
    monkeypatch.setattr("openfl_flows.data.molecules.read_rows", None)
    assert_same(fresh, read_molecules(path, cache_dir=tmp_path / "cache"))


def test_cache_is_keyed_by_content_and_options(tmp_path):
    path = write(tmp_path / "m.csv", HEADER + "a,CO,1,-0.2\nb,N,,\n")
    cache = tmp_path / "cache"
    plain, _ = read_molecules(path, cache_dir=cache)
    for options in (
        {"vocabulary": ("O", "N", "C")},
        {"max_atoms": 3},
        {"limit": 1},
        {"target_columns": ("homo", "mu")},
        {"hartree_columns": ()},
    ):
        cached = read_molecules(path, cache_dir=cache, **options)
        assert_same(cached, read_molecules(path, **options))
    assert len(plain) == 2
    write(path, HEADER + "a,OC,1,-0.2\n")
    changed, _ = read_molecules(path, cache_dir=cache)
    assert changed.smiles == ("OC",)
    assert len(list(cache.iterdir())) == 7


@pytest.mark.parametrize("damage", [b"", b"not a zip", "cut", "flip"])
def test_damaged_cache_is_rebuilt(tmp_path, damage, caplog):
    path = write(tmp_path / "m.csv", HEADER + "a,CO,1,-0.2\nb,N,,\n")
    fresh = read_molecules(path, cache_dir=tmp_path)
    (cached,) = tmp_path.glob("*.npz")
    content = cached.read_bytes()
    if damage == "cut":
        cached.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        middle = content.index(b"atoms.npy") + 60
        flipped = bytes(255 - byte for byte in content[middle : middle + 20])
        cached.write_bytes(content[:middle] + flipped + content[middle + 20 :])
    else:
        cached.write_bytes(damage)
    assert_same(fresh, read_molecules(path, cache_dir=tmp_path))
    assert "damaged" in caplog.text
    caplog.clear()
    assert_same(fresh, read_molecules(path, cache_dir=tmp_path))
    assert not caplog.text
    assert not list(tmp_path.glob("*.part"))


def test_subset_keeps_order_and_refuses_foreign_positions(tmp_path):
    path = write(tmp_path / "m.csv", HEADER + "a,C,1,1\nb,CC,2,2\nc,C[NH3+],3,3\n")
    molecules, _ = read_molecules(path)
    part = molecules.subset([2, 0])
    assert part.smiles == ("C[NH3+]", "C")
    assert part.num_charged == 1
    np.testing.assert_array_equal(part.targets[:, 0], [3, 1])
    np.testing.assert_array_equal(part.num_atoms, [2, 1])
    assert len(molecules.subset([])) == 0
    for outside in (-1, 3):
        with pytest.raises(IndexError, match=r"expected 0\.\.2"):
            molecules.subset([outside])


def test_rejections_are_written_as_csv(tmp_path):
    rejections = (Rejection(4, "b", "C,B", 'says "no"'),)
    write_rejections(tmp_path / "r.csv", rejections)
    with (tmp_path / "r.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [["line", "mol_id", "smiles", "reason"], ["4", "b", "C,B", 'says "no"']]


@pytest.mark.parametrize("num", [10, 11, 25, 1000])
def test_split_covers_all_and_repeats(num):
    parts = split(num, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(num))
    assert all(len(part) and (np.diff(part) > 0).all() for part in parts)
    for part, again in zip(parts, split(num, seed=3), strict=True):
        np.testing.assert_array_equal(part, again)


def test_split_is_the_same_on_every_platform():
    _, val, test = split(20, seed=0)
    assert (val.tolist(), test.tolist()) == ([9, 14], [1, 15])


def test_split_refuses_empty_parts_and_wrong_fractions():
    with pytest.raises(ValueError, match="of 4 items give sizes"):
        split(4, seed=0)
    with pytest.raises(ValueError, match="expected three"):
        split(100, seed=0, fractions=(0.5, 0.5))
    with pytest.raises(ValueError, match="sum to 0.9"):
        split(100, seed=0, fractions=(0.7, 0.1, 0.1))


def test_real_qm9_graphs_are_the_molecules_of_their_smiles(shared_data):
    molecules, rejections = read_molecules(shared_data / "qm9" / "qm9.csv.gz", limit=2000)
    assert {r.reason for r in rejections} == {"flagged uncharacterized"}
    for smiles, atoms, bonds in zip(
        molecules.smiles, molecules.atoms, molecules.bonds, strict=True
    ):
        molecule = Chem.MolFromSmiles(smiles)
        Chem.Kekulize(molecule, clearAromaticFlags=True)
        num = molecule.GetNumAtoms()
        assert (atoms[num:] == PADDING).all()
        assert not bonds[num:].any()
        expected = sorted(
            (*sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())), b.GetBondTypeAsDouble())
            for b in molecule.GetBonds()
        )
        begins, ends = np.nonzero(np.triu(bonds))
        assert list(zip(begins, ends, bonds[begins, ends], strict=True)) == expected


@pytest.mark.slow
def test_real_qm9_marginals_are_the_published_ones(shared_data):
    molecules, rejections = read_molecules(shared_data / "qm9" / "qm9.csv.gz")
    assert (len(molecules), len(rejections)) == (130_831, 3_054)
    sizes = np.bincount(molecules.num_atoms) / len(molecules)
    published = [0, 2.2930e-5, 3.8217e-5, 6.8791e-5, 2.3695e-4, 9.7072e-4]
    np.testing.assert_allclose(sizes, [*published, 0.0046472, 0.023985, 0.13666, 0.83337], 1e-4)
    elements = np.bincount(molecules.atoms[molecules.atoms >= 0])
    np.testing.assert_allclose(
        elements / elements.sum(), [0.7230, 0.1151, 0.1593, 0.0026], atol=1e-4
    )
