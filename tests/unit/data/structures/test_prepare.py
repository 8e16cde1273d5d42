"""A set is made offline, goes on after a kill, notices changes, and is what OpenFold3 reads."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openfold3.core.data.io.dataset_cache import read_datacache
from openfold3.core.data.io.sequence.msa import parse_msas_preparsed
from openfold3.core.data.primitives.caches.format import ClusteredDatasetCache
from rdkit import Chem
from rdkit.Chem.rdDistGeom import EmbedMolecule

from openfl_flows.data.structures.definitions import read_definitions
from openfl_flows.data.structures.prepare import Job, Preparation, find_inputs, prepare
from openfl_flows.data.structures.set import StructureSet
from tests.structure_files import ENTRIES, entry, recoded, without, write_cif

NAMES = ("1ubq", "7l39", "2q2k")


def no_network(*_: Any) -> None:
    raise AssertionError("a connection was opened")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("entries")
    for name in NAMES:
        shutil.copy(ENTRIES / f"{name}.cif", folder)
    return folder


@pytest.fixture(scope="module")
def prepared(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("set") / "set"
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", no_network)
    prepare(Preparation(source=source, target=target))
    patch.undo()
    return target


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file of structures and molecules."""
    parts = ("structure_files", "reference_mols", "alignment_arrays")
    found = [f for part in parts for f in (folder / part).rglob("*") if f.is_file()]
    return {str(f.relative_to(folder)): (f.stat().st_ino, f.stat().st_mtime_ns) for f in found}


def test_the_set_is_what_the_datasets_read(prepared):
    cache = read_datacache(prepared / "cache.json")
    assert isinstance(cache, ClusteredDatasetCache)
    opened = StructureSet.open(prepared)
    assert opened.structures.keys() == set(NAMES)
    record = json.loads((prepared / "set.json").read_text())
    assert record["structures"]["7l39"]["num_tokens"] == 176
    assert record["structures"]["7l39"]["ligands"] == ["BME", "CL", "MBN"]
    for structure in opened.structures.values():
        for chain in structure["chains"].values():
            if chain["molecule_type"] == "LIGAND":
                assert chain["reference_mol_id"] in opened.cache["reference_molecule_data"]
                assert (prepared / "reference_mols" / f"{chain['reference_mol_id']}.sdf").is_file()
            elif chain["molecule_type"] == "PROTEIN":
                name = chain["alignment_representative_id"]
                found = parse_msas_preparsed([prepared / "alignment_arrays" / f"{name}.npz"])
                assert [m.msa.shape[0] for m in found.values()] == [1]
            assert chain["cluster_size"] >= 1


def test_sound_entries_come_out_as_openfold3_alone_makes_them(prepared, shared_data):
    for name in NAMES:
        file = Path("structure_files") / name / f"{name}.npz"
        ours, theirs = np.load(prepared / file), np.load(shared_data / "structures/prep" / file)
        assert set(ours.files) == set(theirs.files)
        for key in ours.files:
            assert np.array_equal(ours[key], theirs[key], equal_nan=ours[key].dtype.kind == "f")


def test_started_again_nothing_is_done_twice_and_clusters_stay(source, prepared, tmp_path):
    target = tmp_path / "set"
    shutil.copytree(prepared, target)
    more = tmp_path / "more"
    shutil.copytree(source, more)
    before = json.loads((target / "cache.json").read_text())["structure_data"]
    there = files(target)
    prepare(Preparation(source=source, target=target))
    assert files(target) == there
    shutil.copy(ENTRIES / "1kd8.cif", more)
    prepare(Preparation(source=more, target=target))
    after = json.loads((target / "cache.json").read_text())["structure_data"]
    assert after.keys() == {*NAMES, "1kd8"}
    for name in NAMES:
        assert all(
            after[name]["chains"][c]["cluster_id"] == data["cluster_id"]
            for c, data in before[name]["chains"].items()
        )
    assert {k: v for k, v in files(target).items() if k in there} == there


def test_changed_and_removed_files_are_noticed(source, prepared, tmp_path):
    target, changed = tmp_path / "set", tmp_path / "changed"
    shutil.copytree(prepared, target)
    shutil.copytree(source, changed)
    write_cif(recoded(entry("7l39"), "MBN", "LIG", bonds=False), changed / "7l39.cif")
    (changed / "2q2k.cif").unlink()
    there = files(target)
    counts = prepare(Preparation(source=changed, target=target))
    assert counts["outcomes"] == {"accepted": 1, "repaired": 0, "refused": 1}
    left = json.loads((target / "cache.json").read_text())["structure_data"]
    assert left.keys() == {"1ubq"}
    assert {f.name for f in (target / "structure_files").iterdir()} == {"1ubq"}
    with (tmp_path / "ligands.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("structure", "code", "smiles"), ("", "LIG", "Cc1ccccc1")])
    given = Preparation(source=changed, target=target, ligands=tmp_path / "ligands.csv")
    assert prepare(given)["outcomes"] == {"accepted": 1, "repaired": 1, "refused": 0}
    name = "structure_files/1ubq/1ubq.npz"
    assert files(target)[name] == there[name]


def test_a_half_written_structure_is_made_again(source, prepared, tmp_path):
    target = tmp_path / "set"
    shutil.copytree(prepared, target)
    (target / "structure_files" / "1ubq" / "1ubq.fasta").unlink()
    (target / "work" / "structures" / "2q2k.json").write_text('{"key": ')
    jobs = [
        Job(entry=e, definitions=read_definitions(None), target=target, date=None)
        for e in find_inputs(source)
    ]
    assert {job.entry.id for job in jobs if job.finished() is None} == {"1ubq", "2q2k"}
    prepare(Preparation(source=source, target=target))
    assert (target / "structure_files" / "1ubq" / "1ubq.fasta").is_file()


def test_alignments_go_to_the_chains_whose_sequence_they_begin_with(source, tmp_path):
    lone = tmp_path / "in"
    lone.mkdir()
    shutil.copy(source / "1ubq.cif", lone)
    query = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
    msa = tmp_path / "msa"
    (msa / "1ubq_A").mkdir(parents=True)
    (msa / "1ubq_A" / "uniref90_hits.a3m").write_text(
        f">q\n{query}\n>one\n{query[:-2]}--\n>two\n{query[:4]}aaa{query[4:]}\n"
    )
    (msa / "other.a3m").write_text(">q\nACDEFGHIK\n")
    target = tmp_path / "set"
    prepare(Preparation(source=lone, target=target, msa=msa))
    (file,) = (target / "alignment_arrays").iterdir()
    found = parse_msas_preparsed([file])
    assert {name: m.msa.shape for name, m in found.items()} == {"uniref90_hits": (3, 76)}
    assert found["uniref90_hits"].deletion_matrix[2, 4] == 3
    site = json.loads((target / "preflight" / "site.json").read_text())
    assert site["unused"] == [str(msa / "other.a3m")]
    chain = json.loads((target / "cache.json").read_text())["structure_data"]["1ubq"]["chains"]["1"]
    assert f"{chain['alignment_representative_id']}.npz" == file.name


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("date", "01.02.2020", "--date is '01.02.2020', expected YYYY-MM-DD"),
        ("workers", 0, "--workers is 0, expected at least 1"),
        ("ligands", Path("nowhere.csv"), "--ligands nowhere.csv: no such file or folder"),
        ("msa", Path("nowhere"), "--msa nowhere: no such file or folder"),
    ],
)
def test_options_are_refused_by_name(key, value, message, source, tmp_path):
    with pytest.raises(ValueError, match="expected|no such file") as error:
        Preparation(source=source, target=tmp_path, **{key: value})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("structure,smiles\n,C\n", "lacks column code"),
        ("structure,code,smiles\n,LIG,C(\n", "no valid molecule"),
        ("structure,code,smiles\n,LIG,\n", "no valid molecule"),
        ("structure,code,smiles\n,LIG,CC.Cl\n", "several fragments"),
        ("structure,code,smiles\n,LIG,C\n,LIG,CC\n", "defines LIG again"),
    ],
)
def test_a_wrong_table_of_ligands_is_refused_with_its_line(text, message, tmp_path):
    (tmp_path / "ligands.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_definitions(tmp_path / "ligands.csv")
    assert "ligands.csv" in str(error.value)


def test_sdf_files_are_named_after_structure_and_code(tmp_path):
    for name, smiles in {"ABC_17_LIG": "C[C@H](F)Cl", "LIG": "CCO", "cpd": "CCN"}.items():
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        EmbedMolecule(molecule, randomSeed=1)
        Chem.MolToMolFile(molecule, str(tmp_path / f"{name}.sdf"))
    found = read_definitions(tmp_path)
    wanted = {("abc-17", "LIG"): "C[C@H](F)Cl", ("other", "LIG"): "CCO", ("other", "CPD"): "CCN"}
    for (structure, code), smiles in wanted.items():
        definition = found.find(structure, code)
        assert definition is not None
        assert Chem.MolToSmiles(definition.molecule) == smiles
    assert found.find("other", "ABC") is None


def test_a_date_for_structures_that_tell_none(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    block = without(entry("1ubq"), "_pdbx_audit_revision_history.", "_pdbx_database_status.")
    write_cif(block, source / "undated.cif")
    counts = prepare(Preparation(source=source, target=tmp_path / "set", date="2021-05-04"))
    assert counts["repairs"] == {"release_date": 1}
    record = json.loads((tmp_path / "set" / "set.json").read_text())
    assert record["structures"]["undated"]["release_date"] == "2021-05-04"


def test_killed_at_any_time_it_goes_on(source, prepared, tmp_path):
    target = tmp_path / "set"
    arguments = [sys.executable, "-m", "openfl_flows", "data", "prepare", str(source), str(target)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*arguments, "--workers", "1"], env=environment)
    records = target / "work" / "structures"
    deadline = time.monotonic() + 120
    while not any(records.glob("*.json")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {file.stem: file.stat().st_mtime_ns for file in records.glob("*.json")}
    assert done
    assert not (target / "set.json").exists()
    prepare(Preparation(source=source, target=target))
    assert all((records / f"{k}.json").stat().st_mtime_ns == v for k, v in done.items())
    for name in ("cache.json", "set.json", "preflight/counts.json", "preflight/site.json"):
        assert (target / name).read_bytes() == (prepared / name).read_bytes(), name
    assert not list(target.rglob("*.tmp"))
    assert not list((target / "work").glob("unfinished/*"))
