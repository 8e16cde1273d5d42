"""Probes of the way to the aggregator: outbound only, TCP first, then TLS, then its own calls."""

import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from openfl_flows.pki.party import CHAIN
from openfl_flows.pki.plan import Party
from openfl_flows.readiness.findings import Finding, probed
from openfl_flows.readiness.machine import proxy_in_the_way
from openfl_flows.readiness.rules import Readiness

CONNECT_SECONDS = 10.0
HANGS_UP_SECONDS = 0.5
"""How long a server that does not want this client's certificate takes to say so, at least."""
TRIAL_BYTES = 2**18
"""What a bandwidth probe moves first, to know how much it can move in :data:`PROBE_SECONDS`."""
PROBE_SECONDS = 2.0
_MIB = 2**20


class Line(Protocol):
    """The aggregator, as a site reaches it over mutual TLS."""

    def attested(self) -> str:
        """What the aggregator has proved to this site; raises as :meth:`clock` does."""
        ...

    def clock(self) -> float:
        """The aggregator's time, Unix seconds.

        Raises:
            ValueError: It does not answer, or refuses this site.
        """
        ...

    def download(self, count: int) -> None:
        """Fetch that many bytes; raises as :meth:`clock` does."""
        ...

    def upload(self, count: int) -> None:
        """Send that many bytes; raises as :meth:`clock` does."""
        ...


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where the aggregator is, and whose certificate goes there.

    Attributes:
        host: Its name or address.
        port: Its port.
        workspace: The site's, with its key and certificate.
        site: The site.
        attested: Whether what is there has to prove itself otherwise than by a certificate.
    """

    host: str
    port: int
    workspace: Path
    site: Party
    attested: bool = False


class Reading(NamedTuple):
    """Findings, and what was measured for them, by name with unit."""

    findings: list[Finding]
    measured: dict[str, float]


def reach(to: Destination, environment: Mapping[str, str]) -> Finding:
    """Whether a connection of this site ends at the aggregator.

    Args:
        to: Where to.
        environment: Variables, of which some name proxies.
    """
    where = f"{to.host}:{to.port}"
    keys = "network.settings.agg_addr and agg_port in plan/plan.yaml"
    if (proxy := proxy_in_the_way(to.host, environment)) is not None:
        # Only gRPC's own calls tell whether the proxy lets them through.
        # Its value may have a password in it.
        found = f"{where} through the proxy of {proxy}"
        return Finding(probe="reach", green=True, found=found)
    try:
        connection = socket.create_connection((to.host, to.port), timeout=CONNECT_SECONDS)
    except OSError as error:
        return Finding(
            probe="reach", green=False, found=f"{where}: {error.strerror or error}",
            remedy="is the aggregator started, does a firewall let this site out to it, are "
            f"{keys} right?",
        )  # fmt: skip
    with connection:
        try:
            version = _shake_hands(connection, to)
        except (OSError, ValueError) as error:
            return Finding(
                probe="reach", green=False, found=f"{where}: {_in_words(error)}",
                remedy=f"do both sides trust the same CA ({CHAIN}), is the certificate the site's, "
                f"are {keys} right?",
            )  # fmt: skip
    found = "what answers has yet to be attested" if to.attested else "both certificates good"
    return Finding(probe="reach", green=True, found=f"{where} by {version}, {found}")


def _shake_hands(connection: socket.socket, to: Destination) -> str:
    if to.attested:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(connection, server_hostname=to.host) as secured:
            return str(secured.version())
    context = ssl.create_default_context(cafile=str(to.workspace / CHAIN))
    context.load_cert_chain(to.site.file(to.workspace, ".crt"), to.site.file(to.workspace, ".key"))
    context.set_alpn_protocols(["h2"])
    with context.wrap_socket(connection, server_hostname=to.host) as secured:
        # With TLS 1.3 a server that refuses a client's certificate says so after the handshake.
        secured.settimeout(HANGS_UP_SECONDS)
        try:
            if not secured.recv(1):
                raise ValueError("it hangs up on this site's certificate")
        except TimeoutError:
            pass
        return str(secured.version())


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not good for {error.verify_message or error}"
    if isinstance(error, ssl.SSLError):
        return f"TLS fails: {error.reason or error}"
    if isinstance(error, ConnectionError):
        return f"it hangs up on this site's certificate ({error})"
    return str(error)


def attestation(line: Line) -> Finding:
    """Whether what answers has proved to be the aggregator, and what runs there.

    Args:
        line: The way there.
    """
    return probed(
        "attestation", line.attested, remedy="look at policy and collateral in attestation/; have "
        "the aggregator's operator start what the policy names: nothing is sent before",
    )  # fmt: skip


def clocks(line: Line, rules: Readiness, proxy: str | None = None) -> Reading:
    """Whether the aggregator answers, and how far this site's clock is from its.

    It looks at its clock between question and answer, so half of that time is not known.

    Args:
        line: The way there.
        rules: Of the plan.
        proxy: The variable that names the proxy on the way, if there is one.
    """
    asked = time.time()
    try:
        theirs = line.clock()
    except ValueError as error:
        remedy = (
            "have the plan that the aggregator has, and a certificate of the site's name"
            if proxy is None
            else f"unset {proxy}, or add the aggregator to no_proxy"
        )
        refused = Finding(probe="aggregator", green=False, found=str(error), remedy=remedy)
        return Reading([refused], {})
    answered = time.time()
    skew = (asked + answered) / 2 - theirs
    unknown = (answered - asked) / 2
    way = "ahead of" if skew > 0 else "behind"
    return Reading(
        [
            Finding(probe="aggregator", green=True, found="answers this site, and has its plan"),
            Finding(
                probe="clock",
                green=abs(skew) - unknown <= rules.max_clock_skew_seconds,
                found=f"{abs(skew):.2f} ± {unknown:.2f} s {way} the aggregator's, expected at most "
                f"{rules.max_clock_skew_seconds} s",
                remedy="set the clock of the site, or of the aggregator, by a time server",
            ),
        ],
        {"clock_skew_seconds": skew},
    )


def bandwidth(line: Line, rules: Readiness) -> Reading:
    """Bytes a second each way, through the aggregator's own port and calls."""
    if not rules.probe_mib:
        return Reading([], {})
    rates = {}
    for way, move in (("upload", line.upload), ("download", line.download)):
        try:
            rates[way] = _rate(move, rules.probe_mib * _MIB)
        except ValueError as error:
            remedy = "what lies between the site and the aggregator lets small messages through?"
            stopped = Finding(
                probe="bandwidth", green=False, found=f"{way}: {error}", remedy=remedy
            )
            return Reading([stopped], {})
    said = ", ".join(f"{way} {8 * rate / 1e6:,.1f} Mbit/s" for way, rate in rates.items())
    least = rules.least_mbit
    wanted = "" if least is None else f", expected at least {least:g} Mbit/s"
    finding = Finding(
        probe="bandwidth",
        green=least is None or min(rates.values()) * 8 / 1e6 >= least,
        found=said + wanted,
        remedy="`openfl-flows plan-link` says what thinner lines ask for; or a better line",
    )
    measured = {f"{way}_bytes_per_second": rate for way, rate in rates.items()}
    return Reading([finding], measured)


class _Move(Protocol):
    def __call__(self, count: int) -> None: ...


def _rate(move: _Move, most: int) -> float:
    """Bytes a second: of a small transfer, then of one that is as large as time allows."""
    rate = 0.0
    for count in (min(TRIAL_BYTES, most), most):
        if rate:
            count = int(min(most, rate * PROBE_SECONDS))
        if rate and count <= TRIAL_BYTES:
            break
        began = time.monotonic()
        move(count)
        rate = count / max(time.monotonic() - began, 1e-6)
    return rate
