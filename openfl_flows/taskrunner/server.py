"""The server of OpenFL, which refuses a call in one line and before it has cost anything.

OpenFL's own reads an upload of any size from whoever has a certificate of the federation's CA, and
lets nobody else send meanwhile, before it looks at the name in the certificate. What it refuses
then ends in a traceback in the log and an unknown error at the site.
"""

import contextlib
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from openfl.federated.plan import plan
from openfl.protocols import aggregator_pb2, utils
from openfl.transport.grpc import aggregator_server, common
from openfl.transport.grpc.aggregator_server import AggregatorGRPCServer
from openfl.transport.grpc.common import create_header
from openfl.utilities import TensorKey

from openfl_flows.ops.standings import FOLDER
from openfl_flows.pki.check import check_party
from openfl_flows.pki.plan import aggregator_of
from openfl_flows.taskrunner.arrival import ARRIVAL, MAX_BYTES
from openfl_flows.taskrunner.attested_server import attested_server
from openfl_flows.taskrunner.serving import refusals_told
from openfl_flows.taskrunner.status import Upload
from openfl_flows.taskrunner.transfers import UPLOAD_BYTES

logger = logging.getLogger(__name__)

SPARE_BYTES = 16 * 2**20
"""What a result may take beside the model: metrics, names, and what the wire adds."""

IN_MEMORY_BYTES = 2**20
"""An upload that is larger waits in a file until it is complete."""
OTHER_CALLS = 8
"""Threads for calls that are no uploads."""

_SHOWN = 120


class RefusingServer(AggregatorGRPCServer):
    """OpenFL's server with a check of every call before the aggregator has to do with it.

    Args:
        arguments: OpenFL's.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._one_result, self._one_download = threading.Lock(), threading.Lock()
        self._attested = attested_server(Path(), self.aggregator.run.path.parent / FOLDER)
        if self._attested is not None:
            # Sites do not ask for another certificate than the one with evidence.
            return
        if (finding := check_party(Path(), aggregator_of(Path())).finding) is not None:
            logger.warning("%s", finding)

    def validate_collaborator(self, request: Any, context: grpc.ServicerContext) -> None:
        """Refuse a caller with another name than its certificate's, or with another plan."""
        super().validate_collaborator(request, context)
        header, aggregator = request.header, self.aggregator
        expected = {
            "federation_uuid": aggregator.federation_uuid,
            "receiver": aggregator.uuid,
            "single_col_cert_common_name": aggregator.single_col_cert_common_name,
        }
        for field, value in expected.items():
            found = getattr(header, field)
            if found != value:
                reason = (
                    f"{header.sender!r} has another plan than the aggregator: {field} is "
                    f"{found[:_SHOWN]!r}, expected {value!r}"
                )
                logger.error("Refused: %s", reason)
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        arrives = ARRIVAL in (getattr(request, "task_name", ""), *getattr(request, "tags", ()))
        why_not = None if arrives else self._why_not(header.sender, context)
        if why_not is not None:
            logger.error("Refused: %s", why_not)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, why_not)

    def GetTasks(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Tell a site what to do."""
        with _refusing(context):
            return super().GetTasks(request, context)

    def GetAggregatedTensor(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Send a site one bucket of the model; made one at a time, for it takes several copies."""
        with self._one_download, _refusing(context):
            if self._attested is not None and ARRIVAL in request.tags:
                return self._answer(request, context)
            return super().GetAggregatedTensor(request, context)

    def SendLocalTaskResults(  # noqa: N802
        self, request: Iterator[Any], context: grpc.ServicerContext
    ) -> Any:
        """Take a site's result. All sites may send at a time; one result at a time is in memory."""
        names = context.auth_context().get("x509_common_name", [b""])
        name = names[0].decode(errors="replace")
        if not self.aggregator.valid_collaborator_cn_and_id(name, name):
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, f"{name!r} is no site of this federation"
            )
        with _refusing(context), SpooledTemporaryFile(IN_MEMORY_BYTES, dir="local_state") as file:
            limit = self._limit if self._why_not(name, context) is None else 2 * MAX_BYTES
            self._receive(name, request, _said(context), file, limit)
            with self._one_result:
                result = _parsed(name, file)
                self.validate_collaborator(result, context)
                if self._attested is not None and result.task_name == ARRIVAL:
                    self._arrive(name, result.tensors)
                else:
                    self.aggregator.send_local_task_results(
                        name, result.round_number, result.task_name, result.data_size,
                        result.tensors,
                    )  # fmt: skip
            return aggregator_pb2.SendLocalTaskResultsResponse(header=self._header(name))

    def serve(self) -> None:
        """Serve until all sites have been told to end."""
        # An upload occupies a thread, and OpenFL has eight for all sites.
        least = OTHER_CALLS + 2 * len(self.aggregator.authorized_cols)
        common.ThreadPoolExecutor = lambda max_workers: ThreadPoolExecutor(max(max_workers, least))
        if self._attested is not None:
            aggregator_server.create_grpc_server = self._attested.create_server
        super().serve()

    def _why_not(self, name: str, context: grpc.ServicerContext) -> str | None:
        """Why a site may do no more than arrive; None if it may."""
        if self._attested is None:
            return None
        return self._attested.why_not(name, context.auth_context()["x509_pem_cert"][0])

    def _arrive(self, name: str, tensors: Sequence[Any]) -> None:
        assert self._attested is not None
        with refusals_told():
            if len(tensors) != 1:
                raise ValueError(f"arrival of {name!r} has {len(tensors)} tensors, expected one")
            self._attested.arrive(name, tensors[0].data_bytes)

    def _answer(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Tell a site that has arrived where the federation is, and the certificate of its key."""
        assert self._attested is not None
        self.validate_collaborator(request, context)
        name = request.header.sender
        key = TensorKey(name, "", request.round_number, False, (ARRIVAL,))
        with self.aggregator.turn:
            record = self.aggregator.run.record
            where = len(record["rounds"]), str(record["digest"])
        content = self._attested.answer(name, *where)
        return aggregator_pb2.GetAggregatedTensorResponse(
            header=self._header(name),
            round_number=request.round_number,
            tensor=utils.construct_named_tensor(key, content, {}, lossless=True),
        )

    def _header(self, receiver: str) -> Any:
        return create_header(
            sender=self.aggregator.uuid,
            receiver=receiver,
            federation_uuid=self.aggregator.federation_uuid,
            single_col_cert_common_name=self.aggregator.single_col_cert_common_name,
        )

    def _receive(
        self, name: str, chunks: Iterator[Any], of: int, file: IO[bytes], limit: int
    ) -> None:
        upload, status = Upload(of=of), self.aggregator.status
        try:
            for chunk in chunks:
                status.sending(name, upload, len(chunk.npbytes))
                if upload.bytes > limit:
                    raise _logged(f"upload of {name!r} refused: it is larger than {limit} bytes")
                file.write(chunk.npbytes)
        finally:
            status.sent(name, upload)

    @property
    def _limit(self) -> int:
        return int(self.aggregator.upload_bytes) + SPARE_BYTES


def use_refusing_server() -> None:
    """Have OpenFL's plan, which lets nobody choose, make this server."""
    plan.AggregatorGRPCServer = RefusingServer


@contextlib.contextmanager
def _refusing(context: grpc.ServicerContext) -> Iterator[None]:
    """Tell the caller what is wrong; whoever raised it has told the operator."""
    try:
        yield
    except ValueError as error:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


def _said(context: grpc.ServicerContext) -> int:
    """How many bytes a site says that it will send; 0 where it does not say so."""
    said = dict(context.invocation_metadata()).get(UPLOAD_BYTES, "")
    return int(said) if re.fullmatch(r"[0-9]{1,15}", said, re.ASCII) else 0


def _parsed(name: str, file: IO[bytes]) -> Any:
    file.seek(0)
    try:
        return aggregator_pb2.TaskResults.FromString(file.read())
    except DecodeError:
        raise _logged(f"upload of {name!r} refused: it is no result of a task") from None


def _logged(reason: str) -> ValueError:
    logger.error("%s", reason)
    return ValueError(reason)
