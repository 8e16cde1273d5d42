"""A rehearsal's links, as narrow as ``federation.link`` says, and what went over them."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, Self

from openfl_flows.atomic import write_json
from openfl_flows.ops.link import Link
from openfl_flows.taskrunner.namespaces import ADDRESS, Namespaces
from openfl_flows.taskrunner.parties import Launch
from openfl_flows.taskrunner.proxies import Proxies

_log = logging.getLogger(__name__)


class Hosts(Protocol):
    """Where the parties of a rehearsal run, with links between them; a context manager."""

    @property
    def how(self) -> str:
        """In a few words, how the links are narrowed."""
        ...

    def __enter__(self) -> Self:
        """Set up."""
        ...

    def __exit__(self, *_: object) -> None:
        """Remove everything."""
        ...

    def launching(self, launch: Launch) -> Launch:
        """A launch that starts each party, whose folder has its name, behind its own link."""
        ...

    def moved(self) -> dict[str, dict[str, int]]:
        """Bytes over each site's link so far: ``{site: {"up": ..., "down": ...}}``."""
        ...


class HostsMaker(Protocol):
    """Makes the hosts of an aggregator, which sites reach at :data:`ADDRESS`, and of its sites."""

    def __call__(self, sites: Sequence[str], links: Mapping[str, Link], port: int) -> Hosts:
        """The hosts, of which ``port`` is the aggregator's."""
        ...


def proxied(sites: Sequence[str], links: Mapping[str, Link], port: int) -> Hosts:
    """All parties on this machine, each site behind a proxy."""
    return Proxies(sites, links, target=f"{ADDRESS}:{port}", port=port)


def as_hosts(sites: Sequence[str], links: Mapping[str, Link], port: int) -> Hosts:
    """Hosts of their own where the machine allows it (root, ``ip``, ``tc``), proxies elsewhere."""
    try:
        return Namespaces(sites, links)
    except OSError as error:
        _log.info("Links are narrowed by proxies: %s", error)
        return proxied(sites, links, port)


@contextmanager
def narrowed(
    sites: Sequence[str],
    links: Mapping[str, Link],
    *,
    port: int,
    record: Path,
    launch: Launch,
    make: HostsMaker = as_hosts,
) -> Iterator[Launch]:
    """Give a launch that starts every party behind its link; remove everything in the end.

    Args:
        sites: Names of the sites.
        links: How narrow their links are; with none, parties start as ``launch`` starts them.
        port: The aggregator's.
        record: Gets, as JSON, how the links were narrowed, and the bytes that went over them by
            site and direction, added to those that it has already.
        launch: Starts a process.
        make: Makes the hosts.
    """
    if not links:
        yield launch
        return
    with make(sites, links, port) as hosts:
        try:
            yield hosts.launching(launch)
        finally:
            before = json.loads(record.read_text())["bytes"] if record.is_file() else {}
            counts = {
                site: {way: count + before.get(site, {}).get(way, 0) for way, count in ways.items()}
                for site, ways in hosts.moved().items()
            }
            document = {
                "how": hosts.how,
                "links": {site: asdict(link) for site, link in links.items()},
                "bytes": counts,
            }
            write_json(record, document)
