"""The aggregation function of OpenFL: any join, with its state and the run directory."""

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from openfl.interface.aggregation_functions.core import AggregationFunction
from openfl.utilities import LocalTensor

from openfl_flows.codecs.base import Compression
from openfl_flows.codecs.recipes import AS_IT_IS
from openfl_flows.joins.recipes import build_ema, build_join
from openfl_flows.joins.streaming import due, streaming
from openfl_flows.ops.aggregation import Aggregation, Contribution, initial_checkpoint
from openfl_flows.ops.ledger import LEDGER
from openfl_flows.ops.run import Mode, RunDirectory, Weights
from openfl_flows.ops.standings import FOLDER, standings
from openfl_flows.state import Array, State
from openfl_flows.taskrunner.status import Status
from openfl_flows.taskrunner.turns import with_turns
from openfl_flows.taskrunner.wire import (
    fragment_due,
    from_buckets,
    from_model_tensors,
    means_of,
    to_buckets,
    update_due,
)
from openfl_flows.update import Update

RECEIVED, TRAINED, VALIDATED = (
    "aggregated_model_validation",
    "train",
    "locally_tuned_model_validation",
)
"""The tasks of a round, in order."""

NOT_NAMED, NOT_READY = "not in plan/cols.yaml", "not ready when the round began"
"""Why a site of the plan is left out of a round."""

_NOTHING = np.empty(0, np.float32)
_LINK_SECONDS = ("download", "decode", "encode", "upload")
# What may change between two starts of one run.
_FREE = frozenset({"federation.rounds", "initial", "name", "network"})


class JoinAggregation(AggregationFunction):
    """Joins whole models, once per round, and commits the round to a run directory.

    OpenFL calls an aggregation function once for every tensor, keeps none of its state, and calls
    it again for the same round after a restart. The first call of a round therefore gathers all
    sites' buckets and metrics from the tensor database, joins and commits them; the other calls,
    and any after a restart, give what is committed.

    Args:
        join: Name and options of the join, as in the plan's group ``join``.
        ema: Name and options of the moving average, as in the plan's group ``ema``.
        run: The run directory.

    Raises:
        ValueError: A name is unknown, or an option does not belong to it.
    """

    def __init__(
        self,
        join: Mapping[str, Any],
        ema: Mapping[str, Any] | None = None,
        run: str = "local_state/run",
    ) -> None:
        super().__init__()
        self._join = build_join(**join)
        self._ema = build_ema(**ema) if ema else None
        self._path = Path(run)
        self._aggregation: Aggregation | None = None
        self._joined: tuple[int, dict[str, Array]] | None = None
        self.status: Status | None = None
        """What the aggregator knows of the sites: when one took its turn, why one is left out."""

    @property
    def begun(self) -> bool:
        """Whether there is a run to go on with."""
        return (self._path / "run.json").is_file()

    def open(
        self,
        initial: Mapping[str, Array],
        *,
        config: Mapping[str, Any],
        rounds: int,
        best: tuple[str, Mode] | None = None,
        weights: Weights = "model",
        compression: Compression = AS_IT_IS,
        fragments: int = 1,
        secure: bool = False,
    ) -> RunDirectory:
        """Go on with the run directory, or start it; one that is finished stays as it is.

        Args:
            initial: The tensors of the initial model's file.
            config: What the run is made from, for its record.
            rounds: Number of the last round.
            best: Metric that tells the best model, and ``min`` or ``max``.
            weights: What is validated, and so can be the best.
            compression: How models travel.
            fragments: Parts of the model, of which each round joins one.
            secure: Updates are integers behind masks, of which only the sum is looked at.

        Raises:
            ValueError: The run directory is of another plan, or damaged.
        """
        average = self._ema is not None
        join = streaming(self._join, fragments)
        self._fragments, self._secure = fragments, secure
        if self.begun:
            self.run = RunDirectory.open(self._path)
            different = _difference(self.run.record["config"], config) if config else None
            if different is not None:
                raise ValueError(
                    f"{self._path}: a run of another plan, {different} is not as in "
                    "plan/plan.yaml: move it away to start anew, or go on with its own plan"
                )
            if not (self.run.finished and self.run.round == rounds):
                self.run = RunDirectory.resume(
                    self._path, rounds=rounds, average=average, config=config
                )
                self.run.go_on()
        else:
            self._remove_unbegun()
            model = from_model_tensors(initial)
            first = initial_checkpoint(model, join, average=average)
            self.run = RunDirectory.create(
                self._path, config=config, initial=first, best=best, weights=weights
            )
        self._aggregation = Aggregation(self.run, join, self._ema, compression, fragments, secure)
        return self.run

    def begin(self) -> None:
        """Start the clock of a round that has waited for its sites until now."""
        if self._aggregation is not None:
            self._aggregation.begin()

    def let_go(self) -> None:
        """Forget the model that the last round made: the run directory has it."""
        self._joined = None

    def _remove_unbegun(self) -> None:
        """Remove what a kill left of a run without a record: its first checkpoint and line."""
        left = [file for file in self._path.rglob("*") if file.is_file()]
        first, ledger = self._path / "checkpoints" / "00000", self._path / LEDGER
        if all(file.suffix == ".tmp" or file.parent == first or file == ledger for file in left):
            shutil.rmtree(self._path, ignore_errors=True)

    def call(
        self,
        local_tensors: list[LocalTensor],
        db_iterator: Iterable[Any],
        tensor_name: str,
        fl_round: int,
        tags: tuple[str, ...],
    ) -> Array:
        """The next global value of one bucket; of any other tensor the weighted mean.

        Args:
            local_tensors: The sites' tensors of this name, with weights that sum to 1.
            db_iterator: All rows of the tensor database.
            tensor_name: The bucket.
            fl_round: OpenFL's round, from 0.
            tags: What the tensor is.

        Raises:
            ValueError: An update is refused.
        """
        if "trained" not in tags:
            weights = [local.weight for local in local_tensors]
            return np.asarray(
                np.average([local.tensor for local in local_tensors], axis=0, weights=weights)
            )
        if self._joined is None or self._joined[0] != fl_round:
            self._joined = None
            sites = sorted(local.col_name for local in local_tensors)
            joined = self._join_round(list(db_iterator), sites, fl_round)
            prefix, _ = fragment_due(joined.spec, self._fragments, fl_round + 1)
            moved = due(joined, self._fragments, fl_round + 1)
            self._joined = fl_round, to_buckets(moved, prefix)
        # An update behind masks has more buckets, and nobody is served any of these.
        return self._joined[1].get(tensor_name, _NOTHING)

    def _join_round(self, rows: list[Any], sites: list[str], fl_round: int) -> State:
        if self._aggregation is None:
            initial = {
                row["tensor_name"]: row["nparray"] for row in rows if row["tags"] == ("model",)
            }
            self.open(initial, config={}, rounds=fl_round + 1)
        assert self._aggregation is not None
        if self.run.round == fl_round + 1:
            return self.run.model()
        if self.run.round != fl_round:
            raise ValueError(f"{self._path} has {self.run.round} rounds, expected {fl_round}")
        model = self.run.model()
        own = [row for row in rows if row["round"] == fl_round]
        contributions = with_turns(
            [
                contribution(
                    site,
                    model,
                    own,
                    round_=fl_round + 1,
                    fragments=self._fragments,
                    secure=self._secure,
                )
                for site in sites
            ],
            {} if self.status is None else self.status.turns.taken(),
        )
        planned = self.run.record["config"].get("federation", {}).get("sites", ())
        return self._aggregation.join(
            model,
            contributions,
            left_out={site: self._why_not(site) for site in sorted({*planned} - {*sites})},
            refused=dict(self.status.refusals) if self.status is not None else {},
            attestation=standings(self._path.parent / FOLDER, sites, self._path),
        )

    def _why_not(self, site: str) -> str:
        named = self.status is not None and site in self.status.sites
        return NOT_READY if named else NOT_NAMED


def contribution(
    site: str,
    model: State,
    rows: Iterable[Any],
    *,
    round_: int,
    fragments: int = 1,
    secure: bool = False,
) -> Contribution:
    """Put together what one site sent in one round.

    Args:
        site: Its name.
        model: The global model that the round began with.
        rows: The rows of the tensor database of that round.
        round_: Its number, from 1.
        fragments: Parts of the model, of which each round joins one.
        secure: The update is integers behind masks.

    Raises:
        ValueError: A bucket is missing or does not fit the model.
    """
    found = sent_by(site, rows)
    facts = {task: found[frozenset(("fact", task))] for task in (RECEIVED, TRAINED, VALIDATED)}
    sums = {task: means_of(found[frozenset(("sums", task))]) for task in facts}
    prefix, spec = update_due(model.spec, fragments, round_, secure=secure)
    frozen = {}
    if fragments == 1 and not secure:
        spec, frozen = model.spec, {name: model[name] for name in model.frozen}
    return Contribution(
        update=Update(
            site=site,
            state=from_buckets(found[frozenset(("trained",))], spec, frozen, prefix),
            num_samples=int(facts[TRAINED]["num_samples"]),
            num_steps=int(facts[TRAINED]["num_steps"]),
        ),
        received=sums[RECEIVED],
        trained=sums[TRAINED],
        validated=sums[VALIDATED],
        seconds=site_seconds(facts),
        peak_rss_bytes=int(max(fact["peak_rss_bytes"] for fact in facts.values())),
        rss_bytes=int(facts[VALIDATED].get("rss_bytes", 0)),
        frames_bytes=int(facts[TRAINED].get("frames_bytes", 0)),
        frames=facts[TRAINED].get("frames", np.empty(0, np.uint8)).tobytes().hex(),
        bytes_up=int(sum(fact.get("bytes_up", 0) for fact in facts.values())),
        bytes_down=int(sum(fact.get("bytes_down", 0) for fact in facts.values())),
    )


def site_seconds(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """A site's seconds by task, and of what happens between its tasks.

    Args:
        facts: What the site tells of the tasks of one round, by task.
    """
    tasks = {
        "local_model_validation" if task == VALIDATED else task: float(fact["seconds"])
        for task, fact in facts.items()
    }
    # The first task's upload is of the last round's last result, whose answer waits for the join.
    own = {
        part: sum(
            float(fact.get(part, 0))
            for task, fact in facts.items()
            if (part, task) != ("upload", RECEIVED)
        )
        for part in _LINK_SECONDS
    }
    return {**tasks, **own}


def sent_by(site: str, rows: Iterable[Any]) -> dict[frozenset[str], dict[str, Array]]:
    """What one site sent: by tags, which OpenFL mixes with the site's name, then by name."""
    found: dict[frozenset[str], dict[str, Array]] = defaultdict(dict)
    for row in rows:
        if site in row["tags"]:
            found[frozenset(row["tags"]) - {site}][row["tensor_name"]] = row["nparray"]
    return found


def _difference(recorded: Any, planned: Any, key: str = "") -> str | None:
    """The first key, dotted, in which two plans differ."""
    if key in _FREE or recorded == planned:
        return None
    if not (isinstance(recorded, Mapping) and isinstance(planned, Mapping)):
        return key
    keys = sorted(recorded.keys() | planned.keys())
    below = (
        _difference(recorded.get(name), planned.get(name), f"{key}.{name}" if key else name)
        for name in keys
    )
    return next((found for found in below if found), None)
