"""Sketches: what they tell, what they cannot, and distances from them."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.data.domain.parts import molecule_parts, protein_parts
from openfl_flows.data.domain.sketch import (
    ALL,
    distances,
    make_sketch,
    merge_sketches,
    read_sketch,
    write_sketch,
)

SECRET, OTHER = bytes(range(32)), bytes(32)


def items(numbers):
    return [frozenset(f"part {n}".encode() for n in row) for row in numbers]


def sketch(rows, secret=SECRET, **options):
    """Of items that have the rows' parts, and each one that is its own."""
    own = items([*row, f"of item {number}"] for number, row in enumerate(rows))
    return make_sketch(own, secret, **{"kind": "molecules", "floor": 2, **options})


rows = st.lists(st.sets(st.integers(0, 30), min_size=5, max_size=12), min_size=4, max_size=20)


@given(rows, st.integers(2, 4))
def test_a_part_of_fewer_items_than_the_floor_leaves_no_trace(data, floor):
    counts = {n: sum(n in row for row in data) for row in data for n in row}
    rare = {n for n, count in counts.items() if count < floor}
    without = [{n for n in row if n not in rare} | {100 + i} for i, row in enumerate(data)]
    made, other = sketch(data, floor=floor), sketch(without, floor=floor)
    assert made.hashes.tolist() == other.hashes.tolist()
    assert len(made.hashes) == len(counts) - len(rare)


def test_one_compound_many_times_is_one_item():
    often = items([range(8), *[range(20, 28)] * 10, range(9)])
    once = items([range(8), range(20, 28), range(9)])
    made, other = (make_sketch(data, SECRET, kind="molecules", floor=2) for data in (often, once))
    assert made.hashes.tolist() == other.hashes.tolist()
    assert len(made.hashes) == 8
    with pytest.raises(ValueError, match="1 different items, expected at least 2"):
        make_sketch(items([range(8)] * 5), SECRET, kind="molecules", floor=2)


@given(rows, rows)
def test_sketches_merge_to_what_either_site_has_often(first, second):
    merged = merge_sketches([sketch(first), sketch(second)])
    queries = items([*first, *second])
    found = distances(queries, merged, SECRET)
    alone = [distances(queries, sketch(part), SECRET) for part in (first, second)]
    assert (found <= np.minimum(*alone) + 1e-12).all()
    assert merged.sites == 2
    again = merge_sketches([sketch(second), sketch(first)])
    assert again.hashes.tolist() == merged.hashes.tolist()


@given(rows, st.randoms())
def test_order_does_not_matter(data, random):
    mixed = random.sample(data, len(data))
    made, other = sketch(data), sketch(mixed)
    assert (made.hashes.tolist(), made.radius) == (other.hashes.tolist(), other.radius)


def test_distance_is_the_share_of_unknown_parts():
    made = sketch([range(8)] * 3)
    queries = items([range(8), range(4, 12), range(100, 108), range(3)])
    found = distances([*queries, None], made, SECRET)
    assert found[:3].tolist() == [0, 0.5, 1]
    assert np.isnan(found[3:]).all()


def test_a_bounded_sketch_speaks_of_a_sample_of_the_parts():
    data = [range(2000)] * 3
    made, whole = sketch(data, keep=500), sketch(data)
    assert len(made.hashes) == 500
    assert made.threshold < ALL == whole.threshold
    queries = items([range(i, i + 2000) for i in range(0, 2000, 200)])
    near, exact = distances(queries, made, SECRET), distances(queries, whole, SECRET)
    assert np.abs(near - exact).max() < 0.1
    assert np.abs(near - exact).max() > 0
    merged = merge_sketches([made, sketch([range(1000, 3000)] * 3)])
    assert merged.threshold == made.threshold
    expected = distances(queries, merge_sketches([whole, sketch([range(1000, 3000)] * 3)]), SECRET)
    assert np.abs(distances(queries, merged, SECRET) - expected).max() < 0.1


def test_the_radius_takes_every_item_out_of_its_own_sketch():
    # Of ten parts one is the item's own; the others have nine in common.
    assert sketch([range(9)] * 3, floor=3).radius == 1
    assert sketch([range(9)] * 4, floor=3).radius == 0.1


def test_without_the_key_nothing_can_be_asked():
    made = sketch([range(8)] * 3)
    with pytest.raises(ValueError, match="commitment"):
        distances(items([range(8)]), made, OTHER)
    other = sketch([range(8)] * 3, OTHER)
    assert not set(made.hashes.tolist()) & set(other.hashes.tolist())
    with pytest.raises(ValueError, match="key"):
        merge_sketches([made, other])


def test_kinds_and_words_have_hashes_of_their_own():
    found = [
        set(sketch([range(8)] * 3, kind=kind, word=word).hashes.tolist())
        for kind, word in (("molecules", 0), ("proteins", 3), ("proteins", 4))
    ]
    assert not found[0] & found[1]
    assert not found[1] & found[2]


def test_a_sketch_survives_its_file_and_nothing_else_does(tmp_path):
    made, file = sketch([range(8)] * 3), tmp_path / "sketch.json"
    write_sketch(file, made)
    again = read_sketch(file)
    assert again.hashes.tolist() == made.hashes.tolist()
    assert (again.threshold, again.radius, again.floor) == (made.threshold, made.radius, made.floor)
    document = json.loads(file.read_text())
    for key, value in (("floor", 3), ("threshold", "0" * 16), ("format", "x"), ("sites", 2)):
        file.write_text(json.dumps({**document, key: value}))
        with pytest.raises(ValueError, match="expected a sketch"):
            read_sketch(file)
    for text in ("", "[]", "{}", json.dumps({**document, "more": 1})):
        file.write_text(text)
        with pytest.raises(ValueError, match="expected a sketch"):
            read_sketch(file)
    with pytest.raises(ValueError, match="no such file"):
        read_sketch(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("rows_", "options", "words"),
    [
        ([range(8)] * 3, {"floor": 1}, "--floor is 1"),
        ([range(8)] * 3, {"keep": 0}, "--keep is 0"),
        ([range(8)] * 3, {"floor": 4}, "3 different items"),
    ],
)
def test_what_makes_no_sketch_is_refused(rows_, options, words):
    with pytest.raises(ValueError, match=words):
        sketch(rows_, **options)


def test_parts_are_those_of_the_molecule_however_it_is_written():
    assert molecule_parts("CCO") == molecule_parts("OCC")
    assert molecule_parts("CCO") != molecule_parts("CCN")
    assert molecule_parts("no molecule") is None
    assert molecule_parts("") is None
    assert protein_parts("MKVLA", 3) == {b"MKV", b"KVL", b"VLA"}
    assert protein_parts("mkvla", 3) == protein_parts("MKVLA", 3)
    assert protein_parts("MK", 3) is None


def test_nothing_of_an_item_is_in_the_file(tmp_path):
    canary = "CANARYWWWPROTEIN"
    data = [protein_parts(f"{canary}{letter * 4}", 4) for letter in "ACDEFGHIKLM"]
    made = make_sketch(data, SECRET, kind="proteins", word=4)
    write_sketch(tmp_path / "sketch.json", made)
    text = (tmp_path / "sketch.json").read_text()
    assert "CANA" not in text
    assert SECRET.hex() not in text
    assert math.isclose(distances([protein_parts(canary, 4)], made, SECRET)[0], 0)
