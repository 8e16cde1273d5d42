"""Labels from GFN2-xTB, and the file that keeps them."""

import csv

import pytest

from openfl_flows.data.source import SAMPLE
from openfl_flows.data.xtb import Label, LabelError, label, label_all, label_cached

HEADER = "smiles,mu,homo,failure\n"


@pytest.mark.parametrize("index", [0, 1000, -1])
def test_labels_can_be_recomputed(index):
    pytest.importorskip("tblite", exc_type=ImportError)
    with SAMPLE.open(newline="", encoding="utf-8") as file:
        row = list(csv.DictReader(file))[index]
    point = label(row["smiles"])
    assert point.mu == pytest.approx(float(row["mu"]), abs=0.01)
    assert point.homo == pytest.approx(float(row["homo"]), abs=0.0005)


def test_what_has_no_label_is_said():
    with pytest.raises(ValueError, match="'C1CC' cannot be read"):
        label("C1CC")
    with pytest.raises(LabelError, match="no MMFF94 parameters"):
        label("F")


def test_failures_are_returned_beside_the_labels():
    pytest.importorskip("tblite", exc_type=ImportError)
    labels, failures = label_all(["O", "F", "C#N"], workers=2)
    assert list(labels) == ["O", "C#N"]
    assert failures == {"F": "no MMFF94 parameters"}


def test_kept_labels_are_not_computed_again(tmp_path):
    pytest.importorskip("tblite", exc_type=ImportError)
    cache = tmp_path / "xtb.csv"
    # Values that no computation gives, and the line of a run that was killed.
    cache.write_text(f"{HEADER}O,1.0,-2.0,\nF,,,gone\nCC,0.0")
    labels, failures = label_cached(["O", "F", "C", "O"], cache)
    assert labels["O"] == Label(mu=1.0, homo=-2.0)
    assert labels["C"].mu == pytest.approx(0, abs=1e-3)
    assert failures == {"F": "gone"}
    assert label_cached(["C"], cache) == ({"C": labels["C"]}, {})
    assert [line.split(",")[0] for line in cache.read_text().splitlines()[1:]] == ["O", "F", "C"]


def test_another_file_is_no_cache(tmp_path):
    pytest.importorskip("tblite", exc_type=ImportError)
    cache = tmp_path / "other.csv"
    cache.write_text("smiles,mu\nC,1\n")
    with pytest.raises(ValueError, match="expected the columns smiles, mu, homo, failure"):
        label_cached(["C"], cache)
