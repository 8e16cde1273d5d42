"""The link between a site and the aggregator: how wide it is each way, and how long."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KEY = "federation.link"

_UNITS = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_RATE = r"(\d+(?:\.\d+)?)(bit|kbit|mbit|gbit)"
_LINK = re.compile(rf"{_RATE}(?:/{_RATE})?(?:\+(\d+(?:\.\d+)?)(us|ms|s))?")
_EXPECTED = "expected e.g. 10mbit, 10mbit/100mbit (up/down) or 10mbit+20ms (one way)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A site's connection to the aggregator.

    Attributes:
        up_bits: From the site to the aggregator, bits per second.
        down_bits: From the aggregator to the site, bits per second.
        latency_seconds: One way.
    """

    up_bits: float
    down_bits: float
    latency_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a link that nothing gets through."""
        if not (self.up_bits > 0 and self.down_bits > 0 and self.latency_seconds >= 0):
            raise ValueError(
                f"{self}: expected bandwidths above 0 and a latency of at least 0 seconds"
            )


def parse_link(text: str, *, key: str = KEY) -> Link:
    """Read a link as ``UP[/DOWN][+LATENCY]``, in the units of ``tc``: ``10mbit`` is 10^7 bit/s.

    Args:
        text: E.g. ``10mbit``, ``10mbit/100mbit`` (up/down), ``10mbit+20ms`` (one way).
        key: What an error names.

    Raises:
        ValueError: It is no such text, or a bandwidth is 0.
    """
    found = _LINK.fullmatch(text)
    if found is None:
        raise ValueError(f"{key}={text!r}, {_EXPECTED}")
    up, up_unit, down, down_unit, latency, time_unit = found.groups()
    up_bits = float(up) * _UNITS[up_unit]
    down_bits = float(down) * _UNITS[down_unit] if down else up_bits
    if not up_bits or not down_bits:
        raise ValueError(f"{key}={text!r}, expected bandwidths above 0")
    seconds = float(latency) * _TIMES[time_unit] if latency else 0.0
    return Link(up_bits=up_bits, down_bits=down_bits, latency_seconds=seconds)


def site_links(value: Any, sites: Sequence[str], *, key: str = KEY) -> dict[str, Link]:
    """Links by site, from one text for all of them or from a mapping of sites to texts.

    Args:
        value: What the plan says; None for links that nobody narrows.
        sites: Names of the sites.
        key: What an error names.

    Returns:
        The links of those sites that have one.

    Raises:
        ValueError: A text cannot be read, or a name is no site's.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        return dict.fromkeys(sites, parse_link(value, key=key))
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError(f"{key}={value!r}, {_EXPECTED}, or one of these for each site by name")
    for name in value:
        if name not in sites:
            raise ValueError(f"{key}.{name}={value[name]}, expected one of {', '.join(sites)}")
    return {site: parse_link(value[site], key=f"{key}.{site}") for site in sites if site in value}
