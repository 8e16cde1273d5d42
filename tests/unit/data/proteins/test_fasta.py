"""Reading and writing biotrainer's FASTA: nothing is lost or passed over in silence."""

import gzip
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_flows.data.proteins.fasta import Record, read_fasta, write_fasta

WORDS = st.text("ABCXYZabcxyz0189_.:;/-|", min_size=1, max_size=8)
SEQUENCES = st.text("ACDEFGHIKLMNPQRSTVWYX", min_size=1, max_size=70)


@st.composite
def record_lists(draw: st.DrawFn) -> list[Record]:
    found = []
    for name in draw(st.lists(WORDS, min_size=1, max_size=6, unique=True)):
        sequence = draw(SEQUENCES)
        part = draw(st.sampled_from(("train", "val", "pred", "test", "hard")))
        target = draw(st.none() | WORDS) if part == "pred" else draw(WORDS)
        mask = draw(st.none() | st.just("1" + "0" * (len(sequence) - 1)))
        attributes = draw(st.dictionaries(st.sampled_from(("KINGDOM", "SITE", "PART_")), WORDS))
        found.append(
            Record(name, sequence, target, part, mask, attributes, line=1 + 2 * len(found))
        )
    return found


@settings(max_examples=60, deadline=None)
@given(record_lists())
def test_what_is_written_is_read_back(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("fasta") / "new" / "proteins.fasta"
    write_fasta(path, records)
    assert list(read_fasta(path)) == records


@settings(max_examples=60, deadline=None)
@given(
    record_lists(),
    st.integers(1, 20),
    st.sampled_from(("\n", "\r\n", "\r")),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_layout_of_a_file_does_not_matter(
    tmp_path_factory, records, width, newline, bom, packed, small
):
    folder = tmp_path_factory.mktemp("layout")
    write_fasta(folder / "plain.fasta", records)
    lines = []
    for line in (folder / "plain.fasta").read_text().splitlines():
        if line.startswith(">"):
            lines += ["", line + " "]
        else:
            line = line.lower() if small else line
            lines += [line[i : i + width] + " " for i in range(0, len(line), width)] + [""]
    content = newline.join(lines).encode("utf-8-sig" if bom else "utf-8")
    (folder / "other.txt").write_bytes(gzip.compress(content) if packed else content)
    read = read_fasta(folder / "other.txt")
    assert [replace(r, line=0) for r in read] == [replace(r, line=0) for r in records]


def test_validation_in_the_old_spelling(tmp_path):
    path = tmp_path / "old.fasta"
    path.write_text(
        ">a TARGET=N SET=train VALIDATION=True\nMK\n>b TARGET=N SET=TRAIN VALIDATION=False\nMK\n"
        ">c TARGET=N SET=Test\nMK\n>d SET=pred\nMK\n"
    )
    records = read_fasta(path)
    assert [r.part for r in records] == ["val", "train", "test", "pred"]
    assert not any(r.attributes for r in records)
    write_fasta(tmp_path / "new.fasta", records)
    assert "VALIDATION" not in (tmp_path / "new.fasta").read_text()


def test_words_that_are_no_key_are_comments_and_values_keep_their_signs(tmp_path):
    path = tmp_path / "a.fasta"
    path.write_text("> P1 some protein TARGET=Lysosome/Vacuole;x=1 OX=9606\tSET=train\nMKV*\n")
    (record,) = read_fasta(path)
    assert (record.name, record.target, record.part) == ("P1", "Lysosome/Vacuole;x=1", "train")
    assert record.attributes == {"OX": "9606"}
    assert (record.sequence, record.line) == ("MKV*", 1)


def test_a_part_for_records_without_one(tmp_path):
    path = tmp_path / "a.fasta"
    path.write_text(">sp|P1|X_HUMAN Protein OS=Homo sapiens\nMK\n>b SET=train TARGET=N\nMK\n")
    assert [r.part for r in read_fasta(path, default_part="pred")] == ["pred", "train"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty, expected FASTA"),
        ("\n\n", "the file is empty"),
        ("MKV\n>a TARGET=N SET=train\nMK\n", "line 1: 'MKV' stands before the first header"),
        ('{"a": 1}', "line 1: this looks like JSON"),
        ("name,sequence\na,MK\n", r"looks like a table \(CSV\)"),
        ("LOCUS       AB1  9 aa\n", "looks like GenBank"),
        ("@read\nACGT\n+\nIIII\n", "looks like FASTQ"),
        ("<html>", "looks like XML or HTML"),
        ("version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("abc\0def", "binary file"),
        (">\nMK\n", "line 1: header '' has no name"),
        ("\n>TARGET=N SET=train\nMK\n", "line 2: header 'TARGET=N SET=train' has no name"),
        (">a TARGET=N\nMK\n", "line 1: a has no SET, expected SET=train, val, pred or a test set"),
        (">a SET=train\nMK\n", "line 1: a has no TARGET"),
        (">a TARGET= SET=train\nMK\n", "a has no TARGET"),
        (">a TARGET=N SET=train\n>b TARGET=N SET=train\nMK\n", "line 1: a has no sequence"),
        (">b TARGET=N SET=train\nMK\n>a TARGET=N SET=train\n*\n", "line 3: a has no sequence"),
        (">a target=N SET=train\nMK\n", "a has the key 'target', expected 'TARGET' in capitals"),
        (">a TARGET=N Set=train\nMK\n", "the key 'Set', expected 'SET'"),
        (">a TARGET=N SET=train VALIDATION=yes\nMK\n", "VALIDATION=yes, expected True or False"),
        (">a TARGET=N SET=validation\nMK\n", "has SET=validation, expected SET=val"),
        (">a TARGET=N SET=../x\nMK\n", "has SET=../x, expected letters"),
        (">a TARGET=N SET=train TARGET=C\nMK\n", "has TARGET=N and TARGET=C, expected one TARGET"),
        (">a TARGET=N SET=train MASK=101\nMK\n", "a MASK of 3 characters, expected 2"),
        (">a TARGET=N SET=train MASK=1x\nMK\n", "MASK that is not of 0 and 1"),
        (">a TARGET=N SET=train MASK=00\nMK\n", "with at least one 1"),
        (">a TARGET=N SET=train\nMK\nM1K\n", "line 3: '1' at position 2 of the line"),
        (">a TARGET=N SET=train\nMK V\n", "line 2: ' ' at position 3"),
        (">a TARGET=N SET=train\nMé\n", "line 2: 'é' at position 2"),
    ],
)
def test_what_is_malformed_is_said(tmp_path, content, message):
    path = tmp_path / "bad.fasta"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_fasta(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (">a TARGET=N SET=train\nMKK", "sequence"),
        (">a TARGET=C SET=train\nMK", "target"),
        (">a TARGET=N SET=test\nMK", "set"),
        (">a TARGET=N SET=train MASK=10\nMK", "mask"),
    ],
)
def test_a_name_stands_for_one_record(tmp_path, other, what):
    path = tmp_path / "a.fasta"
    first = ">a TARGET=N SET=train\nMK\n"
    path.write_text(first + other + "\n")
    with pytest.raises(ValueError, match=f"line 3: a is also at line 1 with another {what}"):
        read_fasta(path)
    path.write_text(first * 2)
    assert len(read_fasta(path)) == 2


def test_damaged_and_foreign_bytes(tmp_path):
    path = tmp_path / "a.fasta.gz"
    path.write_bytes(gzip.compress(b">a TARGET=N SET=train\n" + b"MKVLAW" * 5000)[:-30])
    with pytest.raises(ValueError, match="damaged gzip"):
        read_fasta(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8 text at byte"):
        read_fasta(path)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "two words"},
        {"name": "SET=x"},
        {"target": "Cell membrane"},
        {"target": ""},
        {"attributes": {"kingdom": "Fungi"}},
        {"attributes": {"MASK": "11"}},
    ],
)
def test_a_header_that_could_not_be_read_back_is_refused(tmp_path, change):
    good = Record("a", "MK", "N", "train", None, {}, 1)
    path = tmp_path / "a.fasta"
    write_fasta(path, [good])
    with pytest.raises(ValueError, match=r"cannot be written|no name for an attribute"):
        write_fasta(path, [good, replace(good, **change)])
    assert read_fasta(path) == (good,)
    assert list(tmp_path.iterdir()) == [path]


def test_both_spellings_of_deeploc_are_the_same_records(shared_data):
    current = read_fasta(shared_data / "deeploc" / "mixed_soft_rebuilt.fasta.gz")
    legacy = read_fasta(shared_data / "deeploc" / "mixed_soft_rebuilt.legacy.fasta.gz")
    assert len(current) == 13_362
    assert [replace(r, line=0) for r in current] == [replace(r, line=0) for r in legacy]
