"""The embedded protein sample and the script that makes it."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from openfl_flows.data import make_protein_sample
from openfl_flows.data.proteins.fasta import read_fasta
from openfl_flows.data.proteins.signals import GROUPS
from openfl_flows.data.proteins.source import SAMPLE, ProteinSource

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture(scope="module")
def records():
    return read_fasta(SAMPLE)


def test_the_script_gives_the_shipped_file(tmp_path):
    made = tmp_path / "proteins.fasta"
    make_protein_sample.main(["--out", str(made)])
    assert made.read_bytes() == SAMPLE.read_bytes()
    make_protein_sample.main(["--out", str(made), "--seed", "1"])
    assert made.read_bytes() != SAMPLE.read_bytes()


def test_sizes_and_classes(records):
    assert SAMPLE.stat().st_size < 500_000
    per_class = Counter((r.part, r.target) for r in records)
    for part, size in {"train": 1500, "val": 300, "test": 600}.items():
        shares = {label: per_class[part, label] / size for label in make_protein_sample.CLASSES}
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares.values()) > 0.02
        assert max(shares, key=shares.get) == "Nucleus"
    lengths = [len(r.sequence) for r in records]
    assert min(lengths) >= 60
    assert max(lengths) <= 350
    assert 135 < np.mean(lengths) < 160
    assert {r.sequence[0] for r in records} == {"M"}


def test_the_note_has_nothing_to_warn_of():
    classes = tuple(make_protein_sample.CLASSES)
    read = ProteinSource(classes=classes).read()
    assert read.note() == "2,400 proteins (1,500 train, 300 val, 600 test)"
    assert len({p.sequence for p in read.proteins}) == 2400


def test_kingdoms_have_their_own_mix(records):
    mix = Counter((r.attributes["KINGDOM"], r.target) for r in records)
    total = Counter(r.attributes["KINGDOM"] for r in records)
    assert set(total) == {"Metazoa", "Fungi", "Viridiplantae", "Other"}
    assert min(total.values()) > 100
    assert {kingdom for kingdom, label in mix if label == "Plastid"} == {"Viridiplantae"}
    share = {k: mix[k, "Cell_membrane"] / total[k] for k in total}
    assert share["Metazoa"] > 2 * share["Fungi"]


def test_relatives_are_in_one_set(records):
    """Relatives differ by substitutions, so they have one length and agree place by place."""
    by_length = {}
    for record in records:
        by_length.setdefault(len(record.sequence), []).append(record)
    related = set()
    for length, same in by_length.items():
        letters = np.array([[ord(c) for c in r.sequence] for r in same])
        for i, j in combinations(range(len(same)), 2):
            if (letters[i] == letters[j]).sum() > 0.5 * length:
                a, b = same[i], same[j]
                assert (a.part, a.target, a.attributes) == (b.part, b.target, b.attributes)
                related |= {a.name, b.name}
    assert 0.25 < len(related) / len(records) < 0.4


def test_signals_are_common_in_their_class_and_rare_elsewhere(records):
    def share(label, inside, has):
        chosen = [r.sequence for r in records if (r.target == label) == inside]
        return np.mean([has(sequence) for sequence in chosen])

    ends = {
        "Peroxisome": lambda s: s[-3] in "SAC" and s[-2] in "KRH" and s[-1] in "LM",
        "Endoplasmic_reticulum": lambda s: s[-4:] in ("KDEL", "HDEL") or s[-4:-2] == "KK",
        "Plastid": lambda s: not set(s[:28]) & set("DE") and sum(map(s[:28].count, "STA")) > 11,
        "Mitochondrion": lambda s: not set(s[:15]) & set("DE") and s[:15].count("R") > 2,
    }
    for label, has in ends.items():
        assert share(label, True, has) > 0.5
        assert share(label, False, has) < 0.05


def test_patterns_are_made_of_residues():
    header, *rows = make_protein_sample.COMPOSITION.strip().splitlines()
    assert header.split() == list(RESIDUES)
    assert [row.split()[0] for row in rows] == list(make_protein_sample.CLASSES)
    assert all(990 < sum(map(int, row.split()[1:])) < 1010 for row in rows)
    assert set("".join(GROUPS.values())) <= set(RESIDUES)


def test_composition_tells_classes_apart_but_not_all(records):
    def features(sequence):
        parts = (sequence, sequence[:30], sequence[-10:])
        return [part.count(residue) / len(part) for part in parts for residue in RESIDUES]

    x = np.array([features(r.sequence) for r in records])
    y = np.array([r.target for r in records])
    part = np.array([r.part for r in records])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    model.fit(x[part == "train"], y[part == "train"])
    assert 0.45 < model.score(x[part == "test"], y[part == "test"]) < 0.92
