"""The aggregator of OpenFL, made to survive: what matters is on disk, and what comes is checked."""

import contextlib
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from openfl.component.aggregator.aggregator import Aggregator as OpenFLAggregator
from openfl.protocols import utils
from openfl.utilities import TaskResultKey, TensorKey

from openfl_flows.experiment import check, evaluation_of, traffic_of
from openfl_flows.ops.admission import Proportion
from openfl_flows.ops.inbox import Inbox, Result
from openfl_flows.ops.memory import return_freed_memory
from openfl_flows.ops.run import Mode, RunDirectory
from openfl_flows.readiness.rules import Readiness
from openfl_flows.state import Array
from openfl_flows.taskrunner.aggregation import TRAINED, VALIDATED, JoinAggregation, sent_by
from openfl_flows.taskrunner.announcements import ANNOUNCE, TAG, Announcements
from openfl_flows.taskrunner.broadcast import Broadcast
from openfl_flows.taskrunner.ending import finish, write_model
from openfl_flows.taskrunner.entrance import READINESS, Entrance, forget_verdicts
from openfl_flows.taskrunner.evaluation import conclude
from openfl_flows.taskrunner.keepalive import notice_lost_connections
from openfl_flows.taskrunner.lint import check_plan
from openfl_flows.taskrunner.results import DATA_SIZE, decoded, keyed, unframed
from openfl_flows.taskrunner.server import use_refusing_server
from openfl_flows.taskrunner.serving import Serving
from openfl_flows.taskrunner.status import Status
from openfl_flows.taskrunner.taking import check_awaited, check_result, keep_common, tell_left_out
from openfl_flows.taskrunner.wire import check_initial
from openfl_flows.taskrunner.workspace import federation_id, read_workspace

logger = logging.getLogger(__name__)

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
        metrics_port: Where Prometheus may ask on this machine; None for nowhere.
        secure_aggregation: Updates are masked; OpenFL's own way of it is left alone.
        readiness: When a round may begin, as the plan's ``network.readiness``; without it, with
            whoever comes.
        federation_uuid: OpenFL's, which holds 32 bits of the plan's hash.
        settings: All else goes to OpenFL's aggregator.

    Attributes:
        status: What the operator sees.
        turn: Held until a round's end is served: OpenFL counts it up before.

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
        metrics_port: int | None = None,
        secure_aggregation: bool = False,
        readiness: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        check_plan(Path("plan") / "plan.yaml")
        notice_lost_connections()
        use_refusing_server()
        return_freed_memory()
        self._poll_seconds, self._grace_seconds = poll_seconds, 10 + 2 * poll_seconds
        rules: Readiness = check("network.readiness", Readiness, readiness or {"required": False})
        self._readiness, self._probe_bytes = rules, rules.probe_mib * 2**20
        self._begun, self._proportion = False, Proportion(max_norm_ratio)
        self._best, self._secure = best, secure_aggregation
        announced = Path(run).parent / "announcements"
        self._announcements = Announcements(announced, settings["authorized_cols"])
        self._rounds = settings["rounds_to_train"] - 1
        self._joining = settings["assigner"].get_aggregation_type_for_task(TRAINED)
        assert isinstance(self._joining, JoinAggregation)
        self._inbox = Inbox(Path(run).parent / "inbox")
        self._told: dict[str, str] = {}
        self.turn = threading.RLock()
        for stray in (*Path(run).parent.glob(".*.tmp"), *Path("save").glob(".*.tmp")):
            stray.unlink()
        super().__init__(federation_uuid=federation_id(federation_uuid), **settings)
        self.status = Status(
            Path(run).parent / "status.json",
            sites=self.authorized_cols,
            rounds=self._rounds,
            patience_seconds=patience_seconds,
            stall_seconds=stall_seconds,
            poll_seconds=poll_seconds,
            metrics_port=metrics_port,
        )
        self._joining.status = self.status
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
        if not self._time_to_quit():
            asked, held = self._entrance.ask(collaborator_name, self.round_number + 1)
            self._note_who_is_ready()
            if asked is not None:
                wait = 0 if asked else max(0, round(self._poll_seconds - held))
                return asked or None, self.round_number, wait, False
        with self.turn:
            tasks, round_, sleep, quits = super().get_tasks(collaborator_name)
            # Another cycle may have come since the site was let in.
            if tasks and collaborator_name not in self._members():
                tasks = None
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
        if TAG in tags:
            return self._announcements.of(tensor_name)
        key = TensorKey(tensor_name, self.uuid, round_number, report, tags)
        # A probe measures the line, not how long a round takes to end.
        probe = READINESS in tags
        with contextlib.nullcontext() if probe else self.turn:
            found = self._entrance.answer if probe else self._serving.array
            array = found(key, requested_by)
            kind = key._replace(tags=("model",))
            tensor = self._nparray_to_named_tensor(kind, array, False, True)
        self.status.heard(requested_by, down=tensor.ByteSize())
        return tensor

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
        if task_name == READINESS:
            self._entrance.take(collaborator_name, named_tensors, self.round_number + 1)
            self._note_who_is_ready()
            return None
        if task_name == ANNOUNCE:
            return self._announcements.take(collaborator_name, named_tensors)
        tasks = self.assigner.get_all_tasks_for_round(round_number)
        try:
            where = (round_number, self.round_number, self._rounds)
            check_awaited(collaborator_name, task_name, tasks, self._members(), *where)
            # A site that was cut off from the answer sends again.
            if round_number < self.round_number or self._collaborator_task_completed(
                collaborator_name, task_name, round_number
            ):
                logger.warning(
                    "Result of %r for %s of round %d is not awaited: ignored",
                    collaborator_name, task_name, round_number + 1,
                )  # fmt: skip
                return None
            result = decoded(
                collaborator_name, task_name, data_size, named_tensors, self.compression_pipeline
            )
            if task_name == TRAINED:
                result = unframed(
                    result, self._broadcast.expected(collaborator_name), self._broadcast.references
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
        self._evaluation = evaluation_of(plan.config)
        if not self._joining.begun:
            # What is in there was sent to a run that somebody has moved away.
            check_initial(plan.config, initial)
            self._inbox.clear()
            forget_verdicts()
        run = self._joining.open(
            initial,
            config=plan.config,
            rounds=self._rounds,
            best=self._best and (self._best[0], self._best[1]),
            weights=plan.config["federation"].get("validate", "model"),
            compression=self._compression,
            fragments=self._fragments,
            secure=self._secure,
        )
        self.round_number = self._rounds + 1 if run.finished else run.round
        self._entrance = Entrance(
            self._readiness, plan=plan, sites=self.authorized_cols, rounds=self._rounds, run=run
        )
        left_out = sorted(set(plan.config["federation"]["sites"]) - set(self.authorized_cols))
        if not run.finished:
            tell_left_out(left_out, self.round_number + 1, secure=self._secure)

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
            secure=self._secure,
        )
        average = self.run.average() if self.round_number == self._rounds else None
        self._serving = Serving(self._broadcast, average, self.round_number)
        seconds = [record["seconds"] for record in self.run.record["rounds"]]
        tasks = self.assigner.get_all_tasks_for_round(self.round_number)
        self.status.begin(self.round_number + 1, tasks, seconds)
        self.status.observe(self.run.record)
        round_number = self.round_number
        for result in list(self._inbox.results(round_number)):
            if result.site not in self._members() or round_number != self.round_number:
                continue
            try:
                self._admit(result)
            except ValueError as error:
                logger.warning("%s. The site is asked for it again", error)
                self._inbox.remove(round_number, result.site, result.task)
            else:
                self._take(result)

    @property
    def upload_bytes(self) -> int:
        """The most that an update's frames, or a probe, may take; after the end, a probe alone."""
        update = 0 if self._time_to_quit() else int(self._broadcast.update_bytes)
        return max(update, self._probe_bytes)

    def _admit(self, result: Result) -> None:
        """Refuse an update of another spec, of another model, not finite, or out of proportion."""
        check_result(
            result,
            model=self.run.record["digest"],
            due=self._broadcast.due,
            proportion=None if self._secure else self._proportion,
            evaluation=self._evaluation,
        )

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

    def _members(self) -> tuple[str, ...]:
        """The sites of the round at hand; none before it has begun."""
        return self._entrance.taking_part(self.round_number + 1)

    def _note_who_is_ready(self) -> None:
        """Tell the operator, and start the clock of a round that has just begun."""
        self.status.admit(self._entrance.describe(self.round_number + 1))
        begun = bool(self._members())
        if begun and not self._begun:
            self._joining.begin()
            self.status.turns.begin()
        self._begun = begun

    def _end_of_round_with_stragglers_check(self) -> None:
        """End the round once all that take part in it are done."""
        if (members := self._members()) and set(members) <= set(self.collaborators_done):
            self._end_of_round_check()

    def _end_of_round_check(self) -> None:
        """Join, or measure the end; then begin the next round."""
        with self.turn:
            if self.round_number == self._rounds:
                self._finish_run()
            elif self._refuse_outliers():
                return
            tasks = self.assigner.get_all_tasks_for_round(self.round_number)
            keep_common(self.collaborator_tasks_results, tasks)
            super()._end_of_round_check()
            self._begin_round()

    def _refuse_outliers(self) -> bool:
        """In a first round only the updates themselves tell what is in proportion."""
        done = () if self._secure else self.collaborators_done
        outliers = self._proportion.outliers(done)
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
        if self._evaluation is not None:
            conclude(self.run, self._evaluation, sorted(self.collaborators_done), sent)
            return
        write = partial(
            write_model, round_number=self.round_number, pipeline=self.compression_pipeline
        )
        finish(self.run, sent, write, last=self.last_state_path, best=self.best_state_path)

    def _finish_serving(self) -> None:
        """Tell every site that asks that it is over; do not wait for ever for one that is gone."""
        self.status.write("finished")
        grace = threading.Timer(
            self._grace_seconds, self.quit_job_sent_to.extend, [self.authorized_cols]
        )
        grace.daemon = True
        grace.start()
