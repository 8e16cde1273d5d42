"""Predictions survive their file, and files that are wrong are refused by line."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.metrics.mean import values
from openfl_flows.metrics.predictions import Predictions, predicts_classes

CLASSES = ("Nucleus", "Golgi, cis", "Plastid")
HEAD = 'name,target,predicted,Nucleus,"Golgi, cis",Plastid\n'


def made(num: int, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    names = tuple(f'P{i}"ü' for i in range(num))
    return Predictions(names, rng.integers(3, size=num), probabilities.astype(np.float32), CLASSES)


@given(num=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_file_has_all_but_the_last_digits(tmp_path_factory, num, seed) -> None:
    path = tmp_path_factory.mktemp("run") / "predictions_test.csv"
    written = made(num, seed)
    written.write(path)
    read = Predictions.read(path)
    assert predicts_classes(path)
    assert (read.names, read.classes) == (written.names, CLASSES)
    assert (read.true == written.true).all()
    assert (read.predicted == written.predicted).all()
    np.testing.assert_allclose(read.probabilities, written.probabilities, rtol=5.1e-4)
    assert read.means("hard_") == written.means("hard_")


def test_a_near_tie_is_decided_before_rounding(tmp_path) -> None:
    close = np.array([[0.30001, 0.35, 0.350001]], np.float32)
    predictions = Predictions(("a",), np.array([0]), close, CLASSES)
    predictions.write(tmp_path / "p.csv")
    read = Predictions.read(tmp_path / "p.csv")
    assert read.probabilities[0, 1] == read.probabilities[0, 2]
    assert read.predicted.tolist() == predictions.predicted.tolist() == [2]


def test_means_have_the_prefix_of_their_set() -> None:
    found = values(made(30).means("test_"))
    assert {"test_accuracy", "test_balanced_accuracy", "test_recall_Nucleus"} <= found.keys()
    assert all(name.startswith("test_") for name in found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"line 1: columns none, expected name, target, predicted and at least two classes"),
        ("smiles,valid\n", r"line 1: columns smiles, valid, expected name"),
        ("name,target,predicted,A,A\n", r"line 1: class 'A' is there twice"),
        (HEAD, r"holds no prediction"),
        (HEAD + "a,Nucleus,Nucleus,1,0\n", r"line 2: 5 values, expected 6"),
        (HEAD + "a,Cytosol,Nucleus,1,0,0\n", r"line 2: target is 'Cytosol', expected one of Nuc"),
        (HEAD + "a,Nucleus,Cytosol,1,0,0\n", r"line 2: predicted is 'Cytosol', expected one of"),
        (HEAD + "a,Nucleus,Nucleus,1,x,0\n", r"line 2: probabilities 1, x, 0, expected numbers"),
        (HEAD + "a,Nucleus,Nucleus,2,0,0\n", r"line 2: probabilities 2, 0, 0, expected numbers"),
        (HEAD + "a,Nucleus,Nucleus,nan,0,0\n", r"line 2: probabilities nan, 0, 0, expected"),
        (HEAD + "a,Nucleus,Plastid,1,0,0\n", r"line 2: predicted is 'Plastid', not the most"),
        (2 * (HEAD + "a,Nucleus,Nucleus,1,0,0\n"), r"line 3: target is 'target'"),
        (HEAD + 2 * "a,Nucleus,Nucleus,1,0,0\n", r"line 3: name 'a' is there twice"),
    ],
)
def test_a_wrong_file_is_refused_by_line(tmp_path, content, message) -> None:
    path = tmp_path / "predictions_test.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        Predictions.read(path)
    assert str(path) in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path) -> None:
    path = tmp_path / "predictions_test.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"predictions_test\.csv: is not UTF-8"):
        Predictions.read(path)


def test_a_file_of_values_is_none_of_classes(tmp_path) -> None:
    (tmp_path / "p.csv").write_text("name,target,predicted\na,1.5,1.25\n")
    assert not predicts_classes(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("a", "a")}, "name 'a' is there twice"),
        ({"classes": ("x", "x")}, "class 'x' is there twice"),
        ({"names": ("a",)}, "1 names and 2 classes, but probabilities of shape"),
        ({"true": np.array([0, 2])}, "indices of the 2 classes"),
        ({"true": np.array([0, -100])}, "indices of the 2 classes"),
        (
            {"probabilities": np.array([[1, 0], [np.nan, 0]], np.float32)},
            "probabilities of 'b' are not finite: the model diverged",
        ),
    ],
)
def test_what_is_no_prediction_is_refused(change, message) -> None:
    parts = {
        "names": ("a", "b"),
        "true": np.array([0, 1]),
        "probabilities": np.eye(2, dtype=np.float32),
        "classes": ("x", "y"),
    }
    assert Predictions(**parts).predicted.tolist() == [0, 1]
    with pytest.raises(ValueError, match=message):
        Predictions(**(parts | change))
