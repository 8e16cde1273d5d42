"""Proteins as a model sees them: every one is there, or why not is said."""

import csv
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.data.proteins.fasta import Record, write_fasta
from openfl_flows.data.proteins.rejections import Rejection, write_rejections
from openfl_flows.data.proteins.residues import LETTERS, keep_ends, kept_positions
from openfl_flows.data.proteins.source import SITE_FILE, ProteinSource, site_source
from openfl_flows.data.proteins.targets import MASKED

CLASSES = ("Cell_membrane", "Nucleus")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "proteins.fasta"


def write(path, *rows):
    """Write records given as (name, sequence, target, part) or with a mask behind."""
    records = [Record(*row[:4], (*row, None)[4], {}, 1) for row in rows]
    write_fasta(path, records)


def source(path, **options):
    return ProteinSource(**{"path": str(path), "classes": CLASSES, **options})


def test_class_is_the_position_in_the_agreed_list(path):
    write(path, ("a", "MK", "Nucleus", "train"), ("b", "MV", "Cell_membrane", "test"))
    assert [p.target for p in source(path).read().proteins] == [1, 0]
    turned = source(path, classes=("Nucleus", "Other", "Cell_membrane"))
    assert [p.target for p in turned.read().proteins] == [0, 2]


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("Nucleous", "did you mean Nucleus"),
        ("Cell", "did you mean Cell_membrane"),
        ("42", r"Nucleus$"),
    ],
)
def test_a_class_nobody_agreed_on(path, target, hint):
    write(path, ("a", "MK", "Nucleus", "train"), ("b", "MK", target, "val"))
    expected = (
        f"line 3: b has TARGET={target}, expected one of data.classes: Cell_membrane, Nucleus"
    )
    with pytest.raises(ValueError, match=expected) as error:
        source(path).read()
    assert error.match(hint)


def test_values_are_finite_numbers(path):
    options = {"kind": "sequence_to_value", "classes": ()}
    write(path, ("a", "MK", "-1.5e2", "train"))
    assert [p.target for p in source(path, **options).read().proteins] == [-150.0]
    for wrong in ("nan", "inf", "high"):
        write(path, ("a", "MK", wrong, "train"))
        with pytest.raises(ValueError, match=f"TARGET={wrong}, expected a finite number"):
            source(path, **options).read()


@given(st.integers(0, 60), st.none() | st.integers(1, 50))
def test_the_middle_is_cut(length, most):
    sequence = "".join(chr(ord("A") + i) for i in range(length))
    kept = keep_ends(sequence, most)
    assert kept == "".join(sequence[i] for i in kept_positions(length, most))
    if most is None or length <= most:
        assert kept == sequence
    else:
        assert len(kept) == most
        first = sequence[: -(-most // 2)]
        assert kept.startswith(first)
        assert sequence.endswith(kept[len(first) :])


@given(st.data(), st.integers(1, 30), st.integers(1, 20), st.booleans())
def test_residues_keep_their_own_class(tmp_path_factory, data, length, most, stop):
    sequence = data.draw(st.text(LETTERS, min_size=length, max_size=length))
    mask = data.draw(st.text("01", min_size=length, max_size=length).filter(lambda m: "1" in m))
    target = data.draw(st.text("HEC", min_size=length, max_size=length))
    anything = "".join(t if m == "1" else "?" for t, m in zip(target, mask, strict=True))
    path = tmp_path_factory.mktemp("residues") / "a.fasta"
    # A second protein, since one whose seen residues are all masked is left out.
    rows = [("a", sequence + "*" * stop, anything, "train", mask), ("b", "MK", "HE", "train")]
    write(path, *rows)
    read = source(path, kind="residue_to_class", classes=tuple("HEC"), max_length=most).read()
    positions = kept_positions(length, most)
    if all(mask[i] == "0" for i in positions):
        assert [r.name for r in read.rejections] == ["a"]
        return
    protein = read.proteins[0]
    assert protein.sequence == "".join(sequence[i] for i in positions)
    assert isinstance(protein.target, np.ndarray)
    assert protein.target.dtype == np.int64
    expected = ["HEC".index(target[i]) if mask[i] == "1" else MASKED for i in positions]
    assert protein.target.tolist() == expected


def test_residues_with_wrong_targets(path):
    options = {"kind": "residue_to_class", "classes": ("H", "E")}
    write(path, ("a", "MKVL", "HHH", "train"))
    with pytest.raises(ValueError, match="line 1: a has a TARGET of 3 characters, expected 4"):
        source(path, **options).read()
    write(path, ("a", "MKVL", "HHCH", "train"))
    with pytest.raises(ValueError, match="class 'C' at residue 3, expected one of .*: H, E"):
        source(path, **options, max_length=2).read()


def test_mask_without_residues_to_learn_is_no_silent_option(path):
    write(path, ("a", "MKVL", "Nucleus", "train", "1101"))
    with pytest.raises(ValueError, match="a has a MASK, expected none with data.kind=sequence_to"):
        source(path).read()


def test_letters_the_model_does_not_know(path):
    write(path, ("a", "MJK-V*L**", "Nucleus", "train"), ("b", LETTERS + "*", "Nucleus", "train"))
    read = source(path).read()
    assert [p.sequence for p in read.proteins] == ["MXKXVXL", LETTERS]
    assert read.replaced == 3
    assert "3 letters replaced by X" in read.note()
    with pytest.raises(ValueError, match="line 1: a has 'J' at residue 2, expected one of"):
        source(path, letters="refuse").read()


def test_long_proteins_are_cropped_listed_or_refused(path, tmp_path):
    write(path, ("a", "MKVLA", "Nucleus", "train"), ("b", "MKVL", "Nucleus", "train"))
    cropped = source(path, max_length=4).read()
    assert [p.sequence for p in cropped.proteins] == ["MKLA", "MKVL"]
    assert cropped.cropped == ("a",)
    assert "1 cropped" in cropped.note()
    left = source(path, max_length=4, long="leave_out").read()
    assert [p.name for p in left.proteins] == ["b"]
    assert left.rejections == (Rejection(1, "a", "5 residues, longer than 4"),)
    write_rejections(tmp_path / "rejected.csv", left.rejections)
    assert (tmp_path / "rejected.csv").read_text().splitlines() == [
        "line,name,reason",
        '1,a,"5 residues, longer than 4"',
    ]
    with pytest.raises(ValueError, match="line 1: a has 5 residues, longer than 4"):
        source(path, max_length=4, long="refuse").read()
    assert source(path, max_length=None).read().proteins[0].sequence == "MKVLA"


def test_the_same_record_twice_is_one_protein(path):
    write(path, *[("a", "MK", "Nucleus", "train")] * 2)
    read = source(path).read()
    assert [p.name for p in read.proteins] == ["a"]
    assert read.rejections == (Rejection(3, "a", "the same record as at line 1"),)


def test_leaks_and_contradictions_are_warned_of(path):
    clean = [("a", "MK", "Nucleus", "train"), ("b", "MV", "Nucleus", "val")]
    write(path, *clean, ("c", "ML", "Nucleus", "test"))
    assert source(path).read().warnings == ()
    write(
        path,
        *clean,
        ("c", "MK", "Nucleus", "test"),
        ("d", "MV", "Cell_membrane", "test"),
        ("e", "MK", "Nucleus", "val"),
        ("f", "MW", "Nucleus", "hard"),
    )
    read = source(path).read()
    assert len(read) == 6
    first, second, third = read.warnings
    assert first.startswith("1 of 2 proteins of the val set")
    assert second.startswith("2 of 2 proteins of the test set")
    assert third == "1 sequences have several names and different targets"
    assert all(warning in read.note() for warning in read.warnings)


def test_limit_draws_from_training_and_validation_once_and_for_all(path):
    parts = ["train"] * 60 + ["val"] * 20 + ["test"] * 20
    write(path, *[(f"p{i}", "MK", "Nucleus", part) for i, part in enumerate(parts)])
    everything = [p.name for p in source(path).read().proteins]
    read = source(path, limit=30).read()
    names = [p.name for p in read.proteins]
    assert names == [name for name in everything if name in set(names)]
    assert names != everything[:30] + everything[80:]
    counts = read.parts
    assert list(counts) == ["train", "val", "test"]
    assert counts["train"] + counts["val"] == 30
    assert counts["test"] == 20
    assert read.undrawn == 50
    assert [p.name for p in source(path, limit=30).read().proteins] == names
    assert len(source(path, limit=80).read()) == 100


def test_proteins_to_predict_are_left_to_others(path):
    rows = [("a", "MK", None, "pred"), ("b", "MJ" * 5, "Nucleus", "test")]
    write(path, *rows)
    read = source(path).read()
    assert [p.name for p in read.proteins] == ["b"]
    assert read.unlabelled == 1
    seen = source(path, max_length=4).as_seen(read.proteins[0].record)
    assert (seen.sequence, seen.replaced, seen.cropped) == ("MXMX", 5, 6)
    write(path, rows[0])
    with pytest.raises(
        ValueError, match="no protein to learn from among 1 records; 1 are to predict"
    ):
        source(path).read()


def test_a_site_reads_the_file_in_its_folder(tmp_path):
    with pytest.raises(ValueError, match=f"{SITE_FILE}: no such file, expected proteins as FASTA"):
        site_source(tmp_path, source("sample"))
    write(tmp_path / SITE_FILE, ("a", "MK", "Nucleus", "train"))
    at_site = site_source(tmp_path, source("sample", max_length=1))
    assert [p.sequence for p in at_site.read().proteins] == ["M"]
    with pytest.raises(ValueError, match=r"data.path=.*absent: no such file"):
        source(tmp_path / "absent").read()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "data.limit=0, expected at least 1"),
        ({"max_length": 0}, "data.max_length=0"),
        ({"classes": ("Nucleus",)}, "expected at least two different names"),
        ({"classes": ("Nucleus", "Nucleus")}, "expected at least two different names"),
        ({"classes": ("Nucleus", "Cell membrane")}, "expected names without spaces"),
        ({"kind": "sequence_to_value"}, "expected none: a value has no class"),
        ({"kind": "residue_to_class"}, "expected names of one letter"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        source("sample", **options)


@pytest.mark.parametrize(("table", "limit"), [("counts_all", None), ("counts_len_le_512", 512)])
def test_deeploc_is_read_whole_and_quickly(shared_data, table, limit):
    with (shared_data / "deeploc" / f"{table}.csv").open() as file:
        expected = {
            (row["label"], part): int(row[part])
            for row in csv.DictReader(file)
            if row["label"] != "TOTAL"
            for part in ("train", "val", "test")
        }
    classes = tuple(sorted({label for label, _ in expected}))
    asked = ProteinSource(
        path=str(shared_data / "deeploc" / "mixed_soft_rebuilt.fasta.gz"),
        classes=classes,
        max_length=limit,
        long="leave_out",
    )
    start = time.process_time()
    read = asked.read()
    seconds = time.process_time() - start
    assert Counter((classes[int(p.target)], p.record.part) for p in read.proteins) == expected
    assert len(read) + len(read.rejections) == 13_362
    assert len(replace(asked, long="crop").read()) == 13_362
    assert seconds < 1
