"""One learner over several processes of a site: rank 0 leads, the others do as it does.

``torchrun`` starts the processes with ``openfl-flows ranks -- COMMAND``. Rank 0 runs the command,
and it alone knows that there is a federation. Where the command makes a learner through
:func:`led`, every call of that learner is announced to the other processes, which do it too. These
build their learners from the recipe that rank 0 sends, get its weights and its optimizer, write
nothing, and end with the command.

Announcements lie in torchrun's store, in which a process can wait for days; what is announced goes
by broadcast.
"""

import atexit
import functools
import gc
import itertools
import logging
import os
import socket
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from openfl_flows.learners.base import Budget, Learner, LocalState, Progress, TrainReport
from openfl_flows.metrics.mean import Means
from openfl_flows.models.ranks import ALONE, Parcel, Ranks
from openfl_flows.state import Spec, State

logger = logging.getLogger(__name__)

T = TypeVar("T")

LED = "OPENFL_FLOWS_RANKS"
"""Environment variable of rank 0's command: how many processes it leads."""

_CALL, _END = "call", "end"
_IDLE = timedelta(days=365)
_BUSY = timedelta(hours=2)
"""The longest that processes differ in what they do between two exchanges."""


def led(build: Callable[..., Learner]) -> Learner:
    """The learner of this process; of all processes of the site where this one leads several.

    Args:
        build: The recipe, called with ``ranks=``, at every process. It is pickled: a function of a
            module, or a ``functools.partial`` of one, with small arguments.

    Raises:
        ValueError: What ``build`` raises, here or at another process; or another process leads.
    """
    if LED in os.environ:
        return LedLearner(_Lead.of_this_process(), build)
    if "TORCHELASTIC_RUN_ID" in os.environ and ranks_of_torchrun().size > 1:
        raise ValueError(
            "torchrun runs this command several times, expected "
            "`torchrun ... -m openfl_flows ranks -- COMMAND`"
        )
    return build(ranks=ALONE)


def follow() -> None:
    """Do what rank 0 announces until its command has ended.

    Raises:
        ValueError: This process was not started by torchrun.
        SystemExit: Another process, or torchrun, has ended.
    """
    ranks, store = ranks_of_torchrun(), _store()
    learners: dict[int, Learner] = {}
    for number in itertools.count():
        try:
            store.wait([str(number)], _IDLE)
        except RuntimeError as error:
            raise SystemExit(f"process {ranks.rank}: torchrun has ended: {error}") from None
        if store.get(str(number)) == _END.encode():
            break
        if number == 0:
            _form_group(ranks, store)
        _do_next(learners, ranks)
    if dist.is_initialized():
        dist.destroy_process_group()


def _do_next(learners: dict[int, Learner], ranks: Ranks) -> None:
    parcel = ranks.broadcast()
    try:
        ranks.agreed(lambda: parcel.unpacked().done(learners, ranks))
    except ValueError as error:
        # Rank 0 has heard of it, too, and decides what comes next.
        logger.debug("process %d: %s", ranks.rank, error)
    except Exception:
        logger.exception("process %d failed", ranks.rank)


def dismiss() -> None:
    """Have the followers end: rank 0's command has ended well."""
    _announce(_store(), _END)


def ranks_of_torchrun() -> Ranks:
    """This process among those that torchrun started.

    Raises:
        ValueError: torchrun did not start it.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        raise ValueError(
            "not started by torchrun, expected "
            "`torchrun --nproc-per-node GPUS -m openfl_flows ranks -- COMMAND`"
        )
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Ranks(rank=rank, size=size, local_rank=local)


class LedLearner:
    """A learner whose calls every process of the site does; results are those of rank 0.

    Args:
        lead: The announcements of this process.
        build: The recipe of the learner.
    """

    def __init__(self, lead: "_Lead", build: Callable[..., Learner]) -> None:
        self._lead = lead
        self._number = next(lead.numbers)
        self._own: Learner = self._everywhere("", (build,), lambda: build(ranks=lead.ranks))
        # Sent along with the next call: a collected object must not speak in between.
        weakref.finalize(self, lead.dropped.append, self._number)

    @property
    def spec(self) -> Spec:
        """Names, shapes and element types of what travels."""
        return self._own.spec

    def receive(self, state: State) -> None:
        """Make ``state`` the model of all processes."""
        self._everywhere("receive", (state,), lambda: self._own.receive(state))

    def train(self, budget: Budget, progress: Progress) -> TrainReport:
        """Train together."""
        return self._everywhere(
            "train", (budget, _in_silence), lambda: self._own.train(budget, progress)
        )

    def validate(self) -> Means:
        """Measure the model on the site's validation data."""
        return self._everywhere("validate", (), self._own.validate)

    def test(self) -> Means:
        """Measure the model on the site's test data."""
        return self._everywhere("test", (), self._own.test)

    def send(self) -> State:
        """The model as it is now, copied; equal at all processes."""
        return self._own.send()

    def local_state(self) -> LocalState:
        """What must be restored to go on; equal at all processes."""
        return self._own.local_state()

    def restore(self, local_state: LocalState) -> None:
        """Take back what :meth:`local_state` gave, at all processes."""
        self._everywhere("restore", (local_state,), lambda: self._own.restore(local_state))

    def _everywhere(self, method: str, arguments: tuple[Any, ...], work: Callable[[], T]) -> T:
        self._lead.announce(self._number, method, arguments)
        return self._lead.ranks.agreed(work)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One call of a learner, as rank 0 announces it."""

    learner: int
    method: str
    arguments: tuple[Any, ...]
    dropped: tuple[int, ...]
    threads: int

    def done(self, learners: dict[int, Learner], ranks: Ranks) -> None:
        """Do it at a follower, with the learners that it has."""
        # The number of threads decides the last bits.
        torch.set_num_threads(self.threads)
        for number in self.dropped:
            learners.pop(number, None)
        if self.dropped:
            gc.collect()
        if not self.method:
            learners[self.learner] = self.arguments[0](ranks=ranks)
        else:
            getattr(learners[self.learner], self.method)(*self.arguments)


class _Lead:
    """What rank 0 announces.

    Raises:
        ValueError: Another process of the same command leads already.
    """

    def __init__(self) -> None:
        self.ranks = ranks_of_torchrun()
        self.numbers = itertools.count()
        self.dropped: list[int] = []
        self._store = _store()
        self._formed = False
        mine = f"{socket.gethostname()}:{os.getpid()}"
        if self._store.compare_set("lead", "", mine).decode() != mine:
            raise ValueError(
                f"a second process trains under `openfl-flows ranks`, whose {self.ranks.size} "
                "processes follow one alone; expected runtime.backend=single_process, and no "
                "command that starts several"
            )

    @staticmethod
    @functools.cache
    def of_this_process() -> "_Lead":
        """The one of this process, made at its first call."""
        return _Lead()

    def announce(self, learner: int, method: str, arguments: tuple[Any, ...]) -> None:
        """Have the followers do a call of a learner."""
        dropped, self.dropped[:] = tuple(self.dropped), []
        call = _Call(
            learner=learner, method=method, arguments=arguments, dropped=dropped,
            threads=torch.get_num_threads(),
        )  # fmt: skip
        parcel = Parcel.of(call)
        _announce(self._store, _CALL)
        if not self._formed:
            _form_group(self.ranks, self._store)
            self._formed = True
            atexit.register(self._end)
        self.ranks.broadcast(parcel)

    def _end(self) -> None:
        # All leave the group at the same time: NCCL may have each wait for the others.
        _announce(self._store, _END)
        dist.destroy_process_group()


def _announce(store: Store, what: str) -> None:
    store.set(str(store.add("announced", 1) - 1), what)


def _store() -> Store:
    """The store of torchrun; a group that it starts anew has a part of its own."""
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"openfl-flows/{attempt}", store)


def _form_group(ranks: Ranks, store: Store) -> None:
    """Join torch's default group: gloo for what lies in memory, NCCL for what lies on GPUs."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"] and _has("lo"):
        # All on one machine: nothing to be reached from outside it.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        backend,
        store=PrefixStore("group", store),
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=_BUSY,
    )


def _has(interface: str) -> bool:
    return interface in (name for _, name in socket.if_nameindex())


def _in_silence(step: int, num_steps: int, loss: float) -> None:
    """Progress of a follower: rank 0 shows it."""
