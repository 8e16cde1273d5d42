"""How unlike the sites' data are."""

import numpy as np
import pytest

from openfl_flows.data.molecule_sites import PartitionConfig, deal, skew_table
from openfl_flows.data.skew import divergence
from openfl_flows.data.source import MoleculeSource

MOLECULES, _ = MoleculeSource(limit=300).read(("C", "N", "O", "F"), 9)
SITES = ("a", "b", "c")


def columns(config):
    names, rows = skew_table(deal(MOLECULES, SITES, config, 0), config)
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


# A site with one of two equally common classes: P = (1, 0), Q = (1/2, 1/2), M = (3/4, 1/4).
# KL(P, M) = log2(4/3) = 0.415037, KL(Q, M) = (log2(2/3) + log2 2) / 2 = 0.207519; half their sum.
def test_by_hand() -> None:
    known = np.ones(4, dtype=bool)
    parts = (np.array([0, 1]), np.array([2, 3]))
    assert divergence(["x", "x", "y", "y"], parts, known) == pytest.approx((0.311278, 0.311278))
    assert divergence(["x", "y", "x", "y"], parts, known) == pytest.approx((0, 0))


def test_what_is_unknown_does_not_count() -> None:
    known = np.array([True, False, True, True])
    parts = (np.array([0, 1]), np.array([2, 3]))
    found = divergence([1, 9, 1, 1], parts, known)
    assert found == pytest.approx((0, 0))
    assert np.isnan(divergence([1, 9], (np.array([0]), np.array([1])), known[:2])[1])


@pytest.mark.parametrize("by", ["atoms", "rings", "mu", "homo"])
def test_a_split_by_ranges_is_skewed_in_what_it_is_split_by(by) -> None:
    iid = columns(PartitionConfig())
    ranges = columns(PartitionConfig(name="ranges", by=by))
    assert ranges["site"] == list(SITES)
    assert min(ranges[by]) > 1.5 * max(iid[by])
    assert np.mean(ranges[by]) > 5 * np.mean(iid[by])
