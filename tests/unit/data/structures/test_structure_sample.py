"""The embedded structures and the script that makes them."""

import gzip
from importlib import resources
from pathlib import Path

import gemmi
import numpy as np
import pytest

from openfl_flows.data import make_structure_sample as script
from openfl_flows.data.structures.prepare import Preparation, prepare
from openfl_flows.data.structures.select import SAMPLE, StructureSelection, read_structures
from openfl_flows.data.structures.set import StructureSet

ENTRIES = SAMPLE.parent / "entries"


@pytest.fixture(scope="module")
def published() -> Path:
    """Entries as the Protein Data Bank has them, which come with OpenFold3's own tests."""
    folder = Path(str(resources.files("openfold3"))) / "tests" / "test_data" / "mmcifs"
    if not folder.is_dir():
        pytest.skip("this openfold3 comes without its tests")
    return folder


def excerpt(name: str) -> gemmi.Structure:
    text = gzip.decompress((ENTRIES / f"{name}.cif.gz").read_bytes()).decode()
    block = gemmi.cif.read_string(text).sole_block()
    assert block.name == name
    return gemmi.make_structure_from_block(block)


def test_there_is_one_file_and_one_prepared_structure_for_each_excerpt() -> None:
    names = sorted(each.name for each in script.EXCERPTS)
    assert sorted(file.name for file in ENTRIES.iterdir()) == sorted(
        f"{name}.cif.gz" for name in names
    )
    assert sorted(StructureSelection().open().structures) == names
    size = sum(file.stat().st_size for file in SAMPLE.parent.rglob("*") if file.is_file())
    assert size < 1_500_000


def test_what_is_shipped_is_what_the_script_makes(published) -> None:
    made = 0
    for each in script.EXCERPTS:
        if (published / f"{each.entry}.cif").is_file():
            text = script.cut(script.read_entry(published, each.entry), each)
            shipped = gzip.decompress((ENTRIES / f"{each.name}.cif.gz").read_bytes())
            assert text.encode() == shipped, each.name
            made += 1
    assert made == 23


@pytest.mark.parametrize("name", ["1ubq", "1y57-sh2", "1y57-kinase", "2q2k", "5kc1-2"])
def test_atoms_are_those_of_the_entry(published, name) -> None:
    (of,) = (each for each in script.EXCERPTS if each.name == name)
    whole = gemmi.read_structure(str(published / f"{of.entry}.cif"))
    there = {
        (chain.name, residue.seqid.num, residue.name, atom.name, atom.altloc): atom.pos.tolist()
        for chain in whole[0]
        for residue in chain
        for atom in residue
    }
    cut = excerpt(name)
    assert len(cut) == 1
    atoms = 0
    for chain in cut[0]:
        for residue in chain:
            for atom in residue:
                key = (chain.name, residue.seqid.num, residue.name, atom.name, atom.altloc)
                assert there[key] == atom.pos.tolist()
                atoms += 1
    assert atoms > 400


def test_a_cut_polymer_is_numbered_and_spelled_from_its_first_residue() -> None:
    for each in script.EXCERPTS:
        structure = excerpt(each.name)
        for chain in structure[0]:
            polymer = chain.get_polymer()
            for residue in polymer:
                sequence = structure.get_entity_of(polymer).full_sequence
                assert sequence[residue.label_seq - 1].split(",")[0] == residue.name, each.name
    kinase = excerpt("1y57-kinase").entities[0].full_sequence
    assert gemmi.one_letter_code(kinase[:8]) == "DAWEIPRE"


def test_the_sample_is_a_mixture() -> None:
    structures = read_structures(StructureSelection().open())
    years = [each.released.year for each in structures]
    assert (min(years), max(years)) == (1987, 2021)
    assert sum(each.is_monomer_with_ligand for each in structures) == 4
    assert sum(len(each.polymers) > 1 for each in structures) == 8
    assert any("dna" in each.polymers for each in structures)
    assert max(each.num_tokens for each in structures) < 320
    assert np.median([each.num_tokens for each in structures]) < 100


def test_another_entry_or_one_without_a_date_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="no 1ubq.cif or 1ubq.cif.gz"):
        script.read_entry(tmp_path, "1ubq")
    (tmp_path / "1ubq.cif").write_text("data_1ABC\n_entry.id 1ABC\n")
    with pytest.raises(ValueError, match="_entry.id is 1abc, expected 1ubq"):
        script.read_entry(tmp_path, "1ubq")
    (tmp_path / "1abc.cif").write_text("data_1ABC\n_entry.id 1ABC\n")
    with pytest.raises(ValueError, match="expected a release date"):
        script.read_entry(tmp_path, "1abc")
    (tmp_path / "1abc.cif").write_text("data_1ABC\n_entry.id 1ABC\n_citation.year 2004\n")
    block = script.read_entry(tmp_path, "1abc")
    assert block.find_value("_pdbx_audit_revision_history.revision_date") == "2004-12-31"


def test_a_chain_that_is_not_there_is_named(published) -> None:
    of = script.Excerpt(name="1ubq", entry="1ubq", chains="AX")
    with pytest.raises(ValueError, match=r"no chain \['X'\]"):
        script.cut(script.read_entry(published, "1ubq"), of)


def test_the_prepared_set_is_what_the_command_makes_of_the_entries(tmp_path) -> None:
    prepare(Preparation(source=ENTRIES, target=tmp_path / "set", workers=1))
    made, shipped = StructureSet.open(tmp_path / "set"), StructureSelection().open()
    assert made.cache == shipped.cache
    assert (made.folder / "set.json").read_text() == (shipped.folder / "set.json").read_text()
    for name in shipped.structures:
        file = Path("structure_files") / name / f"{name}.npz"
        with np.load(made.folder / file) as one, np.load(shipped.folder / file) as two:
            assert set(one.files) == set(two.files)
            for key in one.files:
                np.testing.assert_array_equal(one[key], two[key], err_msg=f"{name} {key}")
