"""All that a site looks at before round 1, and the verdict that it makes of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from openfl_flows.pki.plan import Party
from openfl_flows.readiness.credentials import certificate
from openfl_flows.readiness.dry_step import Step, StepError
from openfl_flows.readiness.findings import Finding, in_bytes, probed
from openfl_flows.readiness.line import (
    Destination,
    Line,
    Reading,
    attestation,
    bandwidth,
    clocks,
    reach,
)
from openfl_flows.readiness.machine import Machine, proxy_in_the_way
from openfl_flows.readiness.rules import Readiness
from openfl_flows.readiness.verdict import Verdict

FOLDER = Path("local_state") / "readiness"
"""In a workspace: a site's verdict, and at the aggregator those of all sites."""

NONE_ASKED = "network.attestation.required=none"

_MODELS_BESIDE = 2
"""Sizes of the model that a site holds beside what a step takes: what it received and sends."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A site in its workspace.

    Attributes:
        site: Its name.
        workspace: Its folder.
        plan: SHA-384 of the plan.
        sites: The sites that may take part, of ``plan/cols.yaml``.
        rules: What the parties agreed on.
        pins: Version of each package that ``requirements.txt`` names.
        threads: Of the plan, for each process.
        destination: Where the aggregator is; None where this process is connected to it already.
        data: Folder of the site's data, None where ``plan/data.yaml`` has no line for the site.
        lint: What is unsafe in the plan, one line each.
        step: Takes the dry step, or raises what is wrong.
        digests: What else must be equal elsewhere: name, and what gives it or raises.
        own_enclave: Looks at what attestation needs of this side; None where nothing is asked for.
    """

    site: str
    workspace: Path
    plan: str
    sites: Sequence[str]
    rules: Readiness
    pins: Mapping[str, str]
    threads: int
    destination: Destination | None
    data: Path | None
    lint: Sequence[str]
    step: Callable[[], Step]
    digests: Mapping[str, Callable[[], str]] = field(default_factory=dict)
    own_enclave: Callable[[], str] | None = None


def look(case: Case, machine: Machine, line: Line | None) -> tuple[list[Finding], Verdict]:
    """Probe everything, what is cheap first.

    Args:
        case: The site.
        machine: What it runs on.
        line: The way to the aggregator; None to leave everything out that needs it.

    Returns:
        All findings, and the verdict, which has of them what may leave the site.
    """
    party = Party(role="collaborator", name=case.site)
    findings = [
        _plan(case),
        certificate(case.workspace, party),
        versions_finding(case.workspace, case.pins, machine),
        _threads(case, machine),
        enclave(case.own_enclave),
    ]
    stepped, reading, step = _step(case, machine)
    findings += stepped
    measured = dict(reading)
    digests = {}
    if step is not None:
        digests = {"spec": step.spec, "frozen": step.frozen}
        findings.append(_disk(case, machine, step.model_bytes))
    for name, digest in case.digests.items():
        found = probed(
            name, digest, private=True, remedy=f"`openfl-flows check` at the site says what {name} "
            "lacks; have the data, key and versions that the parties agreed on",
        )  # fmt: skip
        findings.append(found)
        if found.green:
            digests[name] = found.found
    if line is not None:
        far = _line(case, machine, line)
        findings += far.findings
        measured |= far.measured
    verdict = Verdict(
        site=case.site,
        plan=case.plan,
        time=time.time(),
        findings=[finding.sent() for finding in findings],
        digests={**digests, "python": ".".join(machine.versions["python"].split(".")[:2])},
        measured=measured,
    )
    return findings, verdict


def _plan(case: Case) -> Finding:
    path = case.workspace / "plan" / "plan.yaml"
    if case.lint:
        return Finding(
            probe="plan", green=False, found=case.lint[0],
            remedy="get the plan anew from whoever exported it, see `openfl-flows lint`",
        )  # fmt: skip
    if case.site not in case.sites:
        return Finding(
            probe="plan", green=False,
            found=f"{path.with_name('cols.yaml')}: collaborators names {', '.join(case.sites)}, "
            f"expected {case.site} among them",
            remedy="use the site's name in the plan, or have it added to plan/cols.yaml",
        )  # fmt: skip
    if case.data is None:
        return Finding(
            probe="plan", green=False,
            found=f"{path.with_name('data.yaml')}: no line for {case.site}, expected "
            f"`{case.site},FOLDER`",
            remedy="add the line with the folder of the site's data",
        )  # fmt: skip
    return Finding(probe="plan", green=True, found=f"{path}: SHA-384 {case.plan[:16]}")


def versions_finding(workspace: Path, pins: Mapping[str, str], machine: Machine) -> Finding:
    """Whether the packages are those of ``requirements.txt``."""
    wrong = [
        f"{name} {machine.versions.get(name, 'not installed')}, expected {pin}"
        for name, pin in pins.items()
        if machine.versions.get(name) != pin
    ]
    file = workspace / "requirements.txt"
    if wrong or not pins:
        found = "; ".join(wrong) if wrong else "no versions to compare with"
        return Finding(
            probe="versions", green=False, found=f"{file}: {found}",
            remedy=f"pip install -r {file.name} in this environment",
        )  # fmt: skip
    python = machine.versions["python"]
    found = f"Python {python} and {len(pins)} packages as in {file}"
    return Finding(probe="versions", green=True, found=found)


def _threads(case: Case, machine: Machine) -> Finding:
    return Finding(
        probe="processors",
        green=case.threads <= machine.processors,
        found=f"{machine.processors} for runtime.threads={case.threads}",
        remedy="give the site more processors, or export the plan with fewer runtime.threads",
    )


def enclave(look_at: Callable[[], str] | None) -> Finding:
    """Whether what attestation needs of this party is there.

    Args:
        look_at: Says what there is, or raises what is wrong; None where the plan asks for none.
    """
    if look_at is None:
        return Finding(probe="enclave", green=True, found=f"not asked for: {NONE_ASKED}")
    return probed(
        "enclave", look_at, remedy="have the policy of the federation in attestation/ and pin it "
        "(`openfl-flows attest pin`); start in the enclave or machine that the policy names",
    )  # fmt: skip


def _step(case: Case, machine: Machine) -> tuple[list[Finding], dict[str, float], Step | None]:
    where = "plan/data.yaml" if case.data is None else f"{case.data} (plan/data.yaml)"
    remedy = "mend the data (plan/data.yaml); rows that cannot be used are in logs/rejected.csv"
    try:
        step = case.step()
    except StepError as error:
        found = " ".join(str(error).split())
        if error.of_data:
            data = Finding(
                probe="data", green=False, found=f"{where}: {found}", remedy=remedy, private=True
            )
            return [data], {}, None
        more = "the plan's model and batches need a larger machine, or one that is less busy"
        failed = Finding(probe="step", green=False, found=found, remedy=more, private=True)
        return [failed], {}, None
    loads = f"loads in {step.load_seconds:.1f} s"
    rejected = f"; {step.num_rejected} rows cannot be used" if step.num_rejected else ""
    data = Finding(probe="data", green=True, found=loads + rejected, private=True)
    finite = Finding(
        probe="step", green=step.finite,
        found=f"{step.seconds:.2f} s for {step.num_samples} samples"
        + ("" if step.finite else ", with a loss that is not a finite number"),
        remedy="look for values out of range in the data, and at the learning rate",
    )  # fmt: skip
    needed = step.grown_bytes + _MODELS_BESIDE * step.model_bytes
    free = machine.memory_bytes
    memory = Finding(
        probe="memory", green=free is None or needed <= free,
        found=f"{in_bytes(needed)} needed: {in_bytes(step.grown_bytes)} measured in a step, and "
        f"the model twice; {'unknown' if free is None else in_bytes(free)} available",
        remedy="a machine or container with more memory, or end what else runs on it",
    )  # fmt: skip
    measured = {
        "step_seconds": step.seconds,
        "load_seconds": step.load_seconds,
        "memory_bytes": float(needed),
    }
    return [data, finite, memory], measured, step


def _disk(case: Case, machine: Machine, model_bytes: int) -> Finding:
    needed = case.rules.disk_models * model_bytes
    return Finding(
        probe="disk",
        green=needed <= machine.disk_bytes,
        found=f"{case.workspace}: {in_bytes(machine.disk_bytes)} free, {in_bytes(needed)} needed: "
        f"network.readiness.disk_models={case.rules.disk_models} models of {in_bytes(model_bytes)}",
        remedy="free disk space, or put the workspace on a larger disk",
    )


def _line(case: Case, machine: Machine, line: Line) -> Reading:
    found, proxy = [], None
    if case.destination is not None:
        found = [reach(case.destination, machine.environment)]
        proxy = proxy_in_the_way(case.destination.host, machine.environment)
        if not found[0].green:
            return Reading(found, {})
    if case.own_enclave is not None:
        found.append(attestation(line))
        if not found[-1].green:
            return Reading(found, {})
    told = clocks(line, case.rules, proxy)
    found += told.findings
    if not told.findings[0].green:
        return Reading(found, {})
    moved = bandwidth(line, case.rules)
    return Reading([*found, *moved.findings], {**told.measured, **moved.measured})
