"""All that the aggregator looks at before it starts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from openfl_flows.pki.plan import Party
from openfl_flows.readiness.credentials import certificate
from openfl_flows.readiness.findings import Finding, in_bytes, probed
from openfl_flows.readiness.machine import Machine, clock_error, in_the_way_of_port
from openfl_flows.readiness.rules import Readiness
from openfl_flows.readiness.site import enclave, versions_finding

_MODELS = 8
"""Sizes of the model that a run keeps: two rounds and the last one, each with what its join keeps
and an average, the best; each site's update comes on top."""


@dataclass(frozen=True, kw_only=True)
class AggregatorCase:
    """The aggregator in its workspace.

    Attributes:
        workspace: Its folder.
        name: Its address, as in its certificate.
        port: The port that sites dial.
        sites: The sites that may take part.
        rules: What the parties agreed on.
        pins: Version of each package that ``requirements.txt`` names.
        lint: What is unsafe in the plan, one line each.
        initial: Digest and bytes of the initial model's file, or raises what is wrong with it.
        own_enclave: Makes evidence and judges it, where the plan asks for it.
    """

    workspace: Path
    name: str
    port: int
    sites: Sequence[str]
    rules: Readiness
    pins: Mapping[str, str]
    lint: Sequence[str]
    initial: Callable[[], tuple[str, int]]
    own_enclave: Callable[[], str] | None = None


def look(case: AggregatorCase, machine: Machine) -> list[Finding]:
    """Probe everything.

    Args:
        case: The aggregator.
        machine: What it runs on.
    """
    party = Party(role="aggregator", name=case.name)
    found: list[tuple[str, int]] = []

    def initial() -> str:
        found.append(case.initial())
        return f"save/init.pbuf: {found[0][0][:16]}, {in_bytes(found[0][1])}"

    findings = [
        _plan(case),
        # Where it is attested, that is what sites know it by.
        *([] if case.own_enclave else [certificate(case.workspace, party)]),
        enclave(case.own_enclave),
        versions_finding(case.workspace, case.pins, machine),
        probed("initial", initial, remedy="`fx plan initialize`, then export the workspace anew"),
        probed(
            "port", lambda: _free(case.port),
            remedy="end what listens there, or have another network.agg_port in everybody's plan",
        ),
        _clock(case.rules),
    ]  # fmt: skip
    if found:
        findings.append(_disk(case, machine, found[0][1]))
    return findings


def _plan(case: AggregatorCase) -> Finding:
    path = case.workspace / "plan" / "plan.yaml"
    if case.lint:
        return Finding(
            probe="plan", green=False, found=case.lint[0],
            remedy="export the plan anew, see `openfl-flows lint`",
        )  # fmt: skip
    least = case.rules.least_sites or 1
    return Finding(
        probe="plan",
        green=least <= len(case.sites),
        found=f"{path}: {len(case.sites)} sites, "
        + ("all of which are needed" if case.rules.least_sites is None else f"at least {least}"),
        remedy="plan/cols.yaml: name the sites, or have a smaller network.readiness.least_sites",
    )


def _free(port: int) -> str:
    if (reason := in_the_way_of_port(port)) is not None:
        raise ValueError(f"network.agg_port={port}: {reason}")
    return f"network.agg_port={port} is free"


def _clock(rules: Readiness) -> Finding:
    told = clock_error()
    if told is None:
        return Finding(probe="clock", green=True, found="the system does not say who sets it")
    kept, error = told
    return Finding(
        probe="clock",
        green=error <= rules.max_clock_skew_seconds,
        found=f"{'set by a time server' if kept else 'the system knows of no time server'}, at "
        f"most {error:.3g} s off",
        remedy="have a time server set the clock: chrony, systemd-timesyncd",
    )


def _disk(case: AggregatorCase, machine: Machine, model_bytes: int) -> Finding:
    needed = (_MODELS + len(case.sites)) * model_bytes
    return Finding(
        probe="disk",
        green=needed <= machine.disk_bytes,
        found=f"{case.workspace}: {in_bytes(machine.disk_bytes)} free, {in_bytes(needed)} needed: "
        f"{_MODELS} models of {in_bytes(model_bytes)}, and one for each site",
        remedy="free disk space, or put the workspace on a larger disk",
    )
