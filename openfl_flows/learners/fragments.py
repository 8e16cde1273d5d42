"""Streaming DiLoCo at a site: local training that goes on while a fragment is synchronised.

A site keeps a model of its own between rounds. When a fragment that it sent at the end of round
``r`` comes back joined, it is mixed in, ``local_f ← (1 - α) θ_f + α local_f``; the other fragments
go on locally. The first ``τ`` steps of round ``r + 1`` do not wait for it, so that they can be
taken while the link is busy: :func:`ahead` takes them, :func:`finish` all that follow.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ConfigDict

from openfl_flows.learners.base import Budget, Learner, Progress, TrainReport
from openfl_flows.metrics.mean import merge
from openfl_flows.state import State


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """How the model is synchronised in fragments (Douillard et al. 2025, arXiv:2501.18512).

    With ``federation.steps`` local steps in a round, a fragment is synchronised every
    ``H = federation.steps * fragments`` steps. The defaults are plain rounds of the whole model.

    Attributes:
        fragments: Parts of the model (F), of which each round synchronises one.
        delay: Local steps (τ) that a site takes between sending a fragment and having it back.
        mixing: Share (α) of the site's own values in what it goes on with; 0 for none.

    Raises:
        ValueError: A value is out of its range.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    fragments: int = 1
    delay: int = 0
    mixing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        for name, least in (("fragments", 1), ("delay", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"federation.streaming.{name}={value}, expected at least {least}")
        if not 0 <= self.mixing <= 1:
            raise ValueError(f"federation.streaming.mixing={self.mixing}, expected 0 to 1")

    @property
    def plain(self) -> bool:
        """Whether sites begin every round with the global model, whole."""
        return self == Streaming()

    def check(self, budget: Budget, rounds: int) -> None:
        """Refuse a schedule that cannot be kept.

        torchft's conditions (``DiLoCo`` in ``local_sgd.py``): that H is a multiple of F and not
        less holds by itself, since a round is H / F steps.

        Args:
            budget: Of a site's training in one round.
            rounds: Number of the last round.

        Raises:
            ValueError: Rounds are not counted in steps, are over before the fragment is back, or
                are too few for every fragment to be synchronised.
        """
        if self.plain:
            return
        if budget.steps is None:
            raise ValueError(
                f"federation.epochs={budget.epochs} with federation.streaming, expected "
                "federation.steps: sites must synchronise a fragment at the same step"
            )
        if self.delay >= budget.steps:
            raise ValueError(
                f"federation.streaming.delay={self.delay}, expected less than "
                f"federation.steps={budget.steps}: a fragment must be back before the next one goes"
            )
        if rounds < self.fragments:
            raise ValueError(
                f"federation.streaming.fragments={self.fragments}, expected at most "
                f"federation.rounds={rounds}: each round synchronises one"
            )


PLAIN = Streaming()
"""Rounds of the whole model."""

Begun = tuple[State, TrainReport]
"""The local model after the first steps of a round, and what they did."""


def merged(local: State, model: State, names: Iterable[str], mixing: float) -> State:
    """The local model once the tensors of ``names`` have come back as they are in ``model``.

    ``local_f ← (1 - α) θ_f + α local_f`` for what is averaged; integers are the global ones. With
    ``mixing`` 0 they are ``θ_f`` to the last bit.

    Args:
        local: The site's own model, whole.
        model: The global model, or at least the tensors of ``names``.
        names: What was synchronised.
        mixing: α.
    """
    received = {name: model[name] for name in names}
    if mixing:
        for name, theta in received.items():
            if theta.dtype.kind == "f":
                received[name] = (1 - mixing) * theta + mixing * local[name]
    return local.with_arrays(received)


def ahead(
    learner: Learner, local: State, streaming: Streaming, budget: Budget, progress: Progress
) -> Begun:
    """Take the first steps of a round, those that do not wait for the fragment under way.

    Args:
        learner: The site's, as the round before left it.
        local: The local model at the end of the round before.
        streaming: How many steps.
        budget: Of the whole round.
        progress: Told of each step, counted within the round.

    Returns:
        The local model after them, for :func:`finish`, and what they did.
    """
    if not streaming.delay:
        return local, TrainReport(metrics={}, num_samples=0, num_steps=0)
    learner.receive(local)
    report = _train(learner, streaming.delay, 0, budget, progress)
    return learner.send(), report


def finish(
    learner: Learner,
    begun: Begun,
    model: State,
    synced: Iterable[str],
    streaming: Streaming,
    budget: Budget,
    progress: Progress,
) -> TrainReport:
    """Mix in what has come back and take the other steps of the round.

    Args:
        learner: The site's. What it was asked to measure in between does not matter.
        begun: What :func:`ahead` gave.
        model: The global model, or at least the tensors of ``synced``.
        synced: Names of the tensors that were synchronised at the end of the round before.
        streaming: How they are mixed in.
        budget: Of the whole round.
        progress: Told of each step, counted within the round.

    Returns:
        What all steps of the round did.
    """
    local, first = begun
    learner.receive(merged(local, model, synced, streaming.mixing))
    if not streaming.delay:
        return learner.train(budget, progress)
    assert budget.steps is not None, "a schedule that check() has not seen"
    rest = _train(learner, budget.steps - streaming.delay, streaming.delay, budget, progress)
    return TrainReport(
        metrics=merge([first.metrics, rest.metrics]),
        num_samples=first.num_samples + rest.num_samples,
        num_steps=first.num_steps + rest.num_steps,
    )


def train_round(
    learner: Learner,
    local: State,
    model: State,
    synced: Iterable[str],
    streaming: Streaming,
    budget: Budget,
    progress: Progress,
) -> TrainReport:
    """One round of local training: :func:`ahead`, then :func:`finish`.

    Of one fragment, no delay and no mixing, it is ``receive(model)`` and ``train(budget)``.
    """
    begun = ahead(learner, local, streaming, budget, progress)
    return finish(learner, begun, model, synced, streaming, budget, progress)


def _train(
    learner: Learner, steps: int, before: int, budget: Budget, progress: Progress
) -> TrainReport:
    """Some steps of a round of which ``before`` were taken."""
    assert budget.steps is not None, "a schedule that check() has not seen"
    total = budget.steps
    return learner.train(
        Budget(steps=steps), lambda step, _, loss: progress(before + step, total, loss)
    )
