"""What a study is made of: cells, pairs, and what is refused before anything runs."""

from typing import Any

import pytest

from openfl_flows.study.plan import Pair, Study, read_study

GRID = {
    "split": {"iid": ["partition=iid"], "scaffold": ["partition=scaffold"]},
    "sites": {"2": ["federation.sites=2"], "5": ["federation.sites=5"]},
}
VALUES: dict[str, Any] = {
    "runs": {
        "federated": {"command": "simulate", "overrides": ["seed=0"], "grid": GRID},
        "centralized": {"command": "centralize"},
    },
    "seeds": [1, 2],
}


def study(**changes: Any) -> Study:
    return read_study(VALUES | changes)


def pairs(pair: Pair) -> list[tuple[str, str]]:
    return [(cell.name, reference.name) for cell, reference in study().compared(pair)]


def test_every_combination_is_a_cell_with_the_overrides_of_its_choices() -> None:
    cells = {cell.name: cell for cell in study().cells()}
    assert list(cells) == [
        "federated-iid-2", "federated-iid-5", "federated-scaffold-2", "federated-scaffold-5",
        "centralized",
    ]  # fmt: skip
    scaffold = cells["federated-scaffold-5"]
    assert scaffold.overrides == ("seed=0", "partition=scaffold", "federation.sites=5")
    assert scaffold.at == {"split": "scaffold", "sites": "5"}
    assert (cells["centralized"].command, cells["centralized"].overrides) == ("centralize", ())


def test_a_pair_within_a_run_keeps_the_other_choices() -> None:
    pair = Pair(run="federated", reference="federated", at={"split": "iid"})
    assert pairs(pair) == [
        ("federated-scaffold-2", "federated-iid-2"),
        ("federated-scaffold-5", "federated-iid-5"),
    ]
    assert pair.title == "federated against split iid"


def test_a_run_without_a_grid_is_the_reference_of_all_cells() -> None:
    found = pairs(Pair(run="federated", reference="centralized"))
    assert len(found) == 4
    assert {reference for _, reference in found} == {"centralized"}


def started(**changes: Any) -> dict[str, Any]:
    """Changes that add a run which begins with the model of the federated one."""
    site = {name: [f"site={name}"] for name in ("site-1", "site-2")}
    tuned = {"command": "local", "start": "federated", "grid": {**GRID, "site": site}}
    return {"runs": {**VALUES["runs"], "tuned": tuned | changes}}


def test_a_run_begins_with_the_cell_of_the_same_choices() -> None:
    found = study(**started())
    cells = {cell.name: cell for cell in found.cells()}
    assert len(cells) == 4 + 1 + 8
    for cell in cells.values():
        start = found.start_of(cell)
        if cell.run == "tuned":
            assert start is not None
            assert start.name == f"federated-{cell.at['split']}-{cell.at['sites']}"
        else:
            assert start is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compare": [{"run": "local", "reference": "centralized"}]}, "'local', expected one of"),
        (
            {"compare": [{"run": "federated", "reference": "federated", "at": {"seed": "1"}}]},
            "at.seed, but 'federated' has no such axis",
        ),
        (
            {"compare": [{"run": "federated", "reference": "federated", "at": {"split": "size"}}]},
            "at.split=size, expected one of iid, scaffold",
        ),
        (
            {"compare": [{"run": "centralized", "reference": "federated", "at": {"split": "iid"}}]},
            "centralized against federated needs at.sites, one of 2, 5",
        ),
        ({"published": {"other": {"test_nll": 1.0}}}, "study.published names 'other'"),
        ({"seeds": [1, 1]}, "study.seeds"),
        ({"seeds": []}, "study.seeds"),
        ({"jobs": 0}, "study.jobs=0"),
        ({"runs": {}}, "study.runs is empty"),
        ({"runs": {"a/b": {"command": "simulate"}}}, "name 'a/b'"),
        (started(start="other"), "study.runs.tuned.start names 'other', expected one of federated"),
        (started(start="tuned"), "start=tuned, which begins with the model of 'tuned' itself"),
        (started(grid={"split": GRID["split"]}), "has the axis 'sites' in its grid, but 'tuned'"),
        (
            started(grid={**GRID, "split": {"size": ["partition=ranges"]}}),
            "which has no split 'size', expected one of iid, scaffold",
        ),
        (started(overrides=["initial=a.pt"]), "start=federated and initial=a.pt, expected one"),
        (
            started(grid={**GRID, "from": {"a": ["initial=a.pt"]}}),
            "start=federated and initial=a.pt",
        ),
        ({"speed": 3}, "speed"),
        ({"runs": {"a": {"comand": "simulate"}}}, "runs.a"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        study(**changes)


def test_a_start_that_begins_with_another_model_itself_is_refused() -> None:
    runs = started()["runs"]
    runs["more"] = {**runs["tuned"], "start": "tuned"}
    with pytest.raises(ValueError, match="start=tuned, which begins with the model of 'federated'"):
        study(runs=runs)


def test_a_choice_that_is_null_is_left_out() -> None:
    grid = {"sites": {"two": ["federation.sites=2"], "five": None}}
    study = read_study({"seeds": [1], "runs": {"a": {"command": "simulate", "grid": grid}}})
    assert [cell.name for cell in study.cells()] == ["a-two"]
