"""How long a round takes: predicted from bytes, links and seconds of work, site by site.

A site downloads, decodes, computes, encodes and uploads; the aggregator joins after the slowest::

    download_i = max(8 B_down_i / down_i,  8 Σ_k B_down_k / up_A) + requests_i RTT_i
    upload_i   = max(8 B_up_i / up_i,      8 Σ_k B_up_k / down_A) + RTT_i
    exposed_i  = max(0, download_i + upload_i - hidden_i)
    busy_i     = decode_i + compute_i + encode_i + exposed_i
    round      = max_i(busy_i) + join
    wait_i     = round - busy_i

in bytes, bits per second and seconds. A is the aggregator's own line, if its width is known: all
sites share it, so what goes through it ends at the same time. ``hidden`` is what a site computes
while its bytes travel: with streaming and a delay of τ steps, τ times the seconds of a step
(Douillard et al. 2025, arXiv 2501.18512).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from openfl_flows.ops.link import Link


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteWork:
    """What a site has to do in a round.

    Attributes:
        bytes_down: From the aggregator.
        bytes_up: To the aggregator.
        compute: Seconds of training and validation.
        decode: Seconds that the model takes to decode.
        encode: Seconds that the update takes to encode.
        hidden: Seconds of ``compute`` that go on while bytes travel.
        requests: Downloads that the model comes in, one after another.
    """

    bytes_down: float
    bytes_up: float
    compute: float
    decode: float = 0.0
    encode: float = 0.0
    hidden: float = 0.0
    requests: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteTime:
    """Where a site's round goes, in seconds.

    Attributes:
        download: The model travels to the site.
        decode: It is decoded.
        compute: Training and validation.
        encode: The update is encoded.
        upload: The update travels to the aggregator.
        wait: For slower sites, and for the join.
        exposed: Of download and upload, what no computation hides.
    """

    download: float
    decode: float
    compute: float
    encode: float
    upload: float
    wait: float
    exposed: float

    @property
    def busy(self) -> float:
        """Seconds until this site's update is with the aggregator."""
        return self.decode + self.compute + self.encode + self.exposed


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundTime:
    """A predicted round.

    Attributes:
        sites: Each site's part.
        join: Seconds of the join.
        total: Seconds of the round.
    """

    sites: Mapping[str, SiteTime]
    join: float
    total: float

    @property
    def slowest(self) -> str:
        """The site that all others wait for; of equal ones, the first by name."""
        return min(self.sites, key=lambda site: (-self.sites[site].busy, site))

    @property
    def idle(self) -> float:
        """Share of the round that its slowest computation does not account for, 0 to 1.

        That is what links, codecs and the join cost. That a fast site waits for one that computes
        for longer is in ``wait``, and no link would change it.
        """
        compute = max(site.compute for site in self.sites.values())
        return 1 - compute / self.total if self.total > 0 else 0.0


def predicted_round(
    work: Mapping[str, SiteWork],
    links: Mapping[str, Link],
    *,
    join: float = 0.0,
    aggregator: Link | None = None,
) -> RoundTime:
    """Predict a round.

    Args:
        work: By site.
        links: By site; a site without one is taken to be as near as a process of the same machine.
        join: Seconds of the join.
        aggregator: The aggregator's own line, as seen from there: ``up`` is to the sites. None
            where it is wider than all sites' links together.

    Raises:
        ValueError: There is no site.
    """
    if not work:
        raise ValueError("no site takes part in the round, expected at least one")
    own_line = aggregator or Link(up_bits=math.inf, down_bits=math.inf)
    shared_down = 8 * sum(mine.bytes_down for mine in work.values()) / own_line.up_bits
    shared_up = 8 * sum(mine.bytes_up for mine in work.values()) / own_line.down_bits
    times = {}
    for site in sorted(work):
        mine, link = work[site], links.get(site)
        round_trip = 2 * (own_line.latency_seconds + (link.latency_seconds if link else 0.0))
        own_down = 8 * mine.bytes_down / link.down_bits if link else 0.0
        own_up = 8 * mine.bytes_up / link.up_bits if link else 0.0
        download = max(own_down, shared_down) + mine.requests * round_trip
        upload = max(own_up, shared_up) + round_trip
        times[site] = SiteTime(
            download=download,
            decode=mine.decode,
            compute=mine.compute,
            encode=mine.encode,
            upload=upload,
            wait=0.0,
            exposed=max(0.0, download + upload - mine.hidden),
        )
    total = max(time.busy for time in times.values()) + join
    waited = {site: replace(time, wait=total - time.busy) for site, time in times.items()}
    return RoundTime(sites=waited, join=join, total=total)
