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


def site(folder: Path, resident: int = 0, plan: str = "", steps: int = 3) -> Site:
    return Site(
        "site-1",
        lambda: TASK.learner("site-1"),
        folder=folder,
        budget=Budget(steps=steps),
        resident=resident,
        plan=plan,
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
        "update-00004.safetensors",
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


def complete(site: Site, rounds: range, model):
    """Rounds of a federation, where every update is the next model."""
    for round_ in rounds:
        site.validate(model, round_)
        _, model = site.complete_round(model, round_)
        site.validate_completed(round_)
    return model


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_federations_rounds_are_a_simulations(tmp_path: Path) -> None:
    initial = TASK.initial_state()
    expected = play(site(tmp_path / "a", resident=1), range(1, 5), initial)
    release_learners()
    assert complete(site(tmp_path / "b", resident=1), range(1, 5), initial) == expected


@pytest.mark.parametrize("restarted", [False, True])
def test_a_completed_round_is_answered_again_without_training(tmp_path: Path, restarted) -> None:
    first = complete(site(tmp_path, resident=1), range(1, 2), TASK.initial_state())
    running = site(tmp_path, resident=1)
    report, update = running.complete_round(first, 2)
    means = running.validate_completed(2)
    before = files(tmp_path)
    if restarted:
        release_learners()
    # With other steps, what is trained again is another model.
    again = site(tmp_path, resident=1, steps=5)
    assert again.complete_round(first, 2) == (report, update)
    assert again.validate_completed(2) == means
    # In either order, and after the global model was validated once more.
    again.validate(first, 2)
    assert again.validate_completed(2) == means
    assert again.complete_round(first, 2) == (report, update)
    assert files(tmp_path) == before
    third = again.complete_round(update, 3)[1]
    release_learners()
    assert site(tmp_path, steps=5).complete_round(update, 3)[1] == third


def test_a_round_is_trained_anew_from_another_model_for_another_plan_or_once_refused(
    tmp_path: Path,
) -> None:
    initial = TASK.initial_state()
    update = complete(site(tmp_path), range(1, 2), initial)
    longer = play(site(tmp_path / "longer", steps=5), range(1, 2), initial)
    assert site(tmp_path, steps=5).complete_round(initial, 1)[1] == update
    refused = site(tmp_path, steps=5)
    refused.forget_completed()
    assert refused.complete_round(initial, 1)[1] == longer
    assert site(tmp_path, plan="other").complete_round(initial, 1)[1] == update
    elsewhere = play(site(tmp_path / "elsewhere"), range(1, 2), update)
    assert site(tmp_path, plan="other").complete_round(update, 1)[1] == elsewhere


def test_files_of_an_earlier_federation_do_not_count(tmp_path: Path) -> None:
    initial = TASK.initial_state()
    expected = complete(site(tmp_path / "new", plan="new"), range(1, 4), initial)
    complete(site(tmp_path / "used", plan="old", steps=5), range(1, 8), initial)
    used = site(tmp_path / "used", plan="new")
    assert complete(used, range(1, 4), initial) == expected
    assert sorted(file.name for file in (tmp_path / "used").glob("local-*")) == [
        "local-00002.pt",
        "local-00003.pt",
    ]


def test_a_site_that_took_no_part_for_some_rounds_goes_on_from_its_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = complete(site(tmp_path / "a"), range(1, 3), TASK.initial_state())
    expected = complete(site(tmp_path / "a"), range(3, 4), model)
    complete(site(tmp_path / "b"), range(1, 3), TASK.initial_state())
    assert complete(site(tmp_path / "b"), range(6, 7), model) == expected
    assert "site-1 took no part in the federation after round 2: round 6 goes on" in caplog.text
    complete(site(tmp_path / "b"), range(7, 8), expected)
    assert caplog.text.count("took no part") == 1


def test_a_round_that_was_not_trained_here_cannot_be_validated(tmp_path: Path) -> None:
    complete(site(tmp_path), range(1, 3), TASK.initial_state())
    for round_ in (1, 3):
        with pytest.raises(ValueError, match=f"round {round_} was not trained here"):
            site(tmp_path).validate_completed(round_)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("completed.json", b'{"plan": "", "rou'),
        ("completed.json", b"[]"),
        ("completed.json", b"{}"),
        ("completed.json", b"\xff\xfe"),
        ("update-00002.safetensors", b"\x00" * 50),
        ("update-00002.safetensors", b""),
        ("local-00002.pt", b"PK"),
    ],
)
def test_damage_after_a_completed_round_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    model = complete(site(tmp_path), range(1, 2), TASK.initial_state())
    site(tmp_path).complete_round(model, 2)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/{name}: not "):
        site(tmp_path).validate_completed(2)
    if not name.startswith("local"):
        with pytest.raises(ValueError, match=f"{tmp_path}/{name}: not "):
            site(tmp_path).complete_round(model, 2)


def test_an_update_of_another_round_is_not_sent(tmp_path: Path) -> None:
    model = complete(site(tmp_path), range(1, 2), TASK.initial_state())
    old = (tmp_path / "update-00001.safetensors").read_bytes()
    site(tmp_path).complete_round(model, 2)
    (tmp_path / "update-00002.safetensors").write_bytes(old)
    with pytest.raises(ValueError, match=r"update-00002.safetensors: not the update of round 2"):
        site(tmp_path).complete_round(model, 2)
