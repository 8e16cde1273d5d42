"""Clusters of like sequences: near relatives together, strangers apart, whatever the order."""

import numpy as np
import pytest

from openfl_flows.data.proteins.clusters import cluster_sequences
from openfl_flows.data.proteins.fasta import read_fasta
from openfl_flows.data.proteins.source import SAMPLE

RESIDUES = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
RNG = np.random.Generator(np.random.PCG64(0))
STRANGERS = ["".join(RNG.choice(RESIDUES, 250)) for _ in range(40)]


def mutated(sequence: str, share: float, rng: np.random.Generator) -> str:
    """A relative with about this share of residues replaced by others."""
    letters = np.array(list(sequence))
    hit = rng.random(len(letters)) < share
    letters[hit] = [rng.choice(np.setdiff1d(RESIDUES, letter)) for letter in letters[hit]]
    return "".join(letters)


def clusters(sequences, identity=0.3):
    return cluster_sequences(
        [f"p{i:03}" for i in range(len(sequences))], sequences, identity=identity
    )


def test_strangers_are_alone():
    assert clusters(STRANGERS) == [f"p{i:03}" for i in range(len(STRANGERS))]


def test_near_relatives_are_together():
    relatives = [mutated(sequence, 0.3, RNG) for sequence in STRANGERS]
    found = clusters(STRANGERS + relatives)
    together = sum(a == b for a, b in zip(found[:40], found[40:], strict=True))
    assert together >= 38
    assert len(set(found)) == 80 - together


def test_gaps_part_nobody():
    whole = STRANGERS[0]
    shorter = whole[:100] + whole[120:]
    longer = whole[:60] + STRANGERS[1][:15] + whole[60:]
    assert len(set(clusters([whole, shorter, longer]))) == 1


def test_relatives_of_relatives_are_together():
    first, third = STRANGERS[0], STRANGERS[1]
    second = first[:125] + third[125:]
    assert len(set(clusters([first, third], 0.45))) == 2
    assert len(set(clusters([first, second, third], 0.45))) == 1


def test_identity_is_of_the_shorter_sequence():
    fragment, common = STRANGERS[0][50:150], STRANGERS[1] + STRANGERS[0][:50]
    assert len(set(clusters([STRANGERS[0], fragment], 0.95))) == 1
    assert len(set(clusters([STRANGERS[0], common], 0.25))) == 2
    assert len(set(clusters([STRANGERS[0], common], 0.15))) == 1


def test_a_higher_identity_only_divides_clusters():
    family = [mutated(STRANGERS[0], share, RNG) for share in np.linspace(0, 0.5, 12)]
    coarse, fine = (clusters(family, identity) for identity in (0.4, 0.8))
    assert len(set(fine)) > len(set(coarse))
    assert len(set(zip(coarse, fine, strict=True))) == len(set(fine))


def test_the_order_of_proteins_changes_nothing():
    records = read_fasta(SAMPLE)[:800]
    names = [record.name for record in records]
    sequences = [record.sequence for record in records]
    found = dict(zip(names, cluster_sequences(names, sequences, identity=0.3), strict=True))
    assert len(set(found.values())) < len(names)
    for name, cluster in found.items():
        assert cluster <= name
        assert found[cluster] == cluster
    for order in (np.arange(len(names))[::-1], RNG.permutation(len(names))):
        mixed = [names[i] for i in order]
        again = cluster_sequences(mixed, [sequences[i] for i in order], identity=0.3)
        assert dict(zip(mixed, again, strict=True)) == found


def test_letters_and_lengths_of_every_kind():
    odd = ["", "M", "MKV", "MKV", "X" * 60, "X" * 70, "A" * 300, "JU-O*" * 20]
    found = clusters(odd)
    assert found[2] == found[3] == "p002"
    assert len(set(found)) == len(odd) - 1
    stop = STRANGERS[0] + "*"
    assert len(set(clusters([STRANGERS[0], stop, STRANGERS[0].replace("C", "U")]))) == 1


def test_clusters_are_kept_on_disk(tmp_path, monkeypatch):
    names = ["c", "a", "b"]
    sequences = [STRANGERS[0], STRANGERS[1], mutated(STRANGERS[0], 0.1, RNG)]
    first = cluster_sequences(names, sequences, identity=0.3, cache=tmp_path)
    assert first == ["b", "a", "b"] == cluster_sequences(names, sequences, identity=0.3)
    cluster_sequences(names, sequences, identity=0.4, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.delattr("openfl_flows.data.proteins.clusters._cluster")
    again = cluster_sequences(names[::-1], sequences[::-1], identity=0.3, cache=tmp_path)
    assert again == first[::-1]


@pytest.mark.parametrize(
    ("names", "identity", "message"),
    [
        (("a", "b"), 0.0, "identity is 0.0, expected above 0"),
        (("a", "b"), float("nan"), "identity is nan"),
        (("a", "a"), 0.3, "a name of a protein occurs twice"),
    ],
)
def test_what_cannot_be_clustered_is_refused(names, identity, message):
    with pytest.raises(ValueError, match=message):
        cluster_sequences(names, STRANGERS[:2], identity=identity)
