"""Files of any size become the same molecules as small ones, whatever happens on the way."""

import csv
import gzip
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from openfl_flows.data import shards
from openfl_flows.data.molecules import Molecules, Rejection, read_molecules
from openfl_flows.data.shards import Parsing, store_molecules
from openfl_flows.data.source import SAMPLE, MoleculeSource
from openfl_flows.data.store import StoredMolecules

QM9 = ("C", "N", "O", "F")
LABELS = {"target_columns": ("mu", "homo"), "hartree_columns": ("homo",)}
TABLE = Parsing(vocabulary=QM9, max_atoms=9, **LABELS)
DRUGS = Parsing(vocabulary=(*QM9, "P", "S", "Cl", "Br", "I", "N+", "O-"), max_atoms=38)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def assert_same(stored: StoredMolecules, molecules: Molecules) -> None:
    assert tuple(stored.smiles) == molecules.smiles
    assert stored.vocabulary == molecules.vocabulary
    assert stored.target_names == molecules.target_names
    np.testing.assert_array_equal(stored.targets, molecules.targets)
    np.testing.assert_array_equal(stored.num_atoms, molecules.num_atoms)
    assert stored.num_charged == molecules.num_charged
    everything = np.arange(len(molecules))
    for mine, theirs in zip(
        stored.rows(everything, molecules.max_atoms), molecules.rows(everything, 9), strict=True
    ):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 7)


def test_a_table_on_disk_is_the_table_in_memory(tmp_path, small_shards) -> None:
    text = SAMPLE.read_text().splitlines()[:200]
    extra = ["x,C[N+](C)(C)C,1.5,-0.25", "y,CCl,,", 'z,"C#N",,nan', "", "v,,1,1"]
    path = write(tmp_path / "m.csv", "\n".join([*text[:50], *extra, *text[50:]]) + "\n")
    molecules, rejections = read_molecules(path)
    stored, rejected = store_molecules(path, tmp_path / "store", TABLE, workers=2)
    assert_same(stored, molecules)
    assert tuple(rejected) == rejections
    assert len(rejected) == 2
    assert rejections[0] in rejected


def test_parts_of_a_store_are_read_alone(tmp_path) -> None:
    stored, _ = store_molecules(SAMPLE, tmp_path, TABLE, workers=1)
    molecules, _ = read_molecules(SAMPLE)
    chosen = [5, 2900, 17, 5]
    part, expected = stored.subset(chosen), molecules.subset(chosen)
    assert_same(part, expected)
    assert_same(part.joined([part.subset([0])]), expected.joined([expected.subset([0])]))
    atoms, bonds = stored.rows([0, 1])
    assert atoms.shape[1] == bonds.shape[1] == stored.num_atoms[:2].max() < 9
    assert np.concatenate(list(stored.blocks())).tolist() == list(range(len(stored)))
    assert list(part.smiles[1:3]) == list(expected.smiles[1:3])
    with pytest.raises(IndexError, match="expected 0"):
        stored.rows([len(stored)])


def test_a_list_of_smiles_has_names_lines_and_reasons(tmp_path) -> None:
    path = tmp_path / "drugs.smi.gz"
    with gzip.open(path, "wt") as stream:
        stream.write("SMILES name\nCCBr first one\n\nC[N+](=O)[O-]\tsecond\nC.C third\n[13CH4]\n")
    stored, rejected = store_molecules(path, tmp_path, DRUGS, workers=1)
    assert list(stored.smiles) == ["CCBr", "C[N+](=O)[O-]", "[13CH4]"]
    assert stored.num_charged == 0
    assert stored.targets.shape == (3, 0)
    assert list(rejected) == [
        Rejection(1, "name", "SMILES", "RDKit refuses the SMILES"),
        Rejection(5, "third", "C.C", "2 fragments, expected one molecule"),
    ]


def test_a_store_is_made_once_for_each_content_and_option(tmp_path) -> None:
    path = write(tmp_path / "m.smi", "C\nCC\n")
    folder = tmp_path / "store"

    def made() -> dict[Path, float]:
        return {f: f.stat().st_mtime_ns for f in folder.glob("molecules-*/*")}

    store_molecules(path, folder, DRUGS, workers=1)
    before = made()
    store_molecules(path, folder, DRUGS, workers=1)
    assert made() == before
    store_molecules(path, folder, Parsing(vocabulary=("C",), max_atoms=1), workers=1)
    write(path, "C\nCCC\n")
    assert tuple(store_molecules(path, folder, DRUGS, workers=1)[0].smiles) == ("C", "CCC")
    assert len(list(folder.glob("molecules-*"))) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.smi", b"CCl\n", "no usable molecule; 1 rows were rejected, the first because: atom Cl"),
        ("m.smi", b"\n", "no usable molecule; 0 rows"),
        ("m.smi", b"C\xff\n", "m.smi: not UTF-8 text"),
        ("m.smi.gz", gzip.compress(b"C\n" * 99, mtime=0)[:-9], "damaged gzip"),
        ("m.csv", b"smiles,mu,homo\nC,1\n", "m.csv, line 2: 2 cells, expected 3"),
        ("m.csv", b"smiles,mu,homo\nC,1,x\n", "m.csv, line 2: homo is 'x'"),
        ("m.csv", b"smiles,mu\nC,1\n", "no column 'homo'"),
    ],
)
def test_files_that_cannot_be_used_are_refused_and_leave_no_store(
    name, content, message, tmp_path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        store_molecules(path, tmp_path, TABLE, workers=1)
    assert not [f for f in tmp_path.glob("molecules-*") if f.suffix != ".parts"]


def test_a_damaged_store_says_what_to_do(tmp_path) -> None:
    path = write(tmp_path / "m.smi", "CC\nC\n")
    store_molecules(path, tmp_path, DRUGS, workers=1)
    (file,) = tmp_path.glob("molecules-*/bonds.bin")
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"damaged \(bonds.bin has 0 bytes, expected 3\); remove"):
        store_molecules(path, tmp_path, DRUGS, workers=1)


SCRIPT = """
import sys
from pathlib import Path
from openfl_flows.data import shards
shards.ROWS_PER_SHARD = 20
from tests.unit.data.test_shards import TABLE
shards.store_molecules(Path(sys.argv[1]), Path(sys.argv[2]), TABLE, workers=2)
"""


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def works(pid: int) -> bool:
    """Whether a process is there and has not ended, waited for or not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_killed_at_any_time_it_goes_on_from_its_shards(tmp_path) -> None:
    folder = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, SAMPLE, folder])
    while len(done := list(folder.glob("*.parts/*.npz"))) < 5:
        assert process.poll() is None
        time.sleep(0.005)
    workers = children(process.pid)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not [f for f in folder.glob("molecules-*") if f.suffix != ".parts"]
    before = {f: f.stat().st_mtime_ns for f in done}
    # A shard that was cut is made again.
    cut = done.pop()
    cut.write_bytes(cut.read_bytes()[:100])
    again = subprocess.Popen([sys.executable, "-c", SCRIPT, SAMPLE, folder])
    kept = {}
    while again.poll() is None:
        kept |= {f: f.stat().st_mtime_ns for f in done if f.exists()}
        time.sleep(0.005)
    assert again.returncode == 0
    assert kept == {f: before[f] for f in done}
    stored, _ = store_molecules(SAMPLE, folder, TABLE)
    assert_same(stored, read_molecules(SAMPLE)[0])
    assert not list(folder.glob("*.parts"))
    assert workers
    deadline = time.monotonic() + 30
    while any(map(works, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


MEASURE = """
import resource, sys
from pathlib import Path
from openfl_flows.data.shards import store_molecules
from tests.unit.data.test_shards import TABLE
store_molecules(Path(sys.argv[1]), Path(sys.argv[2]), TABLE, workers=1)
own, workers = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
print(resource.getrusage(own).ru_maxrss, resource.getrusage(workers).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_depend_on_the_size_of_the_file(tmp_path) -> None:
    header, *rows = SAMPLE.read_text().splitlines()
    peaks = []
    for copies in (3, 30):
        path = write(tmp_path / f"{copies}.csv", "\n".join([header, *rows * copies]) + "\n")
        out = subprocess.run(
            [sys.executable, "-c", MEASURE, path, tmp_path], capture_output=True, check=True
        ).stdout
        peaks.append([int(kilobytes) for kilobytes in out.split()])
    # 81,000 more rows are 5 MB of text and would be 30 MB of arrays and SMILES in memory.
    growth = [large - small for small, large in zip(*peaks, strict=True)]
    assert max(growth) < 8_000, peaks


def test_sources_refuse_what_storage_cannot_hold() -> None:
    with pytest.raises(
        ValueError, match=r"data.path=m.smi is a SMILES file: it needs data.storage"
    ):
        MoleculeSource(path="m.smi")
    with pytest.raises(ValueError, match="data.storage=disk needs data.folder"):
        MoleculeSource(storage="disk")
    with pytest.raises(ValueError, match="data.workers=0"):
        MoleculeSource(workers=0)


def test_a_source_without_labels_has_missing_ones(tmp_path) -> None:
    path = write(tmp_path / "m.smi", "CC\nC\n")
    source = MoleculeSource(
        path=str(path), folder=str(tmp_path), storage="disk", target_columns=(), limit=1
    )
    molecules, rejections = source.read(QM9, 9)
    assert len(molecules) == 1
    assert len(rejections) == 0
    assert np.isnan(molecules.targets).all()
    assert molecules.targets.shape == (1, 2)


def test_rejected_rows_of_a_store_are_a_table_too(tmp_path) -> None:
    path = write(tmp_path / "m.smi", "C\nCl first\n")
    _, rejected = store_molecules(path, tmp_path, TABLE, workers=1)
    with rejected.path.open(newline="") as stream:
        assert list(csv.reader(stream))[1] == [
            "2", "first", "Cl", "atom Cl is outside C,N,O,F"
        ]  # fmt: skip
