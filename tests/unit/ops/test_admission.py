"""Laws of admission: what a site may send is decided by its form, its finiteness and its size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.ops.admission import Proportion, lower_median, update_norm

FLOATS = ("float16", "float32", "float64")
NORMS = st.lists(st.floats(0, 1e6), max_size=9)
VALUES = st.lists(st.floats(-1e3, 1e3, width=16), min_size=1, max_size=6)


def model(dtype: str = "float32") -> dict[str, np.ndarray]:
    return {"a": np.arange(4, dtype=dtype), "b": np.ones((2, 3), dtype), "n": np.array([7])}


def after_a_round_of(norm: float, ratio: float) -> Proportion:
    proportion = Proportion(ratio)
    proportion.begin_round()
    proportion.admit("other", norm)
    proportion.begin_round()
    return proportion


def changed(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    return {**model(), name: array}


@given(VALUES, st.sampled_from(FLOATS))
def test_the_norm_is_that_of_the_change_in_all_buckets(values, dtype):
    change = np.array(values, dtype)
    own = {"a": np.zeros(len(change), dtype), "b": np.ones(3, dtype)}
    new = {"a": change, "b": np.array([1, 2, 1], dtype)}
    expected = np.sqrt(np.sum(np.square(change.astype(np.float64))) + 1)
    assert update_norm("s", own, new) == pytest.approx(expected, rel=1e-12)


@given(VALUES)
def test_how_a_model_is_cut_into_buckets_does_not_matter(values):
    new = np.array(values, np.float32)
    whole = update_norm("s", {"a": np.zeros_like(new)}, {"a": new})
    parts = {str(number): new[number : number + 1] for number in range(len(new))}
    cut = update_norm("s", {name: np.zeros_like(part) for name, part in parts.items()}, parts)
    assert cut == pytest.approx(whole, rel=1e-12)


def test_the_model_itself_is_no_change_and_whole_numbers_are_not_measured():
    assert update_norm("s", model(), model()) == 0
    assert update_norm("s", model(), changed("n", np.array([2**40]))) == 0


def test_the_difference_of_large_numbers_is_finite():
    own, new = np.full(2, -3e38, np.float32), np.full(2, 3e38, np.float32)
    assert update_norm("s", {"a": own}, {"a": new}) == pytest.approx(6e38 * np.sqrt(2), rel=1e-6)


def test_a_change_beyond_any_number_is_refused():
    own, new = np.array([-1e308]), np.array([1e308])
    with pytest.raises(ValueError, match="update of 's' refused: tensor 'a' is out of range"):
        update_norm("s", {"a": own}, {"a": new})


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        ({k: v for k, v in model().items() if k != "b"}, "it misses tensor 'b'"),
        ({**model(), "c": np.ones(1)}, "it has an unexpected tensor 'c'"),
        (changed("b", np.ones((3, 2), np.float32)), r"'b' is float32\(3, 2\), expected float32\(2"),
        (changed("b", np.ones((2, 3))), r"'b' is float64\(2, 3\), expected float32\(2, 3\)"),
        (changed("n", np.array([7.0])), r"'n' is float64\(1,\), expected int64\(1,\)"),
        (changed("a", np.array([0, np.nan, np.nan, 3], "f4")), "'a' has 2 NaN or infinite of 4"),
        (changed("a", np.array([0, 1, -np.inf, 3], "f4")), "'a' has 1 NaN or infinite of 4 values"),
        ({}, "it misses tensor 'a'"),
    ],
)
def test_an_update_of_another_form_or_not_finite_is_refused(update, reason):
    with pytest.raises(ValueError, match=f"update of 's' refused: .*{reason}"):
        update_norm("s", model(), update)


@given(NORMS.map(tuple))
def test_the_lower_median_is_one_of_the_norms_and_at_most_half_are_below_it(norms):
    middle, positive = lower_median(norms), [norm for norm in norms if norm > 0]
    assert middle in positive or (middle == 0 and not positive)
    assert 2 * sum(norm < middle for norm in positive) <= len(positive)
    assert 2 * sum(norm > middle for norm in positive) <= len(positive) + 1
    assert lower_median(reversed(norms)) == lower_median((*norms, 0.0)) == middle


@given(st.lists(st.floats(1, 2), min_size=1, max_size=9), st.data())
def test_a_minority_cannot_move_the_lower_median_out_of_the_others_range(norms, data):
    # With two sites, the larger norm is the one to explain.
    liars = data.draw(st.lists(st.floats(1e-9, 1e9), max_size=(len(norms) - 1) // 2))
    assert min(norms) <= lower_median((*norms, *liars)) <= max(norms)


@given(st.floats(1e-6, 1e6), st.floats(1, 1e3), st.floats(0, 1))
def test_up_to_the_ratio_all_are_admitted(reference, ratio, part):
    after_a_round_of(reference, ratio).admit("s", part * ratio * reference)


@given(st.floats(1e-6, 1e6), st.floats(1, 1e3), st.floats(1.001, 1e6))
def test_beyond_the_ratio_none_is_admitted(reference, ratio, excess):
    with pytest.raises(ValueError, match=r"update of 's' refused: its norm .* times that of the"):
        after_a_round_of(reference, ratio).admit("s", excess * ratio * reference)


def test_in_a_first_round_the_updates_themselves_tell():
    proportion = Proportion(10)
    proportion.begin_round()
    for site, norm in (("a", 1.0), ("b", 1.1), ("c", 50.0)):
        proportion.admit(site, norm)
    assert list(proportion.outliers("abc")) == ["c"]
    proportion.forget("c")
    assert not proportion.outliers("ab")
    anything = Proportion(None)
    anything.admit("a", 1e30)
    assert not anything.outliers("a")
