"""A site's side of being ready: what it looks at, and its way to the aggregator."""

import functools
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from openfl.protocols import utils
from openfl.transport.grpc.aggregator_client import AggregatorGRPCClient
from openfl.utilities import TensorKey

from openfl_flows.atomic import write_atomically
from openfl_flows.data.schema.validate import site_card
from openfl_flows.experiment import Experiment, check
from openfl_flows.pki.files import read
from openfl_flows.pki.party import CHAIN
from openfl_flows.pki.plan import Party
from openfl_flows.readiness.dry_step import dry_step, kept, key_of, once
from openfl_flows.readiness.findings import Finding
from openfl_flows.readiness.line import Destination, Line
from openfl_flows.readiness.machine import Machine
from openfl_flows.readiness.rules import Readiness
from openfl_flows.readiness.site import FOLDER, Case, look
from openfl_flows.readiness.verdict import signed
from openfl_flows.state import Array
from openfl_flows.taskrunner.attested_party import in_words, own_enclave
from openfl_flows.taskrunner.attested_party import rules_of as rules_of_attestation
from openfl_flows.taskrunner.attested_site import attested, give_up_after
from openfl_flows.taskrunner.entrance import CLOCK, PROBE, READINESS, STANDING, VERDICT
from openfl_flows.taskrunner.lint import findings as lint_findings
from openfl_flows.taskrunner.pipeline import ExactPipeline
from openfl_flows.taskrunner.workspace import PLAN, WorkspacePlan, data_folder, read_workspace

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 120.0
"""How long `openfl-flows check` waits for an answer."""

_PIN = re.compile(r"([\w.-]+)==([\w.+!-]+)")


class CallLine:
    """The aggregator by OpenFL's calls.

    Args:
        client: OpenFL's client, or one that behaves like it.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def attested(self) -> str:
        """What the aggregator has proved to this site; empty where the plan asks for nothing."""
        attest = getattr(self._client, "attest", None)
        return "" if attest is None else in_words(_told(attest))

    def clock(self) -> float:
        """The aggregator's time, Unix seconds."""
        return float(self._fetch(CLOCK)[0])

    def standing(self) -> int:
        """In how many rounds this site has taken part, as the aggregator has it on record."""
        return int(self._fetch(STANDING)[0])

    def download(self, count: int) -> None:
        """Fetch that many bytes.

        Raises:
            ValueError: Other bytes came than were asked for.
        """
        if (came := self._fetch(f"{PROBE}:{count}").nbytes) != count:
            raise ValueError(f"{came} bytes came, expected {count}")

    def upload(self, count: int) -> None:
        """Send that many bytes."""
        self._send(PROBE, os.urandom(count))

    def send_verdict(self, content: bytes) -> None:
        """Send a signed verdict."""
        self._send(VERDICT, content)

    def _fetch(self, name: str) -> Array:
        tensor = _told(self._client.get_aggregated_tensor, name, 0, False, (READINESS,), True)
        metadata = [{"int_list": proto.int_list} for proto in tensor.transformer_metadata]
        array: Array = ExactPipeline().backward(tensor.data_bytes, metadata)
        return array

    def _send(self, name: str, content: bytes) -> None:
        array = np.frombuffer(content, np.uint8)
        data, metadata = ExactPipeline().forward(array)
        key = TensorKey(name, "", 0, False, (READINESS,))
        tensor = utils.construct_named_tensor(key, data, metadata, lossless=True)
        _told(self._client.send_local_task_results, 0, READINESS, 1, [tensor])


def _told(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except grpc.RpcError as error:
        raise ValueError(f"{error.code().name}: {error.details()}") from None
    except AssertionError as error:
        raise ValueError(f"another aggregator answers: {error}") from None


def rules_of(plan: WorkspacePlan) -> Readiness:
    """What a plan says about being ready."""
    rules: Readiness = check(
        "network.readiness", Readiness, plan.config["network"].get("readiness", {})
    )
    return rules


def direct_line(folder: Path, site: str, plan: WorkspacePlan) -> CallLine:
    """A connection of a site's own, whose calls are given up after :data:`ANSWER_SECONDS`.

    Args:
        folder: The workspace.
        site: The site.
        plan: What the workspace says.

    Raises:
        ValueError: A certificate or a key is missing.
    """
    party, short = Party(role="collaborator", name=site), f"{PLAN.name}_{plan.hash[:8]}"
    files = {
        "root_certificate": folder / CHAIN,
        "certificate": party.file(folder, ".crt"),
        "private_key": party.file(folder, ".key"),
    }
    for file in files.values():
        read(file, "the site's certificates, see `openfl-flows pki`")
    network = plan.config["network"]
    client = AggregatorGRPCClient(
        agg_addr=network["agg_addr"],
        agg_port=network["agg_port"],
        aggregator_uuid=f"aggregator_{short}",
        federation_uuid=f"{PLAN.name}_{plan.hash}",
        collaborator_name=site,
        resend_data_on_reconnection=False,
        **{name: str(file) for name, file in files.items()},
    )
    # OpenFL's repeats a call for ever and waits for ever for its answer.
    give_up_after(ANSWER_SECONDS, client.stub)
    return CallLine(attested(client, site, folder, seconds=ANSWER_SECONDS))


def case_of(
    folder: Path, site: str, *, plan: WorkspacePlan | None = None, connected: bool = False
) -> Case:
    """What a site looks at in its workspace.

    Args:
        folder: The workspace.
        site: The site.
        plan: What the workspace says, where that is known.
        connected: Whether this process is connected to the aggregator.

    Raises:
        ValueError: The plan cannot be read.
    """
    plan = plan or read_workspace(folder)
    rules, network = rules_of(plan), plan.config["network"]
    pins, data = pins_of(folder), data_folder(folder, site)
    experiment = Experiment.from_config(plan.config)
    key = key_of(plan.hash, Machine.here(folder, pins).versions, data or folder / "data")
    take = functools.partial(
        dry_step, experiment, site, data or folder / "data" / site, folder / "logs"
    )
    destination = Destination(
        host=network["agg_addr"], port=network["agg_port"], workspace=folder,
        site=Party(role="collaborator", name=site), attested=rules_of_attestation(plan).asked,
    )  # fmt: skip
    return Case(
        site=site,
        workspace=folder,
        plan=plan.hash,
        sites=plan.sites,
        rules=rules,
        pins=pins,
        threads=experiment.runtime.threads,
        destination=None if connected else destination,
        data=data,
        lint=lint_findings(folder / PLAN),
        step=once(lambda: kept(folder / FOLDER / f"{site}.step.json", key, take)),
        digests=_digests(experiment, data, folder / "logs"),
        own_enclave=own_enclave(folder, destination.site, plan),
    )


def _digests(experiment: Experiment, data: Path | None, logs: Path) -> dict[str, Callable[[], str]]:
    """What the parties agreed on about data, and so must give the same at each."""
    found: dict[str, Callable[[], str]] = {}
    schema, split = experiment.schema, experiment.split
    if schema is not None and data is not None:
        found["schema"] = lambda: site_card(schema, data, logs).schema_digest
    if split.blind:
        # It groups structures too, which takes libraries that other plans do without.
        from openfl_flows.data.blind.conformance import conformance_digest
        from openfl_flows.data.blind.key_file import read_key

        found["conformance"] = lambda: conformance_digest(split, read_key(split.key_path))
    return found


def show(case: Case, machine: Machine, line: Line | None) -> tuple[list[Finding], bytes]:
    """Look at everything, and keep the signed verdict in the workspace.

    Args:
        case: The site.
        machine: What it runs on.
        line: The way to the aggregator; None to leave everything out that needs it.

    Returns:
        All findings, and the verdict as it may be sent; nothing where the certificate is red.
    """
    findings, verdict = look(case, machine, line)
    if any(finding.probe == "certificate" and not finding.green for finding in findings):
        # Nobody would take what is signed with it.
        return findings, b""
    content = signed(verdict, case.workspace)
    write_atomically(case.workspace / FOLDER / f"{case.site}.json", content)
    return findings, content


def pins_of(folder: Path) -> Mapping[str, str]:
    """The versions that ``requirements.txt`` names; none where there is no such file."""
    file = folder / "requirements.txt"
    lines = file.read_text().splitlines() if file.is_file() else []
    return {match[1]: match[2] for line in lines if (match := _PIN.fullmatch(line.strip()))}
