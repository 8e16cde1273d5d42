"""Partitions: every item at exactly one site, no site empty, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from openfl_flows.data.partition import (
    by_fractions,
    by_group,
    by_range,
    by_sizes,
    composition,
    dirichlet,
    iid,
)

SEEDS = st.integers(0, 2**32)


def assert_partition(parts, num, sites):
    assert len(parts) == sites
    for part in parts:
        assert part.dtype == np.int64
        assert len(part)
        assert (np.diff(part) > 0).all()
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(num))


def assert_equal(parts, others):
    for part, other in zip(parts, others, strict=True):
        np.testing.assert_array_equal(part, other)


@given(num=st.integers(1, 300), sites=st.integers(1, 9), seed=SEEDS)
def test_iid_is_an_even_partition(num, sites, seed):
    assume(sites <= num)
    parts = iid(num, sites=sites, seed=seed)
    assert_partition(parts, num, sites)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert_equal(parts, iid(num, sites=sites, seed=seed))


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), seed=SEEDS)
def test_by_sizes_has_those_sizes(sizes, seed):
    parts = by_sizes(sum(sizes), sizes, seed=seed)
    assert_partition(parts, sum(sizes), len(sizes))
    assert [len(part) for part in parts] == sizes


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=8), num=st.integers(80, 400))
def test_by_fractions_is_within_one_item(weights, num):
    fractions = [weight / sum(weights) for weight in weights]
    parts = by_fractions(num, fractions, seed=1)
    assert_partition(parts, num, len(weights))
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - fraction * num) < 1 + 1e-9


@given(
    labels=st.lists(st.integers(0, 4), min_size=20, max_size=200),
    sites=st.integers(1, 5),
    alpha=st.floats(0.3, 100),
    seed=SEEDS,
)
def test_dirichlet_is_a_partition(labels, sites, alpha, seed):
    parts = dirichlet(labels, sites=sites, alpha=alpha, seed=seed)
    assert_partition(parts, len(labels), sites)
    assert_equal(parts, dirichlet(labels, sites=sites, alpha=alpha, seed=seed))


@given(
    groups=st.lists(st.text("abc", max_size=2), min_size=1, max_size=100), sites=st.integers(1, 5)
)
def test_by_group_keeps_groups_whole(groups, sites):
    assume(len(set(groups)) >= sites)
    parts = by_group(groups, sites=sites)
    assert_partition(parts, len(groups), sites)
    seen = [{groups[i] for i in part} for part in parts]
    assert sum(map(len, seen)) == len(set(groups))
    largest = max(groups.count(group) for group in groups)
    assert max(map(len, parts)) - min(map(len, parts)) <= largest


def test_by_group_gives_the_largest_group_to_the_emptier_site():
    groups = ["small", "big", "big", "big", "", ""]
    assert [part.tolist() for part in by_group(groups, sites=2)] == [[1, 2, 3], [0, 4, 5]]


def test_by_group_does_not_depend_on_item_order():
    groups = [str(i % 17) for i in range(100)]
    where = {groups[i]: site for site, part in enumerate(by_group(groups, sites=3)) for i in part}
    back = groups[::-1]
    assert where == {back[i]: s for s, part in enumerate(by_group(back, sites=3)) for i in part}


def test_one_site_has_everything_in_order():
    labels = [1, 0, 1, 0, 0]
    for parts in (
        iid(5, sites=1, seed=9),
        by_sizes(5, [5], seed=9),
        by_fractions(5, [1.0], seed=9),
        dirichlet(labels, sites=1, alpha=0.1, seed=9),
        by_group([str(label) for label in labels], sites=1),
    ):
        assert [part.tolist() for part in parts] == [[0, 1, 2, 3, 4]]


def test_seeds_differ():
    first, second = (iid(100, sites=2, seed=seed)[0] for seed in (0, 1))
    assert (first != second).any()


def skew(alpha):
    labels = np.repeat(np.arange(5), 1000)
    table = composition(dirichlet(labels, sites=4, alpha=alpha, seed=0), labels)
    shares = np.array([row.counts for row in table]) / 1000
    return np.abs(shares - 0.25).mean()


def test_dirichlet_skew_falls_with_alpha():
    assert skew(0.1) > 0.2 > 0.05 > skew(1e4)


def test_dirichlet_takes_text_and_nan_as_classes():
    assert_partition(dirichlet(list("aabbccdd") * 5, sites=2, alpha=1, seed=0), 40, 2)
    values = [1.0, np.nan] * 20
    parts = dirichlet(values, sites=2, alpha=1, seed=0)
    assert [row.label for row in composition(parts, values)] == ["1.0", "nan"]


def test_dirichlet_honours_min_size():
    labels = np.zeros(60, dtype=int)
    assert min(map(len, dirichlet(labels, sites=4, alpha=0.5, seed=0, min_size=8))) >= 8


def test_composition_counts_everything_once():
    labels = ["x", "y", "x", "x"]
    parts = (np.array([0, 1]), np.array([2, 3]))
    rows = composition(parts, labels)
    assert [(row.label, row.counts) for row in rows] == [("x", (1, 2)), ("y", (1, 0))]
    with pytest.raises(ValueError, match="site 1 has item 3, but 3 labels"):
        composition(parts, labels[:3])


@given(
    st.lists(st.sampled_from([1.0, 2.0, 2.5, float("nan")]), min_size=4, max_size=60),
    st.integers(1, 4),
    SEEDS,
)
def test_ranges_rise_from_site_to_site_and_share_what_has_no_value(values, sites, seed):
    array = np.array(values)
    known = ~np.isnan(array)
    assume(known.sum() >= sites)
    parts = by_range(values, sites=sites, seed=seed)
    assert_partition(parts, len(values), sites)
    assert_equal(parts, by_range(values, sites=sites, seed=seed))
    ranges = [array[part][known[part]] for part in parts]
    for low, high in zip(ranges[:-1], ranges[1:], strict=True):
        assert low.max() <= high.min()
    for counts in ([len(r) for r in ranges], [(~known[part]).sum() for part in parts]):
        assert max(counts) - min(counts) <= 1


def test_ties_on_a_border_are_shared_out_at_random():
    # The first site takes all of the ten lower ones and ten of the thirty others.
    values = [8] * 10 + [9] * 30
    draws = {tuple(by_range(values, sites=2, seed=seed)[0]) for seed in range(5)}
    assert len(draws) == 5
    assert all(set(range(10)) < set(draw) for draw in draws)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: iid(3, sites=4, seed=0), "4 sites but 3 items"),
        (lambda: iid(3, sites=0, seed=0), "sites is 0"),
        (lambda: by_sizes(5, [5, 0], seed=0), "at least 1 item"),
        (lambda: by_sizes(5, [2, 2], seed=0), "sum to 4, expected 5"),
        (lambda: by_sizes(5, [], seed=0), "sites is 0"),
        (lambda: by_fractions(5, [0.5, 0.4], seed=0), "sum to 0.9, expected 1"),
        (lambda: by_fractions(5, [1.5, -0.5], seed=0), "each above 0"),
        (lambda: by_fractions(5, [0.5, float("nan")], seed=0), "each above 0"),
        (lambda: by_fractions(5, [0.99, 0.01], seed=0), r"give sizes \(5, 0\)"),
        (lambda: dirichlet([0, 1], sites=3, alpha=1, seed=0), "3 sites but 2 items"),
        (lambda: dirichlet([0, 1], sites=2, alpha=0, seed=0), "alpha is 0"),
        (lambda: dirichlet([0, 1], sites=2, alpha=float("nan"), seed=0), "alpha is nan"),
        (lambda: dirichlet([0, 1], sites=2, alpha=1, seed=0, min_size=2), "min_size is 2"),
        (lambda: dirichlet([0] * 50, sites=8, alpha=1e-3, seed=0), "raise alpha or lower"),
        (lambda: by_group(["a", "a", "b"], sites=3), "3 sites but 2 groups"),
        (lambda: by_group([], sites=1), "1 sites but 0 items"),
        (lambda: by_range([1, 2, float("nan")], sites=3, seed=0), "3 sites but 2 items"),
    ],
)
def test_impossible_partitions_say_the_numbers(call, message):
    with pytest.raises(ValueError, match=message):
        call()
