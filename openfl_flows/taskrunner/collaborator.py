"""The collaborator of OpenFL: waits for an aggregator that is away, stops where it is refused."""

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from openfl.component.collaborator.collaborator import Collaborator as OpenFLCollaborator

from openfl_flows.taskrunner.lint import check_plan
from openfl_flows.taskrunner.runner import LearnerTaskRunner
from openfl_flows.taskrunner.workspace import federation_id

logger = logging.getLogger(__name__)

_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
_TLS = ("CERTIFICATE", "WRONG_VERSION", "alert", "peer is not")


class RefusedError(Exception):
    """The aggregator will not have this site, or this site not this aggregator."""


class Collaborator(OpenFLCollaborator):
    """OpenFL's collaborator, which by itself retries any error for ever.

    Args:
        collaborator_name: The site.
        federation_uuid: OpenFL's, which holds 32 bits of the plan's hash.
        client: OpenFL's client, made with ``resend_data_on_reconnection: false``.
        task_runner: The site's.
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
        **settings: Any,
    ) -> None:
        check_plan(Path("plan") / "plan.yaml")
        client.federation_uuid = federation_id(federation_uuid)
        super().__init__(
            collaborator_name=collaborator_name,
            federation_uuid=client.federation_uuid,
            client=PatientClient(client),
            task_runner=task_runner,
            **settings,
        )
        task_runner.prepare(collaborator_name)

    def run(self) -> None:
        """Take part until the federation ends."""
        try:
            super().run()
        except RefusedError as error:
            logger.error("%s", error)
            sys.exit(1)


class PatientClient:
    """A client whose calls are repeated while the aggregator is away.

    Args:
        client: OpenFL's.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._away_since: float | None = None

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if name not in ("ping", "get_tasks", "get_aggregated_tensor", "send_local_task_results"):
            return attribute
        return lambda *args, **kwargs: self._patiently(attribute, *args, **kwargs)

    def _patiently(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call until it is answered.

        Raises:
            RefusedError: The answer is a refusal.
        """
        while True:
            try:
                answer = call(*args, **kwargs)
            except AssertionError as error:
                raise RefusedError(f"{self._client.uri} is another aggregator: {error}") from None
            except grpc.RpcError as error:
                self._wait_or_refuse(error.code(), str(error.details()))
            else:
                if self._away_since is not None:
                    logger.warning("The aggregator at %s is back", self._client.uri)
                self._away_since = None
                return answer

    def _wait_or_refuse(self, code: grpc.StatusCode, details: str) -> None:
        if code not in _AWAY or any(word in details for word in _TLS):
            if "does not match" in details:
                details = (
                    f"this workspace's plan has hash {self._client.federation_uuid}, which is not "
                    f"the aggregator's ({details})"
                )
            reason = details.removeprefix("Exception calling application: ")
            raise RefusedError(f"Refused by the aggregator at {self._client.uri}: {reason}")
        if self._away_since is None:
            self._away_since = time.time()
            logger.warning(
                "The aggregator at %s does not answer (%s); trying again until it does",
                self._client.uri, details,
            )  # fmt: skip
        time.sleep(self._client.sleeping_policy.reconnect_interval)
        self._client.reconnect()
