"""Which structures a run is about, and how they are dealt to sites."""

import json
from dataclasses import fields, replace
from datetime import date, timedelta

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from openfl_flows.cli.plan import plan_folder
from openfl_flows.data.structures.select import (
    Structure,
    StructureSelection,
    read_structures,
    select,
)
from openfl_flows.data.structures.set import StructureSet
from openfl_flows.data.structures.sites import (
    cluster_groups,
    composition_table,
    deal,
    pool,
    skew_table,
    split,
)

CUT = date(2008, 1, 1)
OWN = StructureSelection()
HELD_OUT = {None: {}, 2: {"split": None, "held_out": 2}}
SITES = ("a", "b", "c")
DEALS = ("iid", "clusters", "dates", "ligands")
CHOICES = sorted(file.stem for file in plan_folder().glob("data/structures*.yaml"))


def structure(number: int, *clusters: int, **facts) -> Structure:
    """A protein released on the day of its number, a cluster of its own unless told."""
    known = {
        "name": f"s{number:03}",
        "released": date(2000, 1, 1) + timedelta(days=number),
        "num_tokens": 50 + number,
        "polymers": ("protein",),
        "clusters": frozenset(map(str, clusters or (number,))),
        "ligands": (),
    }
    return Structure(**{**known, **facts})


def names(structures) -> list[str]:
    return [each.name for each in structures]


@pytest.fixture(scope="module")
def sample() -> tuple[Structure, ...]:
    return read_structures(StructureSelection().open())


structure_lists = st.lists(
    st.tuples(st.integers(0, 99), st.sets(st.integers(0, 30), max_size=3)),
    min_size=1,
    max_size=40,
    unique_by=lambda each: each[0],
).map(lambda pairs: [structure(number, *clusters) for number, clusters in pairs])


def test_the_facts_of_real_structures(shared_data, tmp_path) -> None:
    source = shared_data / "structures"
    (tmp_path / "structure_files").symlink_to(source / "prep" / "structure_files")
    (tmp_path / "cache.json").symlink_to(source / "cache" / "train_cache.json")
    (tmp_path / "set.json").write_text(json.dumps({"format": 1}))
    found = {each.name: each for each in read_structures(StructureSet.open(tmp_path))}
    tokens = json.loads((source / "prep" / "metadata.json").read_text())["structure_data"]
    assert {name: each.num_tokens for name, each in found.items()} == {
        name: tokens[name]["token_count"] for name in found
    }
    assert found["7l39"].released == date(2021, 10, 27)
    # Toluene counts; chloride and mercaptoethanol, which are there too, do not, nor does nickel.
    assert found["7l39"].ligands == ("MBN",)
    assert found["3u8v"].ligands == ()
    assert {name for name, each in found.items() if each.is_monomer_with_ligand} == {
        *("1pzp", "1y57", "7l39"),
    }
    assert found["2q2k"].polymers == ("dna",) * 2 + ("protein",) * 4
    assert len(found["2q2k"].clusters) == 2


def test_a_set_without_its_atoms_is_named(shared_data, tmp_path) -> None:
    source = shared_data / "structures" / "cache" / "train_cache.json"
    (tmp_path / "cache.json").symlink_to(source)
    (tmp_path / "set.json").write_text(json.dumps({"format": 1}))
    with pytest.raises(ValueError, match=r"structure 1kd8 cannot be read.*data prepare"):
        read_structures(StructureSet.open(tmp_path))


def test_before_and_after_are_all_and_the_cut_itself_is_after(sample) -> None:
    before = select(sample, StructureSelection(subset="before", date_cut=CUT))
    after = select(sample, StructureSelection(subset="after", date_cut=CUT))
    assert all(each.released < CUT for each in before)
    assert sorted(names(before + after)) == names(sample)
    day = sample[0].released
    assert sample[0] in select(sample, StructureSelection(subset="after", date_cut=day))


def test_a_mixture_is_half_and_half_also_when_limited(sample) -> None:
    for limit, half in ((None, 11), (8, 4), (7, 3)):
        mixed = select(sample, StructureSelection(subset="mixed", date_cut=CUT, limit=limit))
        assert sum(each.released < CUT for each in mixed) == half
        assert len(mixed) == 2 * half
        assert names(mixed) == sorted(names(mixed))


def test_a_limit_is_stable_whatever_else_there_is() -> None:
    structures = [structure(number) for number in range(40)]
    kept = set(names(select(structures, StructureSelection(limit=10))))
    assert len(kept) == 10
    again = set(names(select([*structures, structure(40)], StructureSelection(limit=10))))
    assert len(kept - again) <= 1
    assert set(names(select(structures, StructureSelection(limit=9)))) < kept


def test_small_ones_and_monomers_with_a_ligand(sample) -> None:
    small = select(sample, StructureSelection(max_tokens=100))
    assert max(each.num_tokens for each in small) <= 100 < max(s.num_tokens for s in sample)
    ligand = select(sample, StructureSelection(only="monomer_ligand"))
    assert all(each.polymers == ("protein",) and each.ligands for each in ligand)
    dimer = structure(1, polymers=("protein", "protein"), ligands=("MBN",))
    strand = structure(2, polymers=("dna",), ligands=("MBN",))
    with pytest.raises(ValueError, match="monomer_ligand leaves none of 2"):
        select([dimer, strand], StructureSelection(only="monomer_ligand"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "before"}, "date_cut=None with data.subset=before, expected a date"),
        ({"date_cut": CUT}, "date_cut=2008-01-01 with data.subset=all, expected none"),
        ({"deal": "sizes"}, "fractions=None with data.deal=sizes, expected one for each site"),
        ({"fractions": (0.5, 0.5)}, "with data.deal=iid, expected none"),
        ({"limit": 0}, "data.limit=0, expected at least 1"),
        ({"max_tokens": 0}, "data.max_tokens=0"),
        ({"split": (0.9, 0.1, 0.0)}, "data.split=.*above 0"),
        ({"split": (0.5, 0.1, 0.1)}, "data.split=.*sum to 1"),
        ({"split": None}, "data.split=None with data.held_out=None, expected one"),
        ({"held_out": 2}, "with data.held_out=2, expected one of them"),
        ({"split": None, "held_out": 0}, "data.held_out=0, expected at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        StructureSelection(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": "after", "date_cut": date(2030, 1, 1)}, "none of 24 .* released after"),
        ({"subset": "mixed", "date_cut": date(1980, 1, 1)}, "none of 24 .* released before"),
        ({"subset": "mixed", "date_cut": CUT, "limit": 1}, "data.limit=1, expected 2"),
        ({"max_tokens": 10}, "data.max_tokens=10 leaves none of 24"),
    ],
)
def test_nothing_left_says_which_option_left_nothing(sample, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        select(sample, StructureSelection(**options))


@settings(max_examples=60, deadline=None)
@given(structures=structure_lists)
def test_groups_are_what_shares_a_cluster_however_indirectly(structures) -> None:
    group = dict(zip(structures, cluster_groups(structures), strict=True))
    expected = {each: {each} for each in structures}
    for one in structures:
        for two in structures:
            if one.clusters & two.clusters and expected[one] is not expected[two]:
                union = expected[one] | expected[two]
                expected.update(dict.fromkeys(union, union))
    for each, members in expected.items():
        assert group[each] == min(names(members))


@settings(max_examples=60, deadline=None)
@given(structures=structure_lists, seed=st.integers(0, 5))
def test_no_cluster_is_in_two_parts_and_none_is_empty(structures, seed) -> None:
    if len(set(cluster_groups(structures))) < 3:
        with pytest.raises(ValueError, match="us has .* groups of like sequences"):
            split(structures, OWN, seed, "us")
        return
    parts = split(structures, OWN, seed, "us")
    assert all(parts)
    assert sorted(names(sum(parts, ()))) == sorted(names(structures))
    clusters = [frozenset().union(*(each.clusters for each in part)) for part in parts]
    assert sum(map(len, clusters)) == len(frozenset().union(*clusters))


def test_a_split_stays_when_a_structure_is_added() -> None:
    structures = [structure(number) for number in range(200)]
    parts = split(structures, OWN, 0, "us")
    assert 10 <= len(parts.val) <= 35
    assert 10 <= len(parts.test) <= 35
    for late in (structure(200), structure(201, 7)):
        later = split([*structures, late], OWN, 0, "us")
        for role, part in zip(later, parts, strict=True):
            assert set(names(role)) - {late.name} == set(names(part))
    assert split(structures, OWN, 1, "us") != parts
    assert split(structures[::-1], OWN, 0, "us") == parts


def test_a_cluster_has_the_same_role_at_every_site() -> None:
    structures = [structure(number, number // 4) for number in range(400)]
    dealt = deal(structures, SITES, StructureSelection(), 0)
    role_of = {}
    for own in dealt.values():
        for role, part in zip(own._fields, own, strict=True):
            for each in part:
                assert role_of.setdefault(each.clusters, role) == role


@pytest.mark.parametrize("held_out", HELD_OUT)
@pytest.mark.parametrize("by", DEALS)
def test_all_are_dealt_once_whatever_the_order_of_names(sample, by, held_out) -> None:
    selection = StructureSelection(deal=by, **HELD_OUT[held_out])
    dealt = deal(sample, SITES[:2], selection, 0)
    assert deal(sample, SITES[1::-1], selection, 0) == dealt
    pooled = pool(list(dealt.values()))
    assert sorted(names(sum(pooled, ()))) == names(sample)
    trained = [each for own in dealt.values() for each in own.train]
    assert len(trained) == len(set(trained))
    if held_out:
        assert len({own[1:] for own in dealt.values()}) == 1


@pytest.mark.parametrize("held_out", HELD_OUT)
@pytest.mark.parametrize("by", DEALS)
def test_a_site_splits_its_share_the_same_by_itself(sample, by, held_out) -> None:
    selection = StructureSelection(deal=by, **HELD_OUT[held_out])
    for seed in range(5):
        dealt = deal(sample, SITES[:2], selection, seed)
        for site, own in dealt.items():
            alone = sorted(sum(own, ()), key=lambda each: each.name, reverse=True)
            assert split(alone, selection, seed, site) == own


def test_ways_to_deal_do_what_they_say(sample) -> None:
    def dealt(**options):
        parts = deal(sample, ("a", "b"), StructureSelection(**options), 0).values()
        return [sum(own, ()) for own in parts]

    first, second = dealt(deal="clusters")
    assert not {c for s in first for c in s.clusters} & {c for s in second for c in s.clusters}
    first, second = dealt(deal="dates")
    assert max(s.released for s in first) <= min(s.released for s in second)
    first, second = dealt(deal="ligands")
    assert not any(s.ligands for s in second)
    first, second = dealt(deal="sizes", fractions=(0.25, 0.75))
    assert (len(first), len(second)) == (6, 18)


def test_eight_sites_share_what_is_held_out(sample) -> None:
    sites = [f"site-{number}" for number in range(1, 9)]
    dealt = deal(sample, sites, StructureSelection(**HELD_OUT[2]), 0)
    assert all(own.train and own.val and own.test for own in dealt.values())
    with pytest.raises(ValueError, match="data.held_out needs fewer"):
        deal(sample, [*sites, "site-9"], StructureSelection(), 0)
    with pytest.raises(ValueError, match="data.deal=iid: 30 sites but"):
        deal(sample, [str(n) for n in range(30)], StructureSelection(**HELD_OUT[2]), 0)
    with pytest.raises(ValueError, match="data.deal=sizes: fractions .* each of 2 sites"):
        deal(sample, sites[:2], StructureSelection(deal="sizes", fractions=(1.0,)), 0)


def test_tables_count_what_was_dealt_and_tell_a_skew(sample) -> None:
    iid, skewed = StructureSelection(), StructureSelection(deal="dates")
    for selection in (iid, replace(iid, **HELD_OUT[2])):
        dealt = deal(sample, ("a", "b"), selection, 0)
        columns, rows = composition_table(dealt, selection)
        for row in rows:
            assert len(row) == len(columns)
            assert row[1:4] == tuple(map(len, dealt[str(row[0])]))
        own = sum(
            len(part) for parts in dealt.values() for part in parts[: 3 if selection is iid else 1]
        )
        ligands = columns.index("with ligand")
        assert sum(row[ligands] for row in rows) <= own
    assert (
        sum(row[ligands] for row in composition_table(deal(sample, ("a", "b"), iid, 0), iid)[1])
        == 4
    )
    columns, even = skew_table(deal(sample, ("a", "b"), iid, 0), iid)
    _, odd = skew_table(deal(sample, ("a", "b"), skewed, 0), skewed)
    dates = columns.index("dates")
    assert min(row[dates] for row in odd) > 2 * max(row[dates] for row in even)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_data_set_of_the_plan_can_be_dealt_to_two_sites(sample, choice) -> None:
    folder = plan_folder() / "data"
    options = yaml.safe_load((folder / "structures.yaml").read_text())
    assert options.keys() == {field.name for field in fields(StructureSelection)}
    own = yaml.safe_load((folder / f"{choice}.yaml").read_text())
    own.pop("defaults", None)
    selection = TypeAdapter(StructureSelection).validate_python({**options, **own})
    for seed in range(3):
        dealt = deal(select(sample, selection), ("a", "b"), selection, seed)
        assert all(map(all, dealt.values()))
