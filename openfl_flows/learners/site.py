"""A site: its learner, and its local state on disk round by round."""

import json
import logging
import pickle
import time
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from openfl_flows.atomic import replacing, write_json
from openfl_flows.codecs.base import Compression
from openfl_flows.codecs.recipes import AS_IT_IS
from openfl_flows.joins.ema import Ema
from openfl_flows.joins.streaming import synchronised
from openfl_flows.learners.average import SiteAverage
from openfl_flows.learners.base import Budget, Learner, LocalState, TrainReport
from openfl_flows.learners.fragments import (
    PLAIN,
    Begun,
    Streaming,
    ahead,
    finish,
    train_round,
)
from openfl_flows.learners.uplink import Uplink
from openfl_flows.metrics.mean import Mean, Means
from openfl_flows.models.torch_files import load_whole
from openfl_flows.ops.files import load_state, map_state, save_state
from openfl_flows.ops.own_part import note_own_part
from openfl_flows.privacy.protection import OPEN, Protection
from openfl_flows.state import State

logger = logging.getLogger(__name__)

_COMPLETED = "completed.json"

LearnerFactory = Callable[[], Learner]

_resident: dict[Path, tuple[Learner, int]] = {}
"""Learners that this process keeps alive, each with the last round that it finished."""


class Site:
    """Drives one learner through rounds; the same for simulations and federations.

    The first ``resident`` learners of a process stay in memory between rounds. Any other, and any
    after a restart, is built anew and restored from the state that it saved at the end of its last
    round, with the same result to the last bit.

    Args:
        name: Name of the site.
        factory: Builds the learner on the site's data.
        folder: Where the local state is kept. It never leaves the site.
        budget: How long to train each round.
        resident: How many learners one process keeps alive.
        plan: What the rounds belong to: a completed round of another plan is trained anew.
        average: Rule of the moving average that is validated in place of the global model, for
            which every round must have as many steps; None to validate the model.
        compression: How updates travel.
        streaming: How the model is synchronised in fragments.
        protection: How updates are hidden.
        sites: How many sites there are.

    Attributes:
        ahead_seconds: How long those steps took of the round trained last that were taken in the
            background.
    """

    def __init__(
        self,
        name: str,
        factory: LearnerFactory,
        *,
        folder: Path,
        budget: Budget,
        resident: int = 0,
        plan: str = "",
        average: Ema | None = None,
        compression: Compression = AS_IT_IS,
        streaming: Streaming = PLAIN,
        protection: Protection = OPEN,
        sites: int = 1,
    ) -> None:
        self.name = name
        self.folder = folder
        self.uplink = Uplink(folder, name, compression, streaming.fragments, protection, sites)
        self._factory = factory
        self._budget = budget
        self._resident = resident
        self._plan = plan
        self._average = average and SiteAverage(folder, average, budget.num_steps(0))
        self._streaming = streaming
        self.ahead_seconds = 0.0
        self._first_round = 1
        self._ahead: tuple[int, Future[tuple[Begun, float]]] | None = None

    def validate(self, model: State, round_: int) -> Means:
        """Validate the global model that begins ``round_``, or its moving average."""
        learner = self._learner(round_)
        learner.receive(model if self._average is None else self._average.at(model, round_))
        return learner.validate()

    def measure(
        self, model: State, next_round: int, *, validate: bool = True, test: bool = True
    ) -> tuple[Means, Means]:
        """Measure a finished model on the site's validation data and on its test data.

        Args:
            model: The model.
            next_round: Number of the round that would train it further.
            validate: Whether to measure it on validation data; else there are no metrics of them.
            test: Whether to measure it on test data, likewise.
        """
        learner = self._learner(next_round)
        learner.receive(model)
        means = learner.validate() if validate else {}, learner.test() if test else {}
        self._release()
        return means

    def train(self, model: State, round_: int) -> TrainReport:
        """Train for the budget of ``round_`` from the global model, or from what of it is due.

        Raises:
            ValueError: The site may send no more updates of its data.
        """
        self.uplink.check_budget(model, round_)
        learner, progress = self._learner(round_), self._progress(round_)
        if self._streaming.plain:
            learner.receive(model)
            return learner.train(self._budget, progress)
        synced = synchronised(model.spec, self._streaming.fragments, round_ - 1)
        how = self._streaming, self._budget, progress
        started, self._ahead, self.ahead_seconds = self._ahead, None, 0.0
        if started is None or started[0] != round_:
            local = self._trained(round_ - 1) or model
            return train_round(learner, local, model, synced, *how)
        begun, self.ahead_seconds = started[1].result()
        return finish(learner, begun, model, synced, *how)

    def train_ahead(self, round_: int) -> None:
        """Begin ``round_`` in the background, with the steps that wait for nothing.

        Whatever else the learner is asked to do waits for them; :meth:`train` goes on from there.
        """
        local = self._trained(round_ - 1)
        if not self._streaming.delay or local is None:
            return
        arguments = self._learner(round_), local, self._streaming, self._budget
        pool = ThreadPoolExecutor(
            1, "train-ahead", torch.set_num_threads, (torch.get_num_threads(),)
        )
        self._ahead = round_, pool.submit(_timed_ahead, *arguments, self._progress(round_))
        pool.shutdown(wait=False)

    def await_ahead(self) -> None:
        """Wait for the steps that are taken in the background, if there are any."""
        if self._ahead is not None:
            self._ahead[1].result()

    def validate_local(self, round_: int) -> Means:
        """Validate the locally trained model of ``round_``."""
        return self._learner(round_).validate()

    def finish_round(self, round_: int) -> State:
        """Save the local state of ``round_`` and return the trained model.

        The state of the round before is kept until the next round ends, because the federation may
        have to repeat ``round_`` after a failure elsewhere. The model is handed over as a file
        mapped into memory: of all sites' models, only what a join looks at is in memory.
        """
        learner = self._learner(round_)
        _save(self._file(round_), learner.local_state())
        files = sorted(self.folder.glob("local-*.pt"))
        kept = [file for file in files if file <= self._file(round_)][-2:]
        for file in files:
            if file not in kept:
                file.unlink()
        update = self._update_file(round_)
        save_state(update, learner.send())
        for file in self.folder.glob("update-*.safetensors"):
            # Under streaming a round that has to be repeated begins where the one before ended.
            if file != update and (self._streaming.plain or file != self._update_file(round_ - 1)):
                file.unlink()
        _resident[self.folder] = (learner, round_)
        self._release()
        return map_state(update)

    def complete_round(self, model: State, round_: int) -> tuple[TrainReport, State]:
        """Train ``round_`` and save what came of it, or return what was saved of it before.

        In a federation either side may be restarted at any moment, and the aggregator may ask for
        a round again that this site has trained already: it gets the same answer, at once.

        Raises:
            ValueError: A file of the local state is missing or corrupt.
        """
        done = self._completed(round_)
        if done is not None and done["model"] == model.digest():
            metrics = {name: Mean(*mean) for name, mean in done["metrics"].items()}
            report = TrainReport(
                metrics=metrics, num_samples=done["num_samples"], num_steps=done["num_steps"]
            )
            return report, self._update(done)
        report = self.train(model, round_)
        update = self.finish_round(round_)
        counts = {"num_samples": report.num_samples, "num_steps": report.num_steps}
        note_own_part(self.folder, round_, {"model": model.digest(), **counts})
        write_json(
            self.folder / _COMPLETED,
            {
                "plan": self._plan,
                "round": round_,
                "model": model.digest(),
                "update": update.digest(),
                "metrics": {name: (m.total, m.count) for name, m in report.metrics.items()},
                **counts,
            },
        )
        return report, update

    def validate_completed(self, round_: int) -> Means:
        """Validate the model of a completed round, whichever process trained it.

        Raises:
            ValueError: The round was not completed here, or a file is missing or corrupt.
        """
        self.await_ahead()
        learner, last = _resident.get(self.folder, (None, -1))
        if learner is None or last != round_:
            done = self._completed(round_)
            if done is None:
                raise ValueError(f"{self.folder}: round {round_} was not trained here")
            learner = self._factory()
            learner.restore(_load(self._file(round_)))
            learner.receive(self._update(done))
            _resident[self.folder] = (learner, round_)
        means = learner.validate()
        self._release()
        return means

    @property
    def untrained(self) -> bool:
        """Whether no round that was trained here has left anything."""
        return self._last_completed() is None and not any(self.folder.glob("local-*.pt"))

    def begin_at(self, round_: int) -> None:
        """Have ``round_`` be the first one of this site, which takes part from there on."""
        self._first_round = round_

    def forget_completed(self) -> None:
        """Have the last round trained anew when it is asked for: nobody took its update."""
        (self.folder / _COMPLETED).unlink(missing_ok=True)

    def _completed(self, round_: int) -> dict[str, Any] | None:
        done = self._last_completed()
        return done if done is not None and done["round"] == round_ else None

    def _last_completed(self) -> dict[str, Any] | None:
        """The record of the last completed round of this plan."""
        file = self.folder / _COMPLETED
        if not file.is_file():
            return None
        try:
            done: dict[str, Any] = json.loads(file.read_text())
            return done if done["plan"] == self._plan else None
        except (ValueError, TypeError, KeyError):
            raise ValueError(
                f"{file}: not readable, expected the record of the round that was trained last; "
                "without the file that round is trained anew"
            ) from None

    def _update(self, done: Mapping[str, Any]) -> State:
        file = self._update_file(done["round"])
        update = load_state(file)
        if update.digest() != done["update"]:
            raise ValueError(f"{file}: not the update of round {done['round']}")
        return update

    def _trained(self, round_: int) -> State | None:
        """The site's own model at the end of a round; None where it took no part in it."""
        file = self._update_file(round_)
        return map_state(file) if file.is_file() else None

    def _progress(self, round_: int) -> "_Throttle":
        return _Throttle(self.folder / "progress.json", round_)

    def _learner(self, round_: int) -> Learner:
        """The learner as it was at the end of the round before, plus what this round did."""
        self.await_ahead()
        learner, last = _resident.get(self.folder, (None, -1))
        if learner is None or last != round_ - 1:
            learner = self._factory()
            if round_ > self._first_round:
                learner.restore(_load(self._file(self._round_before(round_))))
            _resident[self.folder] = (learner, round_ - 1)
        return learner

    def _round_before(self, round_: int) -> int:
        """The last round before ``round_`` that this site took part in."""
        done = self._last_completed()
        last = round_ - 1 if done is None else min(done["round"], round_ - 1)
        if last < round_ - 1:
            logger.warning(
                "%s took no part in the federation after round %d: round %d goes on from there",
                self.name, last, round_,
            )  # fmt: skip
        return last

    def _release(self) -> None:
        if len(_resident) > self._resident:
            del _resident[self.folder]

    def _file(self, round_: int) -> Path:
        return _local_file(self.folder, round_)

    def _update_file(self, round_: int) -> Path:
        return self.folder / f"update-{round_:05d}.safetensors"


def _timed_ahead(*arguments: Any) -> tuple[Begun, float]:
    began = time.monotonic()
    return ahead(*arguments), time.monotonic() - began


class _Throttle:
    """Writes training progress to a file, at most twice a second and at the end."""

    def __init__(self, file: Path, round_: int) -> None:
        self._file = file
        self._round = round_
        self._last = 0.0

    def __call__(self, step: int, num_steps: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._last < 0.5 and step < num_steps:
            return
        self._last = now
        write_json(
            self._file,
            {"round": self._round, "step": step, "num_steps": num_steps, "loss": loss},
        )


def release_learners() -> None:
    """Forget the learners that this process keeps alive; they are restored when needed again."""
    _resident.clear()


def check_local_state(folder: Path, round_: int) -> None:
    """Make sure that a site can go on after ``round_``, before anything is done.

    Raises:
        ValueError: Its local state of that round is missing or corrupt.
    """
    if round_ > 0:
        _load(_local_file(folder, round_))


def _local_file(folder: Path, round_: int) -> Path:
    return folder / f"local-{round_:05d}.pt"


def _save(path: Path, local_state: LocalState) -> None:
    with replacing(path) as temporary:
        torch.save(dict(local_state), temporary)


def _load(path: Path) -> LocalState:
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected the site's local state of that round")
    try:
        loaded: LocalState = load_whole(path)
    except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path}: not a readable local state: {reason}") from None
    return loaded
