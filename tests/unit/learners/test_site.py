"""A site restores what it needs, keeps what it may need again, and forgets the rest."""

from pathlib import Path

import pytest

from openfl_flows.learners.base import Budget
from openfl_flows.learners.site import Site, release_learners
from openfl_flows.learners.toy import ToyTask

TASK = ToyTask(sites=("site-1",))


@pytest.fixture(autouse=True)
def _forget():
    yield
    release_learners()


def site(folder: Path, resident: int = 0) -> Site:
    return Site(
        "site-1",
        lambda: TASK.learner("site-1"),
        folder=folder,
        budget=Budget(steps=3),
        resident=resident,
    )


def play(site: Site, rounds: range, model):
    for round_ in rounds:
        site.validate(model, round_)
        site.train(model, round_)
        site.validate_local(round_)
        model = site.finish_round(round_)
    return model


def test_rounds_of_a_restarted_site_equal_those_of_one_that_went_on(tmp_path: Path) -> None:
    initial = TASK.initial_state()
    whole = play(site(tmp_path / "a", resident=1), range(1, 5), initial)
    release_learners()
    half = play(site(tmp_path / "b"), range(1, 3), initial)
    assert play(site(tmp_path / "b"), range(3, 5), half) == whole


def test_a_round_can_be_repeated(tmp_path: Path) -> None:
    first = play(site(tmp_path), range(1, 3), TASK.initial_state())
    second = play(site(tmp_path), range(3, 4), first)
    assert play(site(tmp_path), range(3, 4), first) == second


def test_two_states_are_kept_and_the_model_is_on_disk(tmp_path: Path) -> None:
    play(site(tmp_path), range(1, 5), TASK.initial_state())
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "local-00003.pt",
        "local-00004.pt",
        "progress.json",
        "update.safetensors",
    ]


def test_a_lost_state_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    model = play(site(tmp_path), range(1, 3), TASK.initial_state())
    (tmp_path / "local-00002.pt").write_bytes(b"not a state")
    with pytest.raises(ValueError, match="local-00002.pt: not a readable local state"):
        site(tmp_path).validate(model, 3)
    (tmp_path / "local-00002.pt").unlink()
    with pytest.raises(ValueError, match="local-00002.pt: no such file"):
        site(tmp_path).validate(model, 3)


def test_a_budget_is_steps_or_epochs() -> None:
    assert Budget(epochs=0.5).num_steps(10) == 5
    assert Budget(epochs=0.01).num_steps(10) == 1
    assert Budget(steps=7).num_steps(10) == 7
    for wrong in ({}, {"steps": 1, "epochs": 1.0}, {"steps": 0}):
        with pytest.raises(ValueError, match="exactly one of steps and epochs"):
            Budget(**wrong)
