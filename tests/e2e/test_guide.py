"""The guide command: from a small trained run to a table, its files and its refusals."""

import csv
import importlib.util
from pathlib import Path

import pytest

from openfl_flows.cli import main
from tests.processes import run
from tests.tiny import OVERRIDES

# Of one to three atoms, so that a network that has seen little draws valid ones.
SMALL = ("C", "CC", "CCC", "CO", "CCO", "CN", "CCN", "C=O", "CC=O", "CF", "FCC", "C#N", "O", "N")
TRAINED = (
    "experiment=demo", "data=csv", "federation.rounds=1", "federation.epochs=15",
    "model.training.lr=0.01", "model.training.batch_size=16", "model.sampling.num=0",
    "runtime.quiet=true",
)  # fmt: skip
OPTIONS = ("--targets", "4", "--num-per-target", "6", "--candidates", "3", "--calibrate", "8")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small molecules with labels that no other table has."""
    path = tmp_path_factory.mktemp("guide") / "small.csv"
    rows = [f"{s},{i % 14 + 0.5},{-(i % 9 + 25) / 100}" for i, s in enumerate(SMALL * 12)]
    path.write_text("\n".join(("smiles,mu,homo", *rows)) + "\n")
    return path


@pytest.fixture(scope="module")
def finished(table: Path) -> Path:
    """A run on them."""
    out, log = table.parent / "run", table.parent / "log"
    arguments = (*OVERRIDES, *TRAINED, f"data.path={table}", f"out={out}")
    assert run("centralize", *arguments, log=log) == 0, log.read_text()
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_of_what_guidance_gains(finished, table, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    more = ("--strengths", "0,2", "--gradient", "10", "--aims", "both,mu", "--table", str(table))
    assert main(["guide", str(finished), *OPTIONS, *more, "--out", str(out)]) == 0
    assert "labels of the table" in capsys.readouterr().out
    found = rows(out / "table.csv")
    names = ["unguided", "selection-both-2", "selection-mu-2", "gradient-both-10", "gradient-mu-10"]
    assert [row["guidance"] for row in found if row["source"] == "table"] == names
    assert {row["source"] for row in found} == {"table", "regressor"}
    assert all(row["gain_mu_value"] == "0.0" for row in found if row["guidance"] == names[0])
    for name in names:
        molecules = rows(out / f"{name}.csv")
        assert len(molecules) == 24
        assert len({(m["target_mu"], m["target_homo"]) for m in molecules}) <= 4
        mine = next(r for r in found if r["guidance"] == name and r["source"] == "table")
        known = [m for m in molecules if m["table_mu"]]
        assert int(mine["found"]) == len(known) > 0
        errors = [abs(float(m["table_mu"]) - float(m["target_mu"])) for m in known]
        assert float(mine["mae_mu_value"]) == pytest.approx(sum(errors) / len(errors), abs=1e-3)
    assert (out / "selection-both-2.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "errors.svg").read_text().startswith("<?xml")
    assert "selection 2, mu" in (out / "table.md").read_text()


def test_measured_with_xtb(finished, table, tmp_path) -> None:
    pytest.importorskip("tblite", exc_type=ImportError)
    out = tmp_path / "out"
    more = ("--strengths", "2", "--table", str(table), "--xtb")
    assert main(["guide", str(finished), *OPTIONS, *more, "--out", str(out)]) == 0
    measured = [row for row in rows(out / "table.csv") if row["source"] == "xtb"]
    assert [row["guidance"] for row in measured] == ["unguided", "selection-both-2"]
    assert all(0 < int(row["measured"]) <= 24 for row in measured)
    assert {row["smiles"] for row in rows(out / "unguided.csv") if row["xtb_mu"]} <= {
        row["smiles"] for row in rows(out / "xtb.csv")
    }
    assert "residual MAE" in (out / "table.md").read_text()


def test_targets_of_a_file(finished, table, tmp_path) -> None:
    wanted = tmp_path / "targets.csv"
    wanted.write_text("mu,homo\n2.0,\n,-7.5\n")
    more = ("--strengths", "2", "--targets", str(wanted), "--table", str(table))
    assert main(["guide", str(finished), *OPTIONS, *more, "--out", str(tmp_path / "out")]) == 0
    molecules = rows(tmp_path / "out" / "selection-both-2.csv")
    assert {(m["target_mu"], m["target_homo"]) for m in molecules} == {
        ("2.0000", "nan"),
        ("nan", "-7.5000"),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strengths", "much"), "--strengths has 'much', expected numbers of at least 0"),
        (("--gradient", "-1"), "--gradient has '-1'"),
        (("--aims", "lumo"), "--aims has 'lumo', expected both, mu or homo"),
        (("--targets", "999"), "999 targets, expected 1 to "),
        (("--num-per-target", "0"), "--num-per-target is 0, expected at least 1"),
        (("--candidates", "1"), "candidates is 1; expected at least 2"),
        (("--weights", "ema"), "--weights is ema, but"),
        (("--table", "nowhere.csv"), "nowhere.csv"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_one_line(finished, table, tmp_path, capsys, options, message) -> None:
    given = ("--table", str(table), *options) if "--table" not in options else options
    assert main(["guide", str(finished), *OPTIONS, *given, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.skipif(importlib.util.find_spec("tblite") is not None, reason="tblite is installed")
def test_without_tblite_xtb_is_refused(finished, table, tmp_path, capsys) -> None:
    more = ("--table", str(table), "--xtb", "--out", str(tmp_path / "out"))
    assert main(["guide", str(finished), *OPTIONS, *more]) == 1
    assert "pip install tblite" in capsys.readouterr().err
