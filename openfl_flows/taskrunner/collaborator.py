"""The collaborator of OpenFL: waits for an aggregator that is away, stops where it is refused."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
from openfl.component.collaborator.collaborator import Collaborator as OpenFLCollaborator
from openfl.protocols.base_pb2 import DataStream

from openfl_flows.attestation.refusal import RefusedEvidence
from openfl_flows.codecs.frame import FrameError
from openfl_flows.ops.memory import return_freed_memory
from openfl_flows.ops.seen import WentBackError
from openfl_flows.pki.check import check_party
from openfl_flows.pki.plan import Party
from openfl_flows.privacy.withheld import WithheldError
from openfl_flows.readiness.dry_step import StepError
from openfl_flows.readiness.machine import Machine, available_memory
from openfl_flows.readiness.site import FOLDER
from openfl_flows.taskrunner.attested_site import attested, memory_of
from openfl_flows.taskrunner.entrance import READINESS
from openfl_flows.taskrunner.keepalive import await_acknowledgements, notice_lost_connections
from openfl_flows.taskrunner.lint import check_plan
from openfl_flows.taskrunner.readiness import CallLine, case_of, show
from openfl_flows.taskrunner.runner import LearnerTaskRunner
from openfl_flows.taskrunner.transfers import UPLOAD_BYTES, Transfers
from openfl_flows.taskrunner.workspace import federation_id

logger = logging.getLogger(__name__)

PIECE_BYTES = 2**16
"""An upload goes in pieces of this size."""

_REFUSALS = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
# What Python's gRPC says of an error in the server's own code; other unknown errors come from lost
# connections, and from proxies.
_FAILED = "Exception calling application: "
# What gRPC says of a server that this site refuses.
_ANOTHER_SERVER = {
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not valid now, not of this federation's CA, "
    "or not one of an aggregator",
    "not in peer certificate": "its certificate is of another address",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
}
# A server that refuses a client hangs up; with TLS 1.3 gRPC does not learn why.
_HUNG_UP = ("failed to connect", "Socket closed")
_HANG_UPS = 3


class RefusedError(Exception):
    """The aggregator will not have this site, or this site not this aggregator."""


class Collaborator(OpenFLCollaborator):
    """OpenFL's collaborator, which by itself retries any error for ever.

    Args:
        collaborator_name: The site.
        federation_uuid: OpenFL's, which holds 32 bits of the plan's hash.
        client: OpenFL's client, made with ``resend_data_on_reconnection: false``.
        task_runner: The site's.
        stall_seconds: How long nothing may move of a transfer before the log says so.
        secure_aggregation: Given by OpenFL, and left alone: the task runner knows it by its plan.
        settings: All else goes to OpenFL's collaborator.

    Raises:
        ValueError: The plan is not safe, or the site's data cannot be used.
    """

    def __init__(
        self,
        *,
        collaborator_name: str,
        federation_uuid: str,
        client: Any,
        task_runner: LearnerTaskRunner,
        stall_seconds: float = 120,
        secure_aggregation: bool = False,
        **settings: Any,
    ) -> None:
        check_plan(Path("plan") / "plan.yaml")
        client.federation_uuid = federation_id(federation_uuid)
        notice_lost_connections()
        return_freed_memory()
        client = attested(client, collaborator_name)
        client.reconnect()
        port = int(client.uri.rpartition(":")[2])
        self._transfers = Transfers(collaborator_name, port=port, stall_seconds=stall_seconds)
        task_runner.transfers = self._transfers
        finding = certificate_finding(collaborator_name)
        super().__init__(
            collaborator_name=collaborator_name,
            federation_uuid=client.federation_uuid,
            client=PatientClient(client, finding, self._transfers),
            task_runner=task_runner,
            **settings,
        )
        attest_now(client)
        # Before the data are in memory, and before anything else may be running in this process.
        self._case = case_of(Path(), collaborator_name, connected=True)
        for stray in FOLDER.glob(".*.tmp"):
            stray.unlink()
        if self._case.rules.required:
            with contextlib.suppress(StepError):
                self._case.step()
        self._free_bytes = available_memory()
        task_runner.prepare(collaborator_name, client.federation_uuid)
        task_runner.memory = memory_of(Path(), collaborator_name)
        self._standing_known = False

    def do_task(self, task: Any, round_number: int) -> dict[str, float]:
        """Perform a task with what it needs of the aggregator; return what it reports."""
        name = task if isinstance(task, str) else task.name
        if name == READINESS:
            self._show_readiness()
            return {}
        # Whether it never took part, or has lost what it knew, only the aggregator can tell.
        unknown = not self._standing_known and round_number and self.task_runner.untrained
        if unknown and CallLine(self.client).standing() == 0:
            self.task_runner.come_late(round_number + 1)
        self._standing_known = True
        function = self.task_config[name]["function"]
        needed = self.task_runner.get_required_tensorkeys_for_function(function)
        self._transfers.expect(len(needed))
        done: dict[str, float] = super().do_task(task, round_number)
        return done

    def _show_readiness(self) -> None:
        """Look at everything, and tell the aggregator; end where something is in the way."""
        line = CallLine(self.client)
        # What the step takes this process has taken by now.
        machine = replace(Machine.here(Path(), self._case.pins), memory_bytes=self._free_bytes)
        findings, content = show(self._case, machine, line)
        red = [finding for finding in findings if not finding.green]
        for finding in red:
            logger.error(
                "%s is not ready: %s: %s. Remedy: %s",
                self.collaborator_name, finding.probe, finding.found, finding.remedy,
            )  # fmt: skip
        if content:
            line.send_verdict(content)
        # What probes have moved is no part of a round.
        self._transfers.take()
        if red:
            sys.exit(1)
        logger.info("%s is ready: %d probes are green", self.collaborator_name, len(findings))

    def run(self) -> None:
        """Take part until the federation ends."""
        try:
            self.task_runner.agree_on_masks(self.client, self.federation_uuid)
            super().run()
        except RefusedError as error:
            if f"update of {self.collaborator_name!r} refused" in str(error):
                self.task_runner.forget_update()
            logger.error("%s", error)
            sys.exit(1)
        except (FrameError, WithheldError, WentBackError) as error:
            logger.error("%s", error)
            sys.exit(1)


def attest_now(client: Any) -> None:
    """End with a line where what answers is refused, before anything costs time.

    Args:
        client: OpenFL's, or one that attests; where nobody answers, it does so with the first call.
    """
    try:
        with contextlib.suppress(grpc.RpcError):
            getattr(client, "attest", lambda: None)()
    except (RefusedEvidence, WentBackError) as error:
        logger.error("%s", error)
        sys.exit(1)


def certificate_finding(site: str) -> str | None:
    """What is wrong with a site's certificate, which is also told to the operator.

    Returns:
        A reason for an aggregator to refuse it; None if it is good, though it may end soon.

    Raises:
        ValueError: A file is missing or not readable.
    """
    party = Party(role="collaborator", name=site)
    if (soon := check_party(Path(), party).finding) is not None:
        logger.warning("%s", soon)
    return check_party(Path(), party, days=0).finding


class PatientClient:
    """A client whose calls are repeated while the aggregator is away.

    Args:
        client: OpenFL's.
        finding: What is wrong with the site's certificate.
        transfers: Measures what is moved, and has the log say how it goes.
    """

    def __init__(
        self, client: Any, finding: str | None = None, transfers: Transfers | None = None
    ) -> None:
        self._client = client
        self._finding = finding
        self._transfers = transfers or Transfers()
        self._away_since: float | None = None
        self._hang_ups = 0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if name not in ("ping", "get_tasks"):
            return attribute
        return lambda *args, **kwargs: self._patiently(attribute, *args, **kwargs)

    def get_aggregated_tensor(self, *arguments: Any) -> Any:
        """Fetch one tensor of the global model."""
        with self._transfers.downloading() as counts:
            tensor = self._patiently(self._client.get_aggregated_tensor, *arguments)
            counts.append(tensor.ByteSize())
        return tensor

    def send_local_task_results(
        self, round_number: int, task_name: str, data_size: int, named_tensors: Sequence[Any]
    ) -> None:
        """Send a task's result."""
        count = sum(tensor.ByteSize() for tensor in named_tensors)

        def send() -> None:
            # A connection that was made anew has a stub of its own.
            stub = self._client.stub
            upload = stub.SendLocalTaskResults
            stub.SendLocalTaskResults = lambda chunks: upload(
                _pieces(chunks), metadata=((UPLOAD_BYTES, str(count)),)
            )
            try:
                self._client.send_local_task_results(
                    round_number, task_name, data_size, named_tensors
                )
            finally:
                stub.SendLocalTaskResults = upload

        with self._transfers.uploading(count):
            self._patiently(send)

    def _patiently(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call until it is answered.

        Raises:
            RefusedError: The answer is a refusal.
        """
        while True:
            try:
                answer = call(*args, **kwargs)
            except RefusedEvidence as error:
                raise RefusedError(str(error)) from None
            except AssertionError as error:
                raise RefusedError(f"{self._client.uri} is another aggregator: {error}") from None
            except grpc.RpcError as error:
                self._wait_or_refuse(error.code(), str(error.details()))
            else:
                if self._away_since is not None:
                    logger.warning("The aggregator at %s is back", self._client.uri)
                self._away_since, self._hang_ups = None, 0
                await_acknowledgements(int(self._client.uri.rpartition(":")[2]))
                return answer

    def _wait_or_refuse(self, code: grpc.StatusCode, details: str) -> None:
        uri = self._client.uri
        if code in _REFUSALS or details.startswith(_FAILED):
            reason = details.removeprefix(_FAILED)
            raise RefusedError(f"Refused by the aggregator at {uri}: {reason}")
        for words, reason in _ANOTHER_SERVER.items():
            if words in details:
                raise RefusedError(
                    f"Refused: what answers at {uri} is not the aggregator: {reason}"
                )
        hung_up = all(words in details for words in _HUNG_UP)
        self._hang_ups = self._hang_ups + 1 if hung_up else 0
        if self._away_since is None:
            self._away_since = time.time()
            logger.warning(
                "The aggregator at %s does not answer (%s); trying again until it does",
                uri, details,
            )  # fmt: skip
        if self._hang_ups == _HANG_UPS:
            if self._finding is not None:
                raise RefusedError(f"Refused by the aggregator at {uri}: {self._finding}")
            logger.warning(
                "What answers at %s hangs up. Either the aggregator does not accept this site's "
                "certificate, which this site finds nothing wrong with (does the aggregator trust "
                "its CA? are both clocks right?), or a proxy answers in its place",
                uri,
            )  # fmt: skip
        time.sleep(self._client.sleeping_policy.reconnect_interval)
        self._client.reconnect()


def _pieces(chunks: Iterable[Any]) -> Iterator[Any]:
    """OpenFL's chunks of 2 MiB in pieces, so that the aggregator sees a slow upload move."""
    for chunk in chunks:
        for start in range(0, chunk.size, PIECE_BYTES):
            piece = chunk.npbytes[start : start + PIECE_BYTES]
            yield DataStream(npbytes=piece, size=len(piece))
