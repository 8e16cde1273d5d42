"""Where quotes come from: Gramine's files, Linux's files for confidential machines, or a plug-in.

Plug-ins are entry points of the group ``openfl_flows.quoters``: each is a function without
arguments that gives a :class:`Quoter`.
"""

import contextlib
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from openfl_flows.attestation.claims import NONCE, REPORT_DATA, Claims, claims_bytes, report_data
from openfl_flows.attestation.evidence import Evidence
from openfl_flows.attestation.verifiers import endorsements

GROUP = "openfl_flows.quoters"
GRAMINE = Path("/dev/attestation")
TSM = Path("/sys/kernel/config/tsm/report")

_PROVIDERS = {"tdx_guest": "tdx", "sev_guest": "snp"}
_TDX_FIXED = 48 + 584 + 4


@dataclass(frozen=True, kw_only=True)
class Quoted:
    """What a quoter gives.

    Attributes:
        kind: Of the quote: ``sgx``, ``tdx``, or a plug-in's.
        quote: The quote.
        endorsements: What other devices add, by their verifiers' names.
    """

    kind: str
    quote: bytes
    endorsements: Mapping[str, bytes] = field(default_factory=dict)


class Quoter(Protocol):
    """Has the hardware sign 64 bytes."""

    def quote(self, report_data: bytes) -> Quoted:
        """A quote of ``report_data``.

        Raises:
            ValueError: This is no place that can be quoted.
        """


@dataclass(frozen=True, kw_only=True)
class GramineQuoter:
    """Quotes of the enclave that this process runs in.

    Attributes:
        folder: Gramine's files.
    """

    folder: Path = GRAMINE

    def quote(self, report_data: bytes) -> Quoted:
        """A quote of the enclave.

        Raises:
            ValueError: This is no enclave with remote attestation.
        """
        target, source = self.folder / "user_report_data", self.folder / "quote"
        if not source.exists():
            raise ValueError(
                f"{source}: no such file, expected to run under gramine-sgx with "
                'sgx.remote_attestation = "dcap"'
            )
        target.write_bytes(report_data)
        return Quoted(kind="sgx", quote=source.read_bytes())


@dataclass(frozen=True, kw_only=True)
class TsmQuoter:
    """Quotes of the confidential machine that this process runs in (Linux 6.7 and later).

    Attributes:
        folder: The kernel's files.
    """

    folder: Path = TSM

    def quote(self, report_data: bytes) -> Quoted:
        """A quote of the machine.

        Raises:
            ValueError: This is no such machine, or somebody else has asked meanwhile.
        """
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: no such folder, expected a confidential machine")
        entry = self.folder / f"openfl-flows-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        entry.mkdir()
        try:
            return read_report(entry, report_data)
        finally:
            with contextlib.suppress(OSError):
                entry.rmdir()


def read_report(entry: Path, report_data: bytes) -> Quoted:
    """Ask for one report through the kernel's files.

    Args:
        entry: A folder that the kernel has filled with ``inblob``, ``outblob`` and so on.
        report_data: 64 bytes.

    Raises:
        ValueError: It is by an unknown provider, or somebody has asked for another one meanwhile.
    """
    before = int((entry / "generation").read_text())
    (entry / "inblob").write_bytes(report_data)
    content = (entry / "outblob").read_bytes()
    provider = (entry / "provider").read_text().strip()
    after = int((entry / "generation").read_text())
    if after - before > 1:
        raise ValueError(f"{entry}: {after - before} requests, expected one: quoted again?")
    kind = _PROVIDERS.get(provider)
    if kind is None:
        raise ValueError(f"{entry}: provider {provider}, expected {', '.join(_PROVIDERS)}")
    return Quoted(kind=kind, quote=_trimmed(content) if kind == "tdx" else content)


def quoter(name: str) -> Quoter:
    """The quoter of that name: ``gramine``, ``tsm``, or a plug-in's.

    Raises:
        ValueError: There is none.
    """
    if name == "gramine":
        return GramineQuoter()
    if name == "tsm":
        return TsmQuoter()
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        known = ", ".join(["gramine", "tsm", *sorted(points)])
        raise ValueError(f"no quoter {name!r}, expected one of {known}")
    found: Quoter = points[name].load()()
    return found


def make_evidence(source: Quoter, claims: Claims, *, workspace: Path | None = None) -> Evidence:
    """Evidence of claims, from this process' hardware.

    Args:
        source: Where the quote comes from.
        claims: What to claim.
        workspace: The party's workspace, whose file may name programs that endorse it.

    Raises:
        ValueError: There is no quote to be had, or a program fails.
    """
    content = claims_bytes(claims)
    data = report_data(content)
    assert len(data) == REPORT_DATA
    found = source.quote(data)
    return Evidence(
        kind=found.kind,
        quote=found.quote,
        claims=content,
        endorsements={**found.endorsements, **endorsements(workspace, data[:NONCE])},
    )


def _trimmed(quote: bytes) -> bytes:
    """A TDX quote without the zeros that hosts put behind it."""
    size = int.from_bytes(quote[_TDX_FIXED - 4 : _TDX_FIXED], "little")
    whole, rest = quote[: _TDX_FIXED + size], quote[_TDX_FIXED + size :]
    return quote if any(rest) else whole
