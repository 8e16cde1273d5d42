"""An aggregator that waits for its sites, and who may call it meanwhile."""

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from openfl.transport.grpc.aggregator_client import AggregatorGRPCClient
from openfl.utilities import TensorKey

from openfl_flows.pki.party import CHAIN
from openfl_flows.pki.plan import Party as Member
from openfl_flows.taskrunner import collaborator as collaborator_module
from openfl_flows.taskrunner.collaborator import Collaborator
from openfl_flows.taskrunner.loader import SiteData
from openfl_flows.taskrunner.pipeline import ExactPipeline
from openfl_flows.taskrunner.runner import LearnerTaskRunner
from openfl_flows.taskrunner.workspace import read_workspace
from tests.e2e.test_federation_faults import assert_same, running
from tests.fx_processes import Party, site

RECEIVED, TRAIN, VALIDATED = (
    "aggregated_model_validation", "train", "locally_tuned_model_validation",
)  # fmt: skip
SITES = ("site-1", "site-2")


def messages(log: Path) -> list[str]:
    """Each in one line, as it was before the terminal broke it into several."""
    text = re.sub(r" +\w+\.py:\d+$", "", log.read_text(errors="replace"), flags=re.M)
    return [line.strip() for line in re.sub(r"\s*\n {20,}(?![A-Z]{4,} )", " ", text).splitlines()]


@dataclass(frozen=True)
class Host:
    """A running aggregator that waits for its sites, and what came of an undisturbed one."""

    out: Path
    whole: Path
    process: Party

    def start(self, name: str) -> Party:
        """A site as it should be."""
        return site(self.out, name)

    def assert_ends_as_undisturbed(self) -> None:
        assert self.process.wait() == 0
        assert_same(self.out, self.whole)
        assert not self.told("Traceback")

    @property
    def log(self) -> Path:
        return self.out / "aggregator" / "logs" / "fx.log"

    def told(self, *words: str) -> int:
        """How many messages of the aggregator have all the words."""
        return sum(all(word in message for word in words) for message in messages(self.log))

    def wait_for(self, *words: str) -> None:
        end = time.monotonic() + 20
        while not self.told(*words):
            assert time.monotonic() < end, f"no message has {words}:\n{self.log.read_text()}"
            time.sleep(0.02)


@contextlib.contextmanager
def hosting(parties: Path, folder: Path) -> Iterator[Host]:
    """Run a copy of a federation undisturbed, then start the aggregator of another copy."""
    out, whole = folder / "parties", folder / "whole"
    for copy in (out, whole):
        shutil.copytree(parties, copy, symlinks=True)
    with running(whole) as undisturbed:
        assert [party.wait() for party in undisturbed.values()] == [0, 0, 0]
    with Party(out / "aggregator", "aggregator", "start") as process:
        host = Host(out, whole, process)
        host.wait_for("Starting Aggregator gRPC Server")
        yield host


def caller(
    host: Host, name: str = "site-1", *, certificate: Path | None = None, **arguments: Any
) -> AggregatorGRPCClient:
    """OpenFL's client with a site's certificate; other arguments make it lie."""
    folder = certificate or host.out / name
    member = Member(role="collaborator", name=name)
    plan = yaml.safe_load((host.out / "site-1" / "plan" / "plan.yaml").read_text())
    whole = read_workspace(host.out / "site-1").hash
    settings = {
        **plan["network"]["settings"],
        "root_certificate": str(folder / CHAIN),
        "certificate": str(member.file(folder, ".crt")),
        "private_key": str(member.file(folder, ".key")),
        "collaborator_name": name,
        "aggregator_uuid": f"aggregator_plan.yaml_{whole[:8]}",
        "federation_uuid": f"plan.yaml_{whole}",
    }
    return AggregatorGRPCClient(**{**settings, **arguments})


def refused(call: Callable[..., Any], *arguments: Any) -> tuple[grpc.StatusCode, str]:
    """How the aggregator refuses a call; a site stops at such an answer."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments)
    code = caught.value.code()
    assert code in collaborator_module._REFUSALS
    return code, str(caught.value.details())


Tensors = dict[TensorKey, Any]


class Site:
    """A site that does its tasks as ever in its own workspace, and alters what it sends."""

    def __init__(self, host: Host, name: str) -> None:
        self.name, self.folder = name, host.out / name
        config = read_workspace(self.folder).config
        short = f"plan.yaml_{read_workspace(self.folder).hash[:8]}"
        names = [RECEIVED, TRAIN, VALIDATED]
        with contextlib.chdir(self.folder):
            self.member = Collaborator(
                collaborator_name=name,
                aggregator_uuid=f"aggregator_{short}",
                federation_uuid=short,
                client=caller(host, name),
                task_runner=LearnerTaskRunner(
                    SiteData(f"data/{name}"),
                    {k: v for k, v in config.items() if k not in ("join", "ema", "network")},
                ),
                task_config={task: {"function": task, "kwargs": {}} for task in names},
                opt_treatment="CONTINUE_LOCAL",
                compression_pipeline=ExactPipeline(),
                callbacks=[],
            )

    def do(
        self, task: str, round_: int, alter: Callable[[Tensors], Any] = lambda sent: None
    ) -> None:
        """Do a task; ``alter`` changes what is sent in place, or returns a weight for it."""
        runner = self.member.task_runner
        made = getattr(type(runner), task)

        def altered(**arguments: Any) -> tuple[Tensors, Tensors]:
            sent, local = made(runner, **arguments)
            alter(sent)
            return sent, local

        setattr(runner, task, altered)
        with contextlib.chdir(self.folder):
            self.member.do_task(task, round_)

    def tasks(self) -> tuple[int, list[str]]:
        """The round at hand, and what is left to do in it."""
        tasks, round_, _, _ = self.member.client.get_tasks()
        return round_, [task.name for task in tasks]
