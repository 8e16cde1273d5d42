"""The aggregator of OpenFL, made to survive: what matters is on disk, and what comes is checked."""

import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openfl.component.aggregator.aggregator import Aggregator as OpenFLAggregator
from openfl.protocols import utils
from openfl.utilities import TaskResultKey, TensorKey

from openfl_flows.atomic import replacing
from openfl_flows.experiment import traffic_of
from openfl_flows.metrics.mean import merge, values
from openfl_flows.ops.admission import Proportion, update_norm
from openfl_flows.ops.events import EventFiles
from openfl_flows.ops.inbox import Inbox, Result
from openfl_flows.ops.memory import return_freed_memory
from openfl_flows.ops.run import Mode, RunDirectory
from openfl_flows.state import Array, State
from openfl_flows.taskrunner.aggregation import TRAINED, VALIDATED, JoinAggregation, sent_by
from openfl_flows.taskrunner.broadcast import Broadcast, held_digest, held_tag
from openfl_flows.taskrunner.keepalive import notice_lost_connections
from openfl_flows.taskrunner.lint import check_plan
from openfl_flows.taskrunner.results import DATA_SIZE, decoded, keyed, sent_as, unframed
from openfl_flows.taskrunner.server import use_refusing_server
from openfl_flows.taskrunner.status import Status
from openfl_flows.taskrunner.wire import AVERAGE, means_of, model_messages, to_buckets
from openfl_flows.taskrunner.workspace import federation_id, read_workspace

logger = logging.getLogger(__name__)

FINAL, FINAL_AVERAGE = "final_model_validation", "final_average_validation"
"""The tasks of the round after the last."""

_OURS = frozenset({"metric", "trained"})
_UPDATE = frozenset({"trained", TRAINED, VALIDATED})


class Aggregator(OpenFLAggregator):
    """OpenFL's aggregator on a run directory.

    OpenFL's own checkpoint grows by the model every round, keeps nothing of a join's state, and
    takes the higher score as the better one. Here the run directory is the truth: a round exists
    once it is committed there, results of the round at hand wait in an inbox on disk, and the best
    model is the one that the plan's metric says. A restarted aggregator goes on from there.

    Args:
        run: The run directory, relative to the workspace.
        best: Metric that tells the best model, and ``min`` or ``max``.
        poll_seconds: How long an idle site waits before it asks again.
        patience_seconds: Silence of a site after which the operator is told.
        stall_seconds: How long nothing may come of an upload before the operator is told.
        max_norm_ratio: Refuse an update whose norm is more than this many times the lower median
            of the round before (in the first round: of the round itself); None to take any.
        federation_uuid: OpenFL's, which holds 32 bits of the plan's hash.
        settings: All else goes to OpenFL's aggregator.

    Attributes:
        status: What the operator sees.

    Raises:
        ValueError: The plan is not safe, or the run directory is damaged or of another run.
    """

    def __init__(
        self,
        *,
        federation_uuid: str,
        run: str = "local_state/run",
        best: tuple[str, Mode] | None = None,
        poll_seconds: int = 5,
        patience_seconds: float = 600,
        stall_seconds: float = 120,
        max_norm_ratio: float | None = 10.0,
        **settings: Any,
    ) -> None:
        check_plan(Path("plan") / "plan.yaml")
        notice_lost_connections()
        use_refusing_server()
        return_freed_memory()
        self._poll_seconds = poll_seconds
        self._grace_seconds = 10 + 2 * poll_seconds
        self._proportion = Proportion(max_norm_ratio)
        self._best = best
        self._rounds = settings["rounds_to_train"] - 1
        self._joining = settings["assigner"].get_aggregation_type_for_task(TRAINED)
        assert isinstance(self._joining, JoinAggregation)
        self._inbox = Inbox(Path(run).parent / "inbox")
        self._told: dict[str, str] = {}
        # OpenFL counts the round up before there is anything to serve in it.
        self._turn = threading.RLock()
        self._average_names: frozenset[str] = frozenset()
        for stray in (*Path(run).parent.glob(".*.tmp"), *Path("save").glob(".*.tmp")):
            stray.unlink()
        super().__init__(federation_uuid=federation_id(federation_uuid), **settings)
        self.status = Status(
            Path(run).parent / "status.json",
            sites=self.authorized_cols,
            rounds=self._rounds,
            patience_seconds=patience_seconds,
            stall_seconds=stall_seconds,
        )
        self._begin_round()

    @property
    def run(self) -> RunDirectory:
        """The run directory."""
        opened: RunDirectory = self._joining.run
        return opened

    def get_tasks(self, collaborator_name: str) -> tuple[Any, int, int, bool]:
        """What a site has to do, or how long to wait.

        Raises:
            ValueError: The site's last update was refused.
        """
        self.status.heard(collaborator_name)
        if collaborator_name in self._told:
            raise ValueError(self._told.pop(collaborator_name))
        with self._turn:
            tasks, round_, sleep, quits = super().get_tasks(collaborator_name)
        return tasks, round_, min(sleep, self._poll_seconds), quits

    def get_aggregated_tensor(
        self,
        tensor_name: str,
        round_number: int,
        report: bool,
        tags: tuple[str, ...],
        require_lossless: bool,
        requested_by: str,
    ) -> Any:
        """One bucket of the global model.

        Raises:
            ValueError: There is no such bucket. OpenFL would wait a minute for it.
        """
        key = TensorKey(tensor_name, self.uuid, round_number, report, tags)
        with self._turn:
            tensor = self._tensor(key, requested_by)
        self.status.heard(requested_by, down=tensor.ByteSize())
        return tensor

    def _tensor(self, key: TensorKey, requested_by: str) -> Any:
        name, _, round_number, report, tags = key
        held = held_digest(set(tags))
        others = set(tags) - {"compressed", held_tag(held)}
        of_model = not report and others == {"model"} and round_number == self.round_number
        if of_model and name in self._broadcast.names:
            return self._nparray_to_named_tensor(
                TensorKey(name, self.uuid, round_number, report, ("model",)),
                self._broadcast.frame(name, held),
                send_model_deltas=False,
                compress_lossless=True,
            )
        if of_model and name in self._average_names:
            return super().get_aggregated_tensor(
                name, round_number, report, ("model",), True, requested_by
            )
        reason = (
            f"{requested_by!r} asks for tensor {name[:80]!r} of round {round_number + 1}, expected "
            f"a bucket of the model of round {self.round_number + 1}"
        )
        logger.error("Refused: %s", reason)
        raise ValueError(reason)

    def valid_collaborator_cn_and_id(
        self, cert_common_name: str, collaborator_common_name: str
    ) -> bool:
        """Whether a certificate may speak for a site; who may not is told to the operator."""
        valid: bool = super().valid_collaborator_cn_and_id(
            cert_common_name, collaborator_common_name
        )
        if not valid:
            logger.error(
                "Refused: a certificate of %r speaks for %r, expected its own name, one of %s",
                cert_common_name[:80], collaborator_common_name[:80],
                ", ".join(self.authorized_cols),
            )  # fmt: skip
        return valid

    def send_local_task_results(
        self,
        collaborator_name: str,
        round_number: int,
        task_name: str,
        data_size: int,
        named_tensors: Sequence[Any],
    ) -> None:
        """Take a site's result of one task.

        Raises:
            ValueError: It is refused; the message says why.
        """
        self.status.heard(collaborator_name, up=sum(t.ByteSize() for t in named_tensors))
        tasks = self.assigner.get_all_tasks_for_round(round_number)
        if task_name not in tasks or not 0 <= round_number <= min(self.round_number, self._rounds):
            reason = (
                f"result of {collaborator_name!r} for {task_name[:80]!r} of round "
                f"{round_number + 1} refused: expected a task of round {self.round_number + 1}"
            )
            self.status.refused(collaborator_name, reason)
            raise ValueError(reason)
        # A site that was cut off from the answer sends again.
        if round_number < self.round_number or self._collaborator_task_completed(
            collaborator_name, task_name, round_number
        ):
            logger.warning(
                "Result of %r for %s of round %d is not awaited: ignored",
                collaborator_name, task_name, round_number + 1,
            )  # fmt: skip
            return
        try:
            result = decoded(
                collaborator_name, task_name, data_size, named_tensors, self.compression_pipeline
            )
            if task_name == TRAINED:
                result = unframed(
                    result, self._broadcast.expected(collaborator_name), self._broadcast.due
                )
            self._admit(result)
        except ValueError as error:
            self.status.refused(collaborator_name, str(error))
            raise
        try:
            self._take(self._inbox.put(round_number, result))
        except Exception:
            # Nobody would notice in this thread. All that came is in the inbox for a new start.
            logger.critical("The round cannot be ended; the aggregator stops", exc_info=True)
            os._exit(1)

    def _load_initial_tensors(self) -> None:
        """Open the run directory, or start it from the model file; serve its model."""
        initial, _ = utils.deconstruct_model_proto(self.model, self.compression_pipeline)
        self.model: Any = None
        plan = read_workspace(Path())
        self._compression, streaming = traffic_of(plan.config)
        self._fragments = streaming.fragments
        if not self._joining.begun:
            # What is in there was sent to a run that somebody has moved away.
            self._inbox.clear()
        run = self._joining.open(
            initial,
            config=plan.config,
            rounds=self._rounds,
            best=self._best and (self._best[0], self._best[1]),
            weights=plan.config["federation"].get("validate", "model"),
            compression=self._compression,
            fragments=self._fragments,
        )
        self.round_number = self._rounds + 1 if run.finished else run.round
        left_out = sorted(set(plan.config["federation"]["sites"]) - set(self.authorized_cols))
        if left_out and not self._time_to_quit():
            logger.warning(
                "Round %d goes on without %s: not named in plan/cols.yaml. Anything already "
                "received of this round from there is left out",
                self.round_number + 1, ", ".join(left_out),
            )  # fmt: skip

    def _begin_round(self) -> None:
        """Forget the rounds before, and take what arrived of this one before a restart."""
        rows = self.tensor_db.tensor_db
        self.tensor_db.tensor_db = rows[rows["round"] >= self.round_number].reset_index(drop=True)
        self._inbox.clear(before=self.round_number)
        self._proportion.begin_round()
        if self._time_to_quit():
            self._finish_serving()
            return
        self._joining.let_go()
        self._broadcast = Broadcast(
            self.run.model(),
            self.run.round,
            codec=self._compression.codec,
            fragments=self._fragments,
            before=self.run.digest_before,
            step=self.run.frames(),
        )
        if self.round_number == self._rounds and (average := self.run.average()) is not None:
            self._serve_average(average)
        seconds = [record["seconds"] for record in self.run.record["rounds"]]
        tasks = self.assigner.get_all_tasks_for_round(self.round_number)
        self.status.begin(self.round_number + 1, tasks, seconds)
        round_number = self.round_number
        for result in list(self._inbox.results(round_number)):
            if result.site not in self.authorized_cols or round_number != self.round_number:
                continue
            try:
                self._admit(result)
            except ValueError as error:
                logger.warning("%s. The site is asked for it again", error)
                self._inbox.remove(round_number, result.site, result.task)
            else:
                self._take(result)

    def _serve_average(self, average: State) -> None:
        buckets = to_buckets(average, AVERAGE)
        self._average_names = frozenset(buckets)
        self.tensor_db.cache_tensor(
            {
                TensorKey(name, self.uuid, self.round_number, False, ("model",)): array
                for name, array in buckets.items()
            }
        )

    @property
    def upload_bytes(self) -> int:
        """The most that the frames of an update may take."""
        return self._broadcast.update_bytes

    def _admit(self, result: Result) -> None:
        """Refuse an update of another spec, of another model, not finite, or out of proportion."""
        if result.task != TRAINED:
            return
        trained_from = sent_as(result, "fact")["trained_from"].tobytes().hex()
        expected = self.run.record["digest"]
        if trained_from != expected:
            raise ValueError(
                f"update of {result.site!r} refused: it was trained from the model "
                f"{trained_from[:12]}, expected {expected[:12]}: the sites' plans or code differ"
            )
        norm = update_norm(result.site, self._broadcast.due, sent_as(result, "trained"))
        self._proportion.admit(result.site, norm)

    def _take(self, result: Result) -> None:
        """What OpenFL does with a result that it has decoded; the round ends with the last one."""
        tensors = keyed(result, self.uuid, self.round_number)
        self.tensor_db.cache_tensor(tensors)
        task = TaskResultKey(result.task, result.site, self.round_number)
        self.collaborator_task_weight[task] = int(result.tensors[DATA_SIZE][0])
        # What OpenFL aggregates; the rest is for the join and for the record.
        self.collaborator_tasks_results[task] = [
            key for key in tensors if not _OURS.isdisjoint(key.tags)
        ]
        self.status.done(result.site, result.task)
        self._is_collaborator_done(result.site, self.round_number)
        self._end_of_round_with_stragglers_check()

    def _end_of_round_check(self) -> None:
        """Join, or measure the end; then begin the next round."""
        with self._turn:
            if self.round_number == self._rounds:
                self._finish_run()
            elif self._refuse_outliers():
                return
            self._keep_common_metrics()
            super()._end_of_round_check()
            self._begin_round()

    def _keep_common_metrics(self) -> None:
        """Leave to OpenFL what all sites have measured: it fails where one has a metric more."""
        for name in self.assigner.get_all_tasks_for_round(self.round_number):
            results = [
                self.collaborator_tasks_results[TaskResultKey(name, site, self.round_number)]
                for site in self.collaborators_done
            ]
            common = set.intersection(*({key.tensor_name for key in keys} for keys in results))
            for keys in results:
                keys[:] = [key for key in keys if key.tensor_name in common]

    def _refuse_outliers(self) -> bool:
        """In a first round only the updates themselves tell what is in proportion."""
        outliers = self._proportion.outliers(self.collaborators_done)
        for site, reason in outliers.items():
            self._take_back(site, reason)
        return bool(outliers)

    def _take_back(self, site: str, reason: str) -> None:
        """Undo the taking of an update; its site is told when it calls next."""
        self.status.refused(site, reason)
        self._told[site] = reason
        self._proportion.forget(site)
        for task in (TRAINED, VALIDATED):
            self._inbox.remove(self.round_number, site, task)
            self.collaborator_tasks_results.pop(TaskResultKey(task, site, self.round_number))
        self.collaborators_done.remove(site)
        rows = self.tensor_db.tensor_db
        sent = rows["tags"].map(lambda tags: site in tags and not _UPDATE.isdisjoint(tags))
        self.tensor_db.tensor_db = rows[~sent].reset_index(drop=True)

    def _prepare_trained(
        self, tensor_name: str, origin: str, round_number: int, report: bool, agg_results: Array
    ) -> None:
        """Nothing: the model is served as frames. OpenFL would keep it in four forms."""

    def _save_model(self, round_number: int, file_path: str) -> None:
        """Nothing: the join has committed the round, and the run directory knows the best one."""

    def _finish_run(self) -> None:
        """Pool what the sites measured of the finished model, and close the run."""
        rows = [row for row in self.tensor_db._iterate() if row["round"] == self.round_number]
        sent = [sent_by(site, rows) for site in sorted(self.collaborators_done)]

        def pooled(kind: str, task: str) -> dict[str, float]:
            return values(merge(means_of(found[frozenset((kind, task))]) for found in sent))

        validated = pooled("sums", FINAL_AVERAGE if self.run.validates_average else FINAL)
        self.run.measured(validated)
        EventFiles(self.run.path / "tensorboard").write_global(self.run.round, validated)
        self._write_model(self.run.model(), self.last_state_path)
        self._write_model(self.run.best_model() or self.run.model(), self.best_state_path)
        average = {f"ema_{name}": value for name, value in pooled("test", FINAL_AVERAGE).items()}
        # The last thing, because a finished run is left as it is.
        self.run.finish({**pooled("test", FINAL), **average})

    def _write_model(self, model: State, path: str) -> None:
        """Write a model file of OpenFL, for ``fx model save``."""
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            file.writelines(model_messages(model, self.round_number, self.compression_pipeline))

    def _finish_serving(self) -> None:
        """Tell every site that asks that it is over; do not wait for ever for one that is gone."""
        self.status.write("finished")
        grace = threading.Timer(
            self._grace_seconds, self.quit_job_sent_to.extend, [self.authorized_cols]
        )
        grace.daemon = True
        grace.start()
