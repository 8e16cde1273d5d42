"""A site that takes its time to train: what a slow machine does to a federation."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openfl_flows.learners.toy import ToyLearner
from openfl_flows.taskrunner.parties import LOG
from tests.fx_processes import _fx
from tests.processes import Process


def slow_site(out: Path, name: str, *, seconds: float, from_round: int = 1) -> Process:
    """Start a site of a rehearsal whose training takes longer from a round on.

    Args:
        out: Folder of the rehearsal.
        name: The site.
        seconds: How much longer a round's training takes.
        from_round: The first slow round.
    """
    log = out / name / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = ("collaborator", "start", "-n", name)
    return Process(_slow_fx, seconds, from_round, out / name, arguments, log=log)


def _slow_fx(seconds: float, from_round: int, folder: Path, arguments: Sequence[str]) -> None:
    train, rounds = ToyLearner.train, 0

    def slowly(self: ToyLearner, *given: Any) -> Any:
        nonlocal rounds
        rounds += 1
        if rounds >= from_round:
            time.sleep(seconds)
        return train(self, *given)

    ToyLearner.train = slowly  # type: ignore[method-assign]
    _fx(folder, tuple(arguments), {})
