"""Proteins dealt to sites: each once, in its part, by the rule; and the tables that show it."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.data import make_protein_sample
from openfl_flows.data.proteins.clusters import cluster_sequences
from openfl_flows.data.proteins.dealing import tutorial_parts
from openfl_flows.data.proteins.fasta import Record, write_fasta
from openfl_flows.data.proteins.sites import (
    ProteinPartition,
    SiteProteins,
    composition_table,
    deal,
    missing_classes,
    pool,
    skew_table,
)
from openfl_flows.data.proteins.source import Protein, ProteinSource

SITES = ("a", "b", "c")
KIND = "sequence_to_class"
CLASSES = tuple(make_protein_sample.CLASSES)
SOURCE = ProteinSource(classes=CLASSES)
SAMPLE = SOURCE.read().proteins
PROTEINS = tuple(
    # A second, small test set beside the first.
    replace(p, record=replace(p.record, part="hard"))
    if p.record.part == "test" and i % 9 == 0
    else p
    for i, p in enumerate(SAMPLE[:900])
)
RULES = [
    ProteinPartition(),
    ProteinPartition(name="sizes", fractions=(0.5, 0.3, 0.2)),
    ProteinPartition(name="dirichlet", alpha=0.5),
    ProteinPartition(name="attribute", attribute="KINGDOM"),
    ProteinPartition(name="clusters", identity=0.4),
    ProteinPartition(name="tutorial"),
]
CONFIGS = [replace(rule, tests=tests) for rule in RULES for tests in ("shared", "dealt")]
DEEPLOC = Path(__file__).parents[5] / "shared/data/deeploc/mixed_soft_rebuilt.fasta.gz"


def everyone(own: SiteProteins, *, tests: bool = True) -> list[Protein]:
    """All proteins of a site."""
    held = [protein for part in own.tests.values() for protein in part] if tests else []
    return [*own.train, *own.val, *held]


def look(own: SiteProteins) -> tuple[object, ...]:
    """What a model sees of a site, in order."""

    def seen(part):
        return [(p.name, p.sequence, np.asarray(p.target).tolist()) for p in part]

    return seen(own.train), seen(own.val), {name: seen(part) for name, part in own.tests.items()}


def protein(name, target, part="train", length=20, **attributes) -> Protein:
    sequence = "MA" * (length // 2)
    return Protein(Record(name, sequence, str(target), part, None, attributes, 1), sequence, target)


def label(config: ProteinPartition) -> str:
    return f"{config.name}-{config.tests}"


@pytest.fixture(scope="module", params=CONFIGS, ids=label)
def case(request):
    return request.param, deal(PROTEINS, SITES, request.param, KIND, 0)


def test_every_protein_is_dealt_in_its_part(case):
    config, dealt = case
    assert list(dealt) == sorted(SITES)
    counts = Counter((p.name, p.record.part) for own in dealt.values() for p in everyone(own))
    learned = ("train", "val")
    for p in PROTEINS:
        once = config.tests == "dealt" or p.record.part in learned
        assert counts.pop((p.name, p.record.part)) == (1 if once else len(SITES))
    assert not counts
    for own in dealt.values():
        assert {p.record.part for p in own.train} == {"train"}
        assert {p.record.part for p in own.val} == {"val"}
        for name, part in own.tests.items():
            assert {p.record.part for p in part} == {name}


def test_no_order_changes_anything_but_the_seed_does(case):
    config, dealt = case
    mixed = [PROTEINS[i] for i in np.random.Generator(np.random.PCG64(0)).permutation(900)]
    sites = SITES if config.name == "sizes" else SITES[::-1]
    again = deal(mixed, sites, config, KIND, 0)
    assert {site: look(own) for site, own in again.items()} == {
        site: look(own) for site, own in dealt.items()
    }
    other = deal(PROTEINS, SITES, config, KIND, 1)
    drawn = config.name not in ("attribute", "clusters")
    assert (look(other["a"]) != look(dealt["a"])) == drawn


def test_the_share_of_a_site_is_the_same_from_its_own_file(case, tmp_path):
    config, dealt = case
    for site, own in dealt.items():
        write_fasta(tmp_path / site, [p.record for p in reversed(everyone(own))])
        proteins = replace(SOURCE, path=str(tmp_path / site)).read().proteins
        assert look(deal(proteins, (site,), config, KIND, 0)[site]) == look(own)


def test_pooling_is_the_single_site_that_has_all(case):
    _, dealt = case
    assert look(pool(list(dealt.values()))) == look(
        deal(PROTEINS, ("a",), ProteinPartition(), KIND, 0)["a"]
    )


def test_tables_count_what_was_dealt(case):
    _, dealt = case
    columns, rows = composition_table(dealt, CLASSES, KIND)
    assert columns == ("site", "train", "val", "test", "hard", *CLASSES)
    for site, *counts in rows:
        own = dealt[site]
        parts = (own.train, own.val, own.tests.get("test", ()), own.tests.get("hard", ()))
        assert counts[:4] == [len(part) for part in parts]
        targets = Counter(CLASSES[p.target] for p in everyone(own, tests=False))
        assert counts[4:] == [targets[name] for name in CLASSES]
    columns, rows = skew_table(dealt, CLASSES, KIND)
    assert columns == ("site", "class", "length")
    assert [row[0] for row in rows] == list(dealt)
    assert all(0 <= value <= 1 for row in rows for value in row[1:])


def test_fractions_belong_to_the_sites_as_named():
    config = ProteinPartition(name="sizes", fractions=(0.7, 0.3))
    whole = sum(p.record.part in ("train", "val") for p in PROTEINS)
    for sites in (("x", "y"), ("y", "x")):
        own = deal(PROTEINS, sites, config, KIND, 0)[sites[0]]
        assert len(everyone(own, tests=False)) == pytest.approx(0.7 * whole, abs=1)


@pytest.mark.parametrize("tests", ["shared", "dealt"])
def test_a_group_is_at_one_site_only(tests):
    def kingdom(p):
        return p.record.attributes["KINGDOM"]

    clusters = cluster_sequences(
        [p.name for p in PROTEINS], [p.record.sequence for p in PROTEINS], identity=0.4
    )
    cluster = dict(zip([p.name for p in PROTEINS], clusters, strict=True))
    assert len(set(clusters)) < len(PROTEINS)
    for config, group in (
        (ProteinPartition(name="attribute", attribute="KINGDOM", tests=tests), kingdom),
        (ProteinPartition(name="clusters", identity=0.4, tests=tests), lambda p: cluster[p.name]),
    ):
        dealt = deal(PROTEINS, SITES, config, KIND, 0)
        groups = [
            {group(p) for p in everyone(own, tests=tests == "dealt")} for own in dealt.values()
        ]
        assert len(set.union(*groups)) == sum(map(len, groups))


def test_dirichlet_skews_classes_and_tutorial_only_quantity():
    def skew(config):
        _, rows = skew_table(deal(SAMPLE, SITES, config, KIND, 0), CLASSES, KIND)
        return max(row[1] for row in rows)

    assert skew(ProteinPartition(name="dirichlet", alpha=0.3)) > 0.05
    assert skew(ProteinPartition(name="dirichlet", alpha=1000.0)) < 0.01
    assert skew(ProteinPartition(name="tutorial")) < 0.001


def test_dirichlet_keeps_the_smallest_size():
    for seed in range(5):
        config = ProteinPartition(name="dirichlet", alpha=0.1, min_size=60)
        dealt = deal(SAMPLE, SITES, config, KIND, seed)
        assert min(len(everyone(own, tests=False)) for own in dealt.values()) >= 60


@pytest.mark.parametrize("name", ["dirichlet", "tutorial"])
def test_tests_are_dealt_as_the_rest_is_class_by_class(name):
    config = ProteinPartition(name=name, alpha=0.5, tests="dealt")
    dealt = deal(SAMPLE, SITES, config, KIND, 0)
    for index in range(len(CLASSES)):
        learned, tested = (
            np.array([sum(p.target == index for p in pick(own)) for own in dealt.values()])
            for pick in (lambda own: own.train + own.val, lambda own: own.tests.get("test", ()))
        )
        assert tested == pytest.approx(learned / learned.sum() * tested.sum(), abs=1)


@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    sites=st.integers(1, 6),
    seed=st.integers(0, 3),
)
def test_tutorial_has_one_draw_of_proportions_for_all_classes(sizes, sites, seed):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    parts = tutorial_parts(labels, sites, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    shares = np.random.RandomState(0).dirichlet([1.0] * sites)
    for part in parts:
        assert all(a < b for a, b in pairwise(part.tolist()))
    for k, size in enumerate(sizes):
        counts = [int((labels[part] == k).sum()) for part in parts]
        assert counts == pytest.approx(shares * size, abs=1)


def test_tutorial_gives_the_published_sizes():
    """1844, 2921 and 2151 of 6916: what ten classes, each cut downwards, leave of the shares."""
    labels = np.repeat(np.arange(10), [2100, 1400, 1000, 800, 500, 450, 300, 180, 120, 66])
    sizes = [len(part) for part in tutorial_parts(labels, 3, 0)]
    assert sizes == pytest.approx([1844, 2921, 2151], abs=5)


def test_without_validation_proteins_a_share_is_held_out_that_never_moves():
    unsplit = [p for p in SAMPLE if p.record.part != "val"]
    fewer = unsplit[::2]
    config = ProteinPartition(val=0.2)
    dealt, less = (deal(proteins, SITES, config, KIND, 3) for proteins in (unsplit, fewer))
    held, held_of_fewer = (
        {p.name for own in each.values() for p in own.val} for each in (dealt, less)
    )
    names = {p.name for p in unsplit if p.record.part == "train"}
    assert held <= names
    assert held_of_fewer == held & {p.name for p in fewer}
    assert len(held) == pytest.approx(0.2 * len(names), rel=0.2)
    for own in dealt.values():
        assert {p.record.part for p in own.val} == {"val"}
    assert held != {
        p.name for own in deal(unsplit, SITES, config, KIND, 4).values() for p in own.val
    }


def test_a_small_site_holds_out_at_least_one():
    few = [protein(f"p{i}", i % 2) for i in range(4)] + [protein("t", 0, "test")]
    for seed in range(20):
        dealt = deal(few, ("x", "y"), ProteinPartition(val=0.01), KIND, seed)
        assert all(len(own.train) == len(own.val) == 1 for own in dealt.values())


def test_a_test_set_that_a_site_lacks_is_not_there():
    few = [protein(f"p{i}", i % 2) for i in range(8)]
    few += [protein(f"t{i}", 0, "test") for i in range(4)] + [protein("h", 1, "hard")]
    dealt = deal(few, ("x", "y"), ProteinPartition(tests="dealt"), KIND, 0)
    assert sum("hard" in own.tests for own in dealt.values()) == 1
    assert all(own.tests["test"] for own in dealt.values())
    columns, rows = composition_table(dealt, ("A", "B"), KIND)
    assert sorted(row[columns.index("hard")] for row in rows) == [0, 1]
    assert [p.name for p in pool(list(dealt.values())).tests["hard"]] == ["h"]


def test_classes_that_a_site_cannot_learn_are_named():
    few = [protein(f"p{i}", int(i >= 4), KINGDOM="AB"[i >= 4]) for i in range(8)]
    few += [protein("v1", 1, "val", KINGDOM="A"), protein("v2", 0, "val", KINGDOM="B")]
    few += [protein("t", 0, "test")]
    config = ProteinPartition(name="attribute", attribute="KINGDOM")
    dealt = deal(few, ("x", "y"), config, KIND, 0)
    assert missing_classes(dealt, ("N", "C", "P")) == {"x": ("C", "P"), "y": ("N", "P")}
    assert missing_classes(dealt, ("N",)) == {"y": ("N",)}
    assert missing_classes(deal(few, ("x",), config, KIND, 0), ("N", "C")) == {}


def test_values_are_dealt_and_counted_in_quintiles():
    kind = "sequence_to_value"
    few = [protein(f"p{i:03}", float(i), length=2 + 2 * i) for i in range(200)]
    few += [protein("t", 7.0, "test")]
    config = ProteinPartition(name="dirichlet", alpha=0.2)
    dealt = deal(few, SITES, config, kind, 0)
    columns, rows = composition_table(dealt, (), kind)
    assert columns[4:] == tuple(f"quintile {i}" for i in range(1, 6))
    assert np.sum([row[4:] for row in rows], axis=0) == pytest.approx([40] * 5, abs=1)
    columns, rows = skew_table(dealt, (), kind)
    assert columns == ("site", "value", "length")
    assert max(row[1] for row in rows) > 0.05
    assert [row[1] for row in rows] == pytest.approx([row[2] for row in rows])
    assert missing_classes(dealt, ()) == {}


def test_residues_are_counted_without_the_masked():
    kind = "residue_to_class"
    few = [protein(f"p{i}", np.array([0, 1, -100, 2 * (i == 0)])) for i in range(12)]
    few += [protein("t", np.array([0]), "test")]
    dealt = deal(few, ("x", "y"), ProteinPartition(tests="shared"), kind, 0)
    columns, rows = composition_table(dealt, ("H", "E", "C"), kind)
    assert columns[4:] == ("H", "E", "C")
    assert np.sum([row[4:] for row in rows], axis=0).tolist() == [23, 12, 1]
    assert skew_table(dealt, ("H", "E", "C"), kind)[0] == ("site", "class", "length")
    lacking = missing_classes(dealt, ("H", "E", "C"))
    assert 1 <= len(lacking) <= 2
    assert set(lacking.values()) == {("C",)}
    with pytest.raises(ValueError, match="dirichlet: a protein of residue_to_class has no class"):
        deal(few, SITES, ProteinPartition(name="dirichlet", alpha=1.0), kind, 0)


TRAIN = [protein(f"p{i}", i % 2, KINGDOM="A") for i in range(6)]
VAL = [protein("v1", 0, "val", KINGDOM="A"), protein("v2", 0, "val", KINGDOM="B")]
TEST = [protein("t", 0, "test")]


@pytest.mark.parametrize(
    ("proteins", "sites", "options", "message"),
    [
        (TRAIN + VAL, SITES, {}, "none of 8 proteins is a test protein"),
        (TEST, SITES, {}, "none of 1 proteins is a training protein"),
        (TRAIN[:2] + TEST, SITES, {}, "name=iid: 3 sites but 2 items"),
        (TRAIN + VAL[:1] + TEST, SITES, {}, r"site '\w' has \d training and 0 valid.*SET=val"),
        (VAL + TEST, ("x",), {}, "site 'x' has 0 training .* no training .*SET=train"),
        (TRAIN[:1] + TEST, ("x",), {}, "site 'x' has 0 training and 1 val"),
        (TRAIN + TEST, SITES, {"tests": "dealt"}, "no test protein, .*tests=shared"),
        (TRAIN + TEST, SITES, {"name": "sizes"}, "fractions=None, expected one for each of 3"),
        (TRAIN + TEST, SITES, {"name": "sizes", "fractions": (0.5, 0.5)}, "each of 3 sites"),
        (TRAIN + TEST, SITES, {"name": "dirichlet"}, "alpha is missing"),
        (TRAIN + TEST, SITES, {"name": "dirichlet", "alpha": 1.0}, "min_size is 10"),
        (TRAIN + TEST, SITES, {"name": "attribute"}, "attribute is missing"),
        (
            TRAIN + TEST,
            SITES,
            {"name": "attribute", "attribute": "HOST"},
            "line 1: p0 has no HOST=",
        ),
        (
            TRAIN + VAL + TEST,
            SITES,
            {"name": "attribute", "attribute": "KINGDOM"},
            "name=attribute: 3 sites but 2 groups",
        ),
        (TRAIN + TEST, SITES, {"name": "clusters"}, "name=clusters: 3 sites but 1 groups"),
    ],
)
def test_what_cannot_be_dealt_is_refused(proteins, sites, options, message):
    with pytest.raises(ValueError, match=message):
        deal(proteins, sites, ProteinPartition(**options), KIND, 0)


@pytest.mark.parametrize("option", [{"val": 0.0}, {"val": 1.0}, {"identity": 0.0}, {"min_size": 0}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=rf"partition\.{next(iter(option))}="):
        ProteinPartition(**option)


@pytest.mark.skipif(not DEEPLOC.exists(), reason="DeepLoc is not in ../shared/data")
def test_deeploc_by_the_tutorial_has_no_label_skew():
    proteins = replace(SOURCE, path=str(DEEPLOC)).read().proteins
    dealt = deal(proteins, SITES, ProteinPartition(name="tutorial"), KIND, 0)
    columns, rows = composition_table(dealt, CLASSES, KIND)
    counts = np.array([row[columns.index("test") + 1 :] for row in rows])
    assert counts.sum() == 8916 + 1678
    shares = counts / counts.sum(axis=0)
    assert np.abs(shares.T - [0.2675, 0.4222, 0.3103]).max() < 0.01
    _, rows = skew_table(dealt, CLASSES, KIND)
    assert max(value for row in rows for value in row[1:]) < 0.001
