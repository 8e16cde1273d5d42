"""The server of OpenFL, which refuses a call in one line and before it has cost anything.

OpenFL's own reads an upload of any size from whoever has a certificate of the federation's CA, and
lets nobody else send meanwhile, before it looks at the name in the certificate. What it refuses
then ends in a traceback in the log and an unknown error at the site.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from openfl.federated.plan import plan
from openfl.protocols import aggregator_pb2
from openfl.transport.grpc.aggregator_server import AggregatorGRPCServer
from openfl.transport.grpc.common import create_header

from openfl_flows.pki.check import check_party
from openfl_flows.pki.plan import aggregator_of

logger = logging.getLogger(__name__)

SPARE_BYTES = 16 * 2**20
"""What a result may take beside the model: metrics, names, and what the wire adds."""

_SHOWN = 120


class RefusingServer(AggregatorGRPCServer):
    """OpenFL's server with a check of every call before the aggregator has to do with it.

    Args:
        arguments: OpenFL's.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._one_upload, self._one_download = threading.Lock(), threading.Lock()
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

    def GetTasks(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Tell a site what to do."""
        with _refusing(context):
            return super().GetTasks(request, context)

    def GetAggregatedTensor(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Send a site one bucket of the model; made one at a time, for it takes several copies."""
        with self._one_download, _refusing(context):
            return super().GetAggregatedTensor(request, context)

    def SendLocalTaskResults(  # noqa: N802
        self, request: Iterator[Any], context: grpc.ServicerContext
    ) -> Any:
        """Take a site's result; one at a time, so that one is in memory."""
        names = context.auth_context().get("x509_common_name", [b""])
        name = names[0].decode(errors="replace")
        if not self.aggregator.valid_collaborator_cn_and_id(name, name):
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, f"{name!r} is no site of this federation"
            )
        with self._one_upload, _refusing(context):
            result = self._read(name, request)
            self.validate_collaborator(result, context)
            self.aggregator.send_local_task_results(
                name, result.round_number, result.task_name, result.data_size, result.tensors
            )
            header = create_header(
                sender=self.aggregator.uuid,
                receiver=name,
                federation_uuid=self.aggregator.federation_uuid,
                single_col_cert_common_name=self.aggregator.single_col_cert_common_name,
            )
            return aggregator_pb2.SendLocalTaskResultsResponse(header=header)

    def _read(self, name: str, chunks: Iterator[Any]) -> Any:
        limit, size, parts = self.aggregator.model_bytes + SPARE_BYTES, 0, []
        for chunk in chunks:
            size += len(chunk.npbytes)
            if size > limit:
                raise _logged(f"upload of {name!r} refused: it is larger than {limit} bytes")
            parts.append(chunk.npbytes)
        try:
            return aggregator_pb2.TaskResults.FromString(b"".join(parts))
        except DecodeError:
            raise _logged(f"upload of {name!r} refused: it is no result of a task") from None


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


def _logged(reason: str) -> ValueError:
    logger.error("%s", reason)
    return ValueError(reason)
