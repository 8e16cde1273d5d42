"""A site's rounds in fragments: what is refused, what is mixed, and steps taken ahead."""

import copy

import numpy as np
import pytest

from openfl_flows.experiment import check
from openfl_flows.joins.streaming import split
from openfl_flows.learners.base import Budget, TrainReport
from openfl_flows.learners.fragments import Streaming, ahead, finish, merged, train_round
from openfl_flows.learners.toy import ToyLearner, ToyTask
from openfl_flows.state import State

TASK = ToyTask(sites=("a", "b"), padding=3)
HOW = Streaming(fragments=2, delay=2, mixing=0.25)


def silent(step: int, num_steps: int, loss: float) -> None:
    pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fragments": 0}, "streaming.fragments=0, expected at least 1"),
        ({"delay": -1}, "streaming.delay=-1, expected at least 0"),
        ({"mixing": 1.1}, "streaming.mixing=1.1, expected 0 to 1"),
        ({"mixing": -0.1}, "streaming.mixing=-0.1, expected 0 to 1"),
        ({"mixing": float("nan")}, "streaming.mixing=nan, expected 0 to 1"),
        ({"fragments": 1.5}, "streaming.fragments=1.5: Input should be a valid integer"),
        ({"alpha": 0.5}, "streaming.alpha=0.5: Unexpected keyword argument"),
    ],
)
def test_what_means_nothing_is_refused_by_key(options, message):
    with pytest.raises(ValueError, match=message):
        check("federation.streaming", Streaming, options)


@pytest.mark.parametrize(
    ("how", "budget", "message"),
    [
        ({"fragments": 2}, {"epochs": 1.0}, "epochs=1.0 with .*, expected federation.steps"),
        ({"delay": 1}, {"epochs": 1.0}, "epochs=1.0 with .*, expected federation.steps"),
        ({"mixing": 0.5}, {"epochs": 1.0}, "epochs=1.0 with .*, expected federation.steps"),
        ({"delay": 5}, {"steps": 5}, "delay=5, expected less than federation.steps=5"),
        ({"fragments": 4, "delay": 6}, {"steps": 5}, "delay=6, expected less than .*steps=5"),
        ({"fragments": 11}, {"steps": 5}, "fragments=11, expected at most federation.rounds=10"),
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused_by_key(how, budget, message):
    with pytest.raises(ValueError, match=message):
        Streaming(**how).check(Budget(**budget), rounds=10)


@pytest.mark.parametrize(
    ("how", "budget"),
    [
        ({}, {"epochs": 0.5}),
        ({}, {"steps": 1}),
        ({"delay": 4}, {"steps": 5}),
        ({"fragments": 10, "mixing": 1.0}, {"steps": 1}),
    ],
)
def test_a_schedule_that_can_be_kept_is_not(how, budget):
    Streaming(**how).check(Budget(**budget), rounds=10)


def test_what_is_plain():
    assert Streaming().plain
    assert not any(Streaming(**o).plain for o in ({"fragments": 2}, {"delay": 1}, {"mixing": 0.5}))


LOCAL = State(
    {
        "a": np.array([4, 8], np.float32),
        "b": np.array([1, 2], np.float32),
        "half": np.array([2], np.float16),
        "count": np.array(7),
        "frozen": np.ones(1, np.float32),
    },
    frozen=["frozen"],
)
MODEL = State(
    {
        "a": np.array([0, -0.0], np.float32),
        "half": np.array([4], np.float16),
        "count": np.array(9),
    }
)


def test_merging_by_hand():
    mixed = merged(LOCAL, MODEL, ("a", "half", "count"), 0.25)
    assert mixed == LOCAL.with_arrays(
        {
            "a": np.array([1, 2], np.float32),
            "half": np.array([3.5], np.float16),
            "count": np.array(9),
        }
    )


def test_without_mixing_the_global_bits_are_taken_and_with_all_of_it_the_own_values():
    taken = merged(LOCAL, MODEL, MODEL, 0.0)
    assert taken == LOCAL.with_arrays(MODEL)
    assert np.signbit(taken["a"][1])
    assert merged(LOCAL, MODEL, ("a", "half"), 1.0) == LOCAL
    assert merged(LOCAL, MODEL, (), 0.5) == LOCAL


def two_rounds(learner: ToyLearner, *, early: bool = False) -> tuple[State, list[TrainReport]]:
    """Two rounds of five steps; ``early``: the second begins while other things happen."""
    model, budget = TASK.initial_state(), Budget(steps=5)
    first = train_round(learner, model, model, (), HOW, budget, silent)
    local, synced = learner.send(), split(model.spec, 2)[0]
    theirs = model.map(lambda array: array + np.float32(1))
    if not early:
        second = train_round(learner, local, theirs, synced, HOW, budget, silent)
        return learner.send(), [first, second]
    kept = copy.deepcopy(learner.local_state())
    begun = ahead(learner, local, HOW, budget, silent)
    learner.receive(theirs)
    learner.validate()
    in_time = finish(learner, begun, theirs, synced, HOW, budget, silent)
    expected = learner.send()
    # A site that was killed meanwhile takes the same steps again.
    restored = TASK.learner("a")
    restored.restore(kept)
    begun = ahead(restored, local, HOW, budget, silent)
    again = finish(restored, begun, theirs, synced, HOW, budget, silent)
    assert (restored.send(), again) == (expected, in_time)
    return expected, [first, in_time]


def test_steps_taken_ahead_are_those_of_the_round():
    assert two_rounds(TASK.learner("a"), early=True) == two_rounds(TASK.learner("a"))


def test_a_report_counts_all_steps_of_its_round():
    _, reports = two_rounds(TASK.learner("a"))
    for report in reports:
        assert (report.num_steps, report.num_samples) == (5, 80)
        assert report.metrics["train_loss"].count == 80


def test_progress_is_counted_within_the_round():
    learner, model, told = TASK.learner("a"), TASK.initial_state(), []
    budget = Budget(steps=5)

    def progress(step: int, num_steps: int, loss: float) -> None:
        told.append((step, num_steps))

    begun = ahead(learner, model, HOW, budget, progress)
    assert told == [(1, 5), (2, 5)]
    finish(learner, begun, model, (), HOW, budget, progress)
    assert told == [(step, 5) for step in range(1, 6)]


def test_without_anything_synchronised_a_cut_round_is_a_whole_one():
    model, whole, cut = TASK.initial_state(), TASK.learner("a"), TASK.learner("a")
    whole.receive(model)
    expected = whole.train(Budget(steps=5), silent)
    report = train_round(cut, model, model, (), HOW, Budget(steps=5), silent)
    assert cut.send() == whole.send()
    assert report.metrics["train_loss"].value == pytest.approx(expected.metrics["train_loss"].value)
