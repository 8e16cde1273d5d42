"""Distribution measures against plain implementations of their definitions, and their order."""

import csv
import gzip
import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import BRICS, Descriptors, rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold

from openfl_flows.data.molecules import read_molecules
from openfl_flows.data.source import SAMPLE
from openfl_flows.metrics.distribution import (
    CONTINUOUS,
    COUNTED,
    MoleculeSet,
    compare,
    count_similarity,
    internal_diversity,
    kl_divergences,
    nearest_similarity,
)

SCORES = ("kl_score", "snn", "scaffold_similarity", "fragment_similarity")


@pytest.fixture(scope="module")
def real():
    smiles = list(read_molecules(SAMPLE, limit=400)[0].smiles)
    random.Random(1).shuffle(smiles)
    return MoleculeSet(smiles[:120]), MoleculeSet(smiles[120:280])


def tanimoto(a, b, size):
    bits = [
        {
            *rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=size)
            .GetFingerprint(m)
            .GetOnBits()
        }
        for m in (a, b)
    ]
    return len(bits[0] & bits[1]) / len(bits[0] | bits[1])


def kernel_density(values, at):
    """A Gaussian kernel density estimate with Scott's bandwidth, from its definition."""
    width = np.std(values, ddof=1) * len(values) ** (-1 / 5)
    steps = (at[:, None] - values[None]) / width
    return np.exp(-(steps**2) / 2).sum(1) / (len(values) * width * math.sqrt(2 * math.pi))


def divergence(p, q):
    p, q = (side / side.sum() for side in (p, q))
    return float((p * np.log(p / q)).sum())


def test_similarities_are_their_definitions(real):
    a, b = real
    rows = np.array([[tanimoto(x, y, 1024) for y in b.molecules] for x in a.molecules])
    assert nearest_similarity(a, b) == pytest.approx(rows.max(1).mean())
    square = np.array([[tanimoto(x, y, 1024) for y in a.molecules] for x in a.molecules])
    assert internal_diversity(a) == pytest.approx(1 - square.mean())
    roots = np.sqrt((square**2).mean(1))
    assert internal_diversity(a, power=2) == pytest.approx(1 - roots.mean())


def test_divergences_are_their_definitions(real):
    a, b = (part.subset(100, seed=3) for part in real)
    found = kl_divergences(a, b)
    functions = dict(Descriptors.descList)
    assert found.keys() == {*CONTINUOUS, *COUNTED, "internal_similarity"}
    for name in CONTINUOUS:
        p, q = (np.array([functions[name](m) for m in part.molecules]) for part in (b, a))
        at = np.linspace(min(*p, *q), max(*p, *q), 1000)
        by_hand = divergence(kernel_density(p, at) + 1e-10, kernel_density(q, at) + 1e-10)
        assert found[name] == pytest.approx(by_hand, rel=1e-6), name
    for name in COUNTED:
        p, q = (np.array([functions[name](m) for m in part.molecules]) for part in (b, a))
        edges = np.linspace(p.min(), p.max() if np.ptp(p) else p.min() + 1, 11)
        edges = edges if np.ptp(p) else np.linspace(p[0] - 0.5, p[0] + 0.5, 11)
        counts = []
        for side in (p, q):
            inside = side[(side >= edges[0]) & (side <= edges[-1])]
            bins = [((inside >= lo) & (inside < hi)).sum() for lo, hi in itertools.pairwise(edges)]
            bins[-1] += (inside == edges[-1]).sum()
            counts.append(np.array(bins) / (len(inside) * (edges[1] - edges[0])) + 1e-10)
        assert found[name] == pytest.approx(divergence(*counts), rel=1e-6, abs=1e-9), name
    nearest = []
    for part in (b, a):
        square = np.array([[tanimoto(x, y, 4096) for y in part.molecules] for x in part.molecules])
        np.fill_diagonal(square, 0)
        nearest.append(square.max(1))
    at = np.linspace(min(map(min, nearest)), max(map(max, nearest)), 1000)
    by_hand = divergence(*(kernel_density(side, at) + 1e-10 for side in nearest))
    assert found["internal_similarity"] == pytest.approx(by_hand, rel=1e-6)


def test_scaffolds_and_fragments_are_their_definitions(real):
    a, b = real
    scaffolds = {}
    for molecule in a.molecules:
        scaffold = MurckoScaffold.GetScaffoldForMol(molecule)
        if scaffold.GetRingInfo().NumRings() >= 2:
            name = Chem.MolToSmiles(scaffold)
            scaffolds[name] = scaffolds.get(name, 0) + 1
    assert dict(a.scaffolds) == scaffolds
    larger = MoleculeSet(["CC(=O)NCc1ccccc1", "CCOC(=O)C1CCN(C)C1", "CC"])
    pieces = [Chem.MolToSmiles(BRICS.BreakBRICSBonds(m)).split(".") for m in larger.molecules]
    assert max(map(len, pieces)) >= 3
    assert larger.fragments == Counter(itertools.chain(*pieces))
    x, y = {"a": 3, "b": 4}, {"b": 2, "c": 5}
    assert count_similarity(x, y) == pytest.approx(8 / (5 * math.sqrt(29)))
    assert math.isnan(count_similarity({}, y))
    assert compare(a, b)["fragment_similarity"] == count_similarity(a.fragments, b.fragments)


def test_a_set_compared_with_itself_scores_one(real):
    found = compare(real[0], real[0], real[0])
    for name in (*SCORES, "snn_train"):
        assert found[name] == pytest.approx(1), name
    assert found["num_measured"] == found["num_reference"] == 120


def test_a_corrupted_set_scores_lower(real):
    honest = compare(real[0], real[1])
    rings = MoleculeSet(["C1CC1" + "C" * n for n in range(60)] + ["F" + "C" * n for n in range(60)])
    corrupted = compare(rings, real[1])
    for name in ("kl_score", "snn", "fragment_similarity", "internal_diversity"):
        assert corrupted[name] < honest[name], name
    repeated = MoleculeSet(real[0].smiles[:10] * 12)
    for name in ("internal_diversity", "internal_diversity_2"):
        assert compare(repeated, real[1])[name] < honest[name]


def test_copies_of_the_training_set_are_nearer_to_it_than_to_the_test_set(real):
    found = compare(real[0], real[1], real[0].subset(100))
    assert found["snn_train"] > found["snn"]


def test_what_is_no_molecule_is_left_out_and_stereochemistry_ignored():
    found = MoleculeSet(["C[C@H](N)O", None, "", "no", "C[C@@H](N)O"])
    assert found.smiles == ("CC(N)O", "CC(N)O")
    assert len(found) == 2
    assert len(found.distinct) == 1


def test_sets_too_small_to_measure_say_only_their_size():
    one = MoleculeSet(["CC", "CC"])
    assert compare(one, one) == {"num_measured": 2, "num_reference": 2}


def test_a_constant_descriptor_diverges_without_bound_or_not_at_all():
    flat, wide = MoleculeSet(["CCC", "CC"]), MoleculeSet(["CCO", "NCCN", "OCC=O"])
    found = kl_divergences(flat, wide)
    assert found["TPSA"] == math.inf
    assert kl_divergences(flat, flat)["TPSA"] == 0
    assert 0 <= compare(flat, wide)["kl_score"] < 0.5


def test_subsets_repeat_and_never_grow(real):
    part = real[0].subset(30, seed=1)
    assert part.smiles == real[0].subset(30, seed=1).smiles
    assert part.smiles != real[0].subset(30, seed=2).smiles
    assert len(part) == 30
    assert real[0].subset(1000) is real[0]


def test_two_halves_of_qm9_are_alike(shared_data):
    with gzip.open(shared_data / "qm9" / "qm9.csv.gz", "rt") as file:
        smiles = [row["smiles"] for row in itertools.islice(csv.DictReader(file), 40_000, 60_000)]
    random.Random(0).shuffle(smiles)
    found = compare(MoleculeSet(smiles[:500]), MoleculeSet(smiles[500:1000]))
    assert found["kl_score"] > 0.95
