"""Counts of sites add up to the counts of the pooled data."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from openfl_flows.models.digress import (
    QM9_PUBLISHED,
    GraphStatistics,
    count_statistics,
    merge_counts,
    statistics_from_counts,
)
from tests.unit.models.digress.digress_graphs import random_graphs


def site(num, seed):
    graphs = random_graphs(num, seed)
    targets = np.random.default_rng(seed).normal([2.7, -6.5], [1.5, 0.5], (num, 2))
    targets[::3, 0] = np.nan
    return graphs.atoms.numpy(), graphs.bonds.numpy(), targets.astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(4, 12), min_size=1, max_size=4))
def test_merged_counts_are_pooled_counts(sizes):
    sites = [site(size, seed) for seed, size in enumerate(sizes)]
    merged = merge_counts([count_statistics(*data, 4) for data in sites])
    pooled = count_statistics(*(np.concatenate(part) for part in zip(*sites, strict=True)), 4)
    assert merged.keys() == pooled.keys()
    for key in merged:
        assert_allclose(merged[key], pooled[key], rtol=1e-12)


def test_statistics_by_hand():
    atoms, bonds, targets = site(200, 0)
    found = statistics_from_counts(count_statistics(atoms, bonds, targets, 4))
    sizes = (atoms >= 0).sum(1)
    seen = np.bincount(sizes, minlength=10)
    assert_allclose(found.node_counts, [0, *(seen[1:] + 1) / 209])
    seen = np.bincount(atoms[atoms >= 0], minlength=4)
    assert_allclose(found.atom_marginals, (seen + 1) / (sizes.sum() + 4))
    pairs = (sizes * (sizes - 1)).sum()
    assert_allclose(found.bond_marginals[3], ((bonds == 3).sum() + 1) / (pairs + 4))
    assert_allclose(found.target_mean, np.nanmean(targets, 0), rtol=1e-6)
    assert_allclose(found.target_std, np.nanstd(targets, 0), rtol=1e-5)


def test_a_size_or_class_that_no_training_molecule_has_is_still_possible():
    atoms, bonds, targets = site(10, 0)
    atoms, bonds = np.where(atoms == 3, 0, atoms), np.minimum(bonds, 1)
    found = statistics_from_counts(count_statistics(atoms, bonds, targets, 4))
    assert min(found.node_counts[1:]) > 0
    assert min(found.atom_marginals) > 0
    assert min(found.bond_marginals[:4]) > 0
    assert found.node_counts[0] == found.bond_marginals[4] == 0


def test_missing_targets_get_the_neutral_scale():
    atoms, bonds, targets = site(10, 0)
    found = statistics_from_counts(count_statistics(atoms, bonds, targets * np.nan, 4))
    assert found.target_mean == (0.0, 0.0)
    assert found.target_std == (1.0, 1.0)


def test_what_does_not_fit_is_refused():
    atoms, bonds, targets = site(10, 0)
    with pytest.raises(ValueError, match="atom class 3; expected classes below 2"):
        count_statistics(atoms, bonds, targets, 2)
    with pytest.raises(ValueError, match="bond classes 0 to 7"):
        count_statistics(atoms, np.full_like(bonds, 7) * (bonds > 0), targets, 4)
    counts = count_statistics(atoms, bonds, targets, 4)
    with pytest.raises(ValueError, match=r"node_counts of site 1 has shape \(9,\); not \(10,\)"):
        merge_counts([counts, counts | {"node_counts": counts["node_counts"][:-1]}])
    with pytest.raises(ValueError, match="no counts"):
        merge_counts([])
    with pytest.raises(ValueError, match="node_counts sums to 0"):
        statistics_from_counts({key: value * 0 for key, value in counts.items()})
    with pytest.raises(ValueError, match="expected probabilities"):
        GraphStatistics(
            node_counts=(0.5,), atom_marginals=(1.0,), bond_marginals=(1.0, 0.0, 0.0, 0.0, 0.0),
            target_mean=(0.0, 0.0), target_std=(1.0, 1.0),
        )  # fmt: skip


def test_published_statistics_sum_to_one():
    for shares in (QM9_PUBLISHED.node_counts, QM9_PUBLISHED.atom_marginals):
        assert_allclose(sum(shares), 1.0)
    assert torch.tensor(QM9_PUBLISHED.bond_marginals).argmax() == 0


def test_published_target_scale_is_that_of_labelled_qm9(shared_data):
    file = shared_data / "qm9" / "qm9_labelled.csv.gz"
    table = np.genfromtxt(file, delimiter=",", names=True, usecols=(1, 2), comments=None)
    homo = table["homo"] * 27.211386246
    assert len(table) == 36_364
    assert_allclose(QM9_PUBLISHED.target_mean, (table["mu"].mean(), homo.mean()), rtol=1e-5)
    assert_allclose(QM9_PUBLISHED.target_std, (table["mu"].std(), homo.std()), rtol=1e-5)
