"""Classification metrics agree with scikit-learn's, pool exactly over sites, and have intervals."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from sklearn import metrics as sklearn

from openfl_flows.metrics.class_scores import CLASS_SCORES, rate_of
from openfl_flows.metrics.classification import (
    bootstrap,
    bootstrap_classes,
    class_means,
    count,
    mcnemar,
    paired_bootstrap,
    scores,
    summary,
)
from openfl_flows.metrics.mean import Mean, merge, values

CLASSES = ("Cell_membrane", "Nucleus", "precision_x", "Golgi/ER", "Plastid")
NUM = len(CLASSES)

pairs = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        *(arrays.arrays(np.int64, n, elements=st.integers(0, NUM - 1)) for _ in range(2))
    )
)
sites = st.lists(pairs, min_size=1, max_size=4)


def skewed(seed: int, num: int, classes: int = NUM) -> tuple[np.ndarray, np.ndarray]:
    """Labels of which some classes are missing, and guesses that are right half of the time."""
    rng = np.random.default_rng(seed)
    true = rng.choice(classes, num, p=rng.dirichlet([0.3] * classes))
    guess = rng.choice(classes, num, p=rng.dirichlet([0.3] * classes))
    return true, np.where(rng.random(num) < 0.5, true, guess)


def by_sklearn(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "accuracy": sklearn.accuracy_score(true, predicted),
            "balanced_accuracy": sklearn.balanced_accuracy_score(true, predicted),
            "macro_f1": sklearn.f1_score(true, predicted, average="macro"),
            "mcc": sklearn.matthews_corrcoef(true, predicted),
        }


@given(pairs)
def test_scores_are_scikit_learns(pair) -> None:
    assert scores(*pair, NUM) == pytest.approx(by_sklearn(*pair), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_values_of_means_are_scikit_learns_with_missing_classes(seed) -> None:
    true, predicted = skewed(seed, 300)
    found = values(class_means(true, predicted, CLASSES))
    expected = by_sklearn(true, predicted)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    recalls = sklearn.recall_score(
        true, predicted, average=None, labels=range(NUM), zero_division=0
    )
    for i, name in enumerate(CLASSES):
        assert (f"recall_{name}" in found) == bool((true == i).any())
        assert found.get(f"recall_{name}", 0.0) == pytest.approx(recalls[i])


@given(sites)
def test_sites_pool_to_the_whole(parts) -> None:
    pooled = merge(class_means(*part, CLASSES) for part in parts)
    whole = class_means(*(np.concatenate(side) for side in zip(*parts, strict=True)), CLASSES)
    assert pooled == whole
    assert values(pooled) == values(whole)


def test_each_test_set_has_its_own_summary() -> None:
    sets = {prefix: skewed(i, 200) for i, prefix in enumerate(("", "test_", "very_hard_"))}
    means: dict[str, Mean] = {"loss": Mean(3.0, 2)}
    for prefix, pair in sets.items():
        means |= {f"{prefix}{name}": m for name, m in class_means(*pair, CLASSES).items()}
    found = summary(means)
    assert len(found) == 9
    for prefix, pair in sets.items():
        assert found[f"{prefix}mcc"] == pytest.approx(by_sklearn(*pair)["mcc"])
        assert found[f"{prefix}macro_f1"] == pytest.approx(by_sklearn(*pair)["macro_f1"])


def test_what_is_no_whole_set_has_no_summary() -> None:
    means = class_means(*skewed(0, 50), CLASSES)
    del means["precision_Nucleus"]
    assert summary(means) == {}
    assert summary({"recall_of_memory": Mean(1.0, 2), "precision_loss": Mean(1.0, 2)}) == {}
    alien = {f"{kind}_{c}": Mean(0.3, 2) for kind in ("recall", "precision") for c in "ab"}
    assert summary(alien | {"precision_a": Mean(0.4, 2)}) == {}


def test_nothing_measured_gives_nothing() -> None:
    none = np.array([], np.int64)
    assert values(class_means(none, none, CLASSES)) == {}
    assert all(math.isnan(v) for v in scores(none, none, NUM).values())
    assert all(math.isnan(low) for low, _ in bootstrap(none, none, NUM).values())


def test_masked_residues_count_nowhere() -> None:
    true, predicted = skewed(3, 120)
    masked = np.where(np.arange(120) % 3 == 0, -100, true).reshape(4, 30)
    kept = true[np.arange(120) % 3 != 0], predicted[np.arange(120) % 3 != 0]
    assert class_means(masked, predicted.reshape(4, 30), CLASSES) == class_means(*kept, CLASSES)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("recall_Nucleus", ("", "recall", "Nucleus")),
        ("test_precision_Golgi/ER", ("test_", "precision", "Golgi/ER")),
        ("very_hard_recall_Cell_membrane", ("very_hard_", "recall", "Cell_membrane")),
        ("recall_precision_x", ("", "recall", "precision_x")),
        ("precision_recall_x", ("", "precision", "recall_x")),
    ],
)
def test_the_name_of_a_rate_tells_its_parts(name, parts) -> None:
    assert rate_of(name) == parts


@pytest.mark.parametrize("name", ["accuracy", "recall", "xrecall_a", "test_recall", "macro_f1"])
def test_other_names_are_no_rates(name) -> None:
    assert rate_of(name) is None


def test_intervals_are_those_of_resampling_the_samples() -> None:
    true, predicted = skewed(1, 250)
    rng = np.random.default_rng(5)
    drawn = [rng.integers(250, size=250) for _ in range(3000)]
    found = bootstrap(true, predicted, NUM, resamples=3000, seed=2)
    for name, (low, high) in found.items():
        plain = [scores(true[i], predicted[i], NUM, [name])[name] for i in drawn]
        expected = np.percentile(plain, (2.5, 97.5))
        assert (low, high) == pytest.approx(expected, abs=0.12 * np.ptp(expected))
        assert low < scores(true, predicted, NUM)[name] < high


def test_the_interval_of_an_accuracy_is_the_binomials() -> None:
    true = np.zeros(400, np.int64)
    predicted = (np.arange(400) >= 300).astype(np.int64)
    low, high = bootstrap(true, predicted, 2, ["accuracy"], resamples=20000)["accuracy"]
    expected = stats.binom.ppf((0.025, 0.975), 400, 0.75) / 400
    assert (low, high) == pytest.approx(expected, abs=0.003)


def test_the_seed_alone_decides_the_resamples() -> None:
    pair = skewed(1, 100)
    assert bootstrap(*pair, NUM, seed=4) == bootstrap(*pair, NUM, seed=4)
    assert bootstrap(*pair, NUM, seed=4) != bootstrap(*pair, NUM, seed=5)


def test_intervals_of_classes_hold_their_values() -> None:
    true, predicted = skewed(2, 400)
    counts = count(true, predicted, NUM)
    found = bootstrap_classes(true, predicted, NUM)
    for name, score in CLASS_SCORES.items():
        for value, (low, high) in zip(score(counts), found[name], strict=True):
            assert math.isnan(low) if math.isnan(value) else low <= value <= high


def test_a_paired_difference_is_narrower_than_an_unpaired_one() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(NUM, size=500)
    a = np.where(rng.random(500) < 0.7, true, (true + 1) % NUM)
    b = np.where(rng.random(500) < 0.05, (true + 2) % NUM, a)
    found = paired_bootstrap(true, [(a, b)], NUM)
    for name, (low, high) in found.items():
        (low_a, high_a), (low_b, high_b) = (bootstrap(true, m, NUM)[name] for m in (a, b))
        difference = scores(true, a, NUM)[name] - scores(true, b, NUM)[name]
        assert low <= difference <= high
        assert high - low < 0.6 * math.hypot(high_a - low_a, high_b - low_b)


def test_a_difference_turns_round_with_its_models() -> None:
    true, a = skewed(1, 200)
    b = np.roll(a, 1)
    forth, back = (paired_bootstrap(true, [pair], NUM) for pair in ((a, b), (b, a)))
    for name, (low, high) in forth.items():
        assert back[name] == pytest.approx((-high, -low), abs=0.05)
    assert set(paired_bootstrap(true, [(a, a)], NUM).values()) == {(0.0, 0.0)}


def test_differences_of_several_pairs_are_averaged() -> None:
    true, a = skewed(1, 200)
    b = np.roll(a, 3)
    once, twice = (paired_bootstrap(true, p, NUM) for p in ([(a, b)], [(a, b), (a, b)]))
    opposite = paired_bootstrap(true, [(a, b), (b, a)], NUM)
    for name, ends in once.items():
        assert ends == pytest.approx(twice[name])
        assert opposite[name] == pytest.approx((0.0, 0.0))


# 10 that only a has right, 2 that only b has: P(X <= 2 or X >= 10 | 12, 1/2) = 158 / 4096.
def test_mcnemar_by_hand() -> None:
    a = np.array([True] * 10 + [False] * 2 + [True] * 5)
    b = np.array([False] * 10 + [True] * 2 + [True] * 5)
    assert mcnemar(a, b) == (10, 2, pytest.approx(158 / 4096))
    assert mcnemar(b, a) == (2, 10, pytest.approx(158 / 4096))
    assert mcnemar(a, a) == (0, 0, 1.0)
