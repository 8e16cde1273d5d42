"""What an operator sees of a running aggregator: its status file, figures, alerts and warnings."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from openfl_flows.atomic import write_json
from openfl_flows.experiment import traffic_of
from openfl_flows.ops.exposition import FILE, Exposition
from openfl_flows.ops.monitor import Monitor, losses_of
from openfl_flows.taskrunner.turns import Turns

logger = logging.getLogger(__name__)

CHOICES = (
    "wait; or restart the site, which goes on where it was; or stop the aggregator, take the site "
    "out of plan/cols.yaml and start it again: the round goes on without the site, and the record "
    "of the run says so"
)


@dataclass(kw_only=True)
class Upload:
    """A result on its way from a site.

    Attributes:
        bytes: What has come.
        of: What the site said will come; 0 where it does not say.
        since: Unix time of its beginning.
        moved: Unix time of the last bytes.
    """

    bytes: int = 0
    of: int = 0
    since: float = field(default_factory=time.time)
    moved: float = field(default_factory=time.time)


@dataclass(kw_only=True)
class SiteStatus:
    """What is known of one site.

    Attributes:
        last_heard: Unix time of its last call; None before the first.
        round: Round of its last result, from 1.
        tasks: Tasks done in the round at hand.
        bytes_up: Bytes of tensors that it sent since the aggregator started.
        bytes_down: Bytes of tensors that it was sent.
        refused: Why its last result was refused; None if it was not.
        sending: The result that is on its way, None where none is.
    """

    last_heard: float | None = None
    round: int = 0
    tasks: list[str] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    refused: str | None = None
    sending: Upload | None = None


class Status:
    """Keeps the status file up to date and warns of sites that are not heard of.

    Args:
        path: The file.
        sites: Names of the sites.
        rounds: Number of the last round.
        patience_seconds: Silence of a missing site after which the operator is told, again and
            again until the site comes.
        stall_seconds: How long nothing may come of an upload before the operator is told, again and
            again until it moves or ends.
        poll_seconds: How long an idle site waits before it asks again.
        metrics_port: Where Prometheus may ask on this machine; None for nowhere.
    """

    def __init__(
        self,
        path: Path,
        *,
        sites: Sequence[str],
        rounds: int,
        patience_seconds: float,
        stall_seconds: float = 120.0,
        poll_seconds: float = 5.0,
        metrics_port: int | None = None,
    ) -> None:
        self.sites = {site: SiteStatus() for site in sorted(sites)}
        self.refusals: dict[str, str] = {}
        """Why a result was refused in the round at hand, by site."""
        self.state = "waiting"
        self._path = path
        self._rounds = rounds
        self._patience, self._stall = patience_seconds, stall_seconds
        self._round = 1
        self._seconds: list[float] = []
        self._tasks: list[str] = []
        self.turns = Turns(poll_seconds)
        self._monitor: Monitor | None = None
        self._watched: dict[str, Any] = {}
        self._exposition = Exposition(path.with_name(FILE))
        if metrics_port is not None:
            self._exposition.serve(metrics_port)
        self._readiness: Mapping[str, Any] | None = None
        self._since = time.time()
        self._told = dict.fromkeys(self.sites, time.time())
        self._told_of_stall = dict.fromkeys(self.sites, time.time())
        self._lock = threading.Lock()
        self._changed = True
        threading.Thread(target=self._watch, name="status", daemon=True).start()

    def begin(self, round_: int, tasks: Sequence[str], seconds: Sequence[float]) -> None:
        """A round begins.

        Args:
            round_: Its number, from 1.
            tasks: What each site has to do in it.
            seconds: Of the finished rounds.
        """
        with self._lock:
            self._round, self._tasks, self._seconds = round_, list(tasks), list(seconds)
            self._since = time.time()
            self.state = "waiting"
            self.refusals.clear()
            self.turns.begin()
            for site in self.sites.values():
                site.tasks = []
            self._changed = True

    def admit(self, readiness: Mapping[str, Any] | None) -> None:
        """Who is ready, and takes part; see :class:`openfl_flows.readiness.gate.Gate`.

        Args:
            readiness: What the file says of it; None where everybody takes part.
        """
        with self._lock:
            self._changed = self._changed or readiness != self._readiness
            self._readiness = readiness

    def observe(self, record: Mapping[str, Any]) -> None:
        """Look at the rounds that are new in the record of the run, and tell what there is to tell.

        Args:
            record: Content of ``run.json``. What it has when this is called first was told before.
        """
        began, rounds = self._monitor is not None, record["rounds"]
        if self._monitor is None:
            delay = traffic_of(record["config"])[1].delay
            self._monitor = Monitor(rounds=self._rounds, losses=losses_of(record), delay=delay)
        for entry in rounds[self._monitor.seen :]:
            for alert in self._monitor.observe(entry):
                if began:
                    logger.log(
                        logging.INFO if alert.over else logging.WARNING, "%s", alert.sentence()
                    )
        with self._lock:
            self._watched = self._monitor.document()
            self._changed = True
            document = self._document()
        self._exposition.show(document)
        if self.state != "finished" and len(rounds) == self._rounds:
            for cost in self._watched["costs"]:
                logger.info("%s", cost["sentence"])

    def heard(self, name: str, *, up: int = 0, down: int = 0) -> None:
        """A site called."""
        with self._lock:
            site = self.sites[name]
            site.last_heard = time.time()
            self.turns.heard(name)
            # Whoever calls anew has given up what it was sending, if it does not go on with it.
            site.sending = None
            site.bytes_up += up
            site.bytes_down += down
            self._changed = True

    def sending(self, name: str, upload: Upload, count: int = 0) -> None:
        """``count`` more bytes of an upload have come."""
        with self._lock:
            now = time.time()
            upload.bytes += count
            upload.moved = now
            site = self.sites[name]
            # A site that lost its connection begins anew, while the old upload is not yet given up.
            if site.sending is None or site.sending.since <= upload.since:
                site.sending = upload
            site.last_heard = now
            self._changed = True

    def sent(self, name: str, upload: Upload) -> None:
        """An upload has ended, whole or not."""
        with self._lock:
            if self.sites[name].sending is upload:
                self.sites[name].sending = None
            self._changed = True

    def done(self, name: str, task: str) -> None:
        """A site's result was taken."""
        with self._lock:
            site = self.sites[name]
            site.round, site.refused = self._round, None
            site.tasks.append(task)
            self.turns.arrived(name)
            self._changed = True

    def refused(self, name: str, reason: str) -> None:
        """A site's result was refused."""
        logger.error("%s. Fix the site and restart it; until then the round waits for it", reason)
        with self._lock:
            self.sites[name].refused = self.refusals[name] = reason
            self._changed = True

    def write(self, state: str | None = None) -> None:
        """Write the file now."""
        with self._lock:
            self.state = state or self.state
            self._changed = False
            write_json(self._path, self._document())

    def _document(self) -> dict[str, Any]:
        return {
            "round": min(self._round, self._rounds),
            "rounds": self._rounds,
            "state": self.state,
            "since": self._since,
            "seconds": self._seconds,
            "sites": {name: asdict(site) for name, site in self.sites.items()},
            **({} if self._readiness is None else {"readiness": self._readiness}),
            **self._watched,
        }

    def _watch(self) -> None:
        while self.state != "finished":
            if self._changed:
                self.write()
            for name in self._missing(time.time()):
                self._tell(name)
            for name, upload in self._stalled(time.time()):
                self._tell_of_stall(name, upload)
            time.sleep(min(1.0, self._patience / 2, self._stall / 2))

    @property
    def _late(self) -> frozenset[str]:
        """Sites that come too late for the rounds at hand: nothing waits for them."""
        if self._readiness is None or not self._readiness["open"]:
            return frozenset()
        return frozenset(self.sites) - {*self._readiness["taking_part"]}

    def _missing(self, now: float) -> list[str]:
        """Sites with work left, neither heard nor spoken of for as long as patience goes."""
        return [
            name
            for name, site in self.sites.items()
            if len(site.tasks) < len(self._tasks)
            and name not in self._late
            and now - max(site.last_heard or 0, self._told[name]) > self._patience
        ]

    def _stalled(self, now: float) -> list[tuple[str, Upload]]:
        """Uploads of which nothing has come, and nothing was said, for as long as a stall."""
        return [
            (name, upload)
            for name, site in self.sites.items()
            if (upload := site.sending) is not None
            and now - max(upload.moved, self._told_of_stall[name]) > self._stall
        ]

    def _tell_of_stall(self, name: str, upload: Upload) -> None:
        self._told_of_stall[name] = time.time()
        of = f" of {upload.of / 1e6:.1f}" if upload.of else ""
        logger.warning(
            "The upload of %r has stopped: %.1f%s MB have come since %s, and nothing since %s. It "
            "is waited for: it may move again, and a site that has lost its connection sends again",
            name, upload.bytes / 1e6, of, _clock(upload.since), _clock(upload.moved),
        )  # fmt: skip

    def _tell(self, name: str) -> None:
        site = self.sites[name]
        self._told[name] = time.time()
        heard = (
            "has not connected since the aggregator started"
            if site.last_heard is None
            else f"was last heard {_clock(site.last_heard)}"
        )
        left = ", ".join(task for task in self._tasks if task not in site.tasks)
        logger.warning(
            "Round %d of %d has waited since %s for site %r, which %s; left to do: %s. Choices: %s",
            min(self._round, self._rounds), self._rounds, _clock(self._since), name, heard, left,
            CHOICES,
        )  # fmt: skip


def _clock(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
