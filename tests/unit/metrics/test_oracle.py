"""Properties of drawn molecules from a table and from a calibrated instrument."""

import gzip
import math

import numpy as np
import pytest

from openfl_flows.metrics.oracle import calibrate, looked_up, plain_smiles, read_labels


def test_labels_are_found_however_the_molecule_is_written(tmp_path):
    path = tmp_path / "table.csv.gz"
    rows = ("C[C@H](N)O,1.5,-0.25", "OCC,,-0.3", "CC,,", "C1CC,1,1")
    path.write_bytes(gzip.compress("\n".join(("smiles,mu,homo", *rows)).encode()))
    labels = read_labels(path)
    assert labels.keys() == {"CC(N)O", "CCO"}
    assert looked_up(plain_smiles("OC(C)N"), labels) == (1.5, pytest.approx(-6.8028, abs=1e-3))
    assert math.isnan(looked_up("CCO", labels)[0])
    assert all(math.isnan(value) for value in looked_up(None, labels))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("smiles,mu\nC,1\n", "no column 'homo'"),
        ("smiles,mu,homo\nC,one,2\n", "line 2: mu is 'one'"),
        ("smiles,mu,homo\nC,,\n", "no row has a molecule and a label"),
    ],
)
def test_a_table_without_labels_is_refused(tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_labels(path)


def test_calibration_recovers_a_line_and_what_it_leaves():
    random = np.random.default_rng(0)
    measured = random.normal(size=4000)
    line = calibrate(measured, 2 * measured + 1 + 0.5 * random.normal(size=4000))
    assert (line.slope, line.intercept) == pytest.approx((2, 1), abs=0.05)
    assert line.r == pytest.approx(2 / math.sqrt(4.25), abs=0.01)
    assert line.mae == pytest.approx(0.5 * math.sqrt(2 / math.pi), abs=0.02)


def test_expected_errors_are_those_of_the_table_not_of_the_line():
    random = np.random.default_rng(0)
    measured = random.normal(size=2000)
    known = measured + random.normal(size=2000)
    line = calibrate(measured, known)
    target = np.zeros(2000)
    assert line.errors(measured, target).mean() == pytest.approx(np.abs(known).mean(), rel=0.03)
    assert np.abs(line.values(measured)).mean() < 0.8 * np.abs(known).mean()
    assert np.isnan(line.errors(np.array([math.nan]), np.zeros(1))).all()


def test_nothing_to_calibrate_on_is_refused():
    with pytest.raises(ValueError, match="2 molecules to calibrate on"):
        calibrate(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
