"""A run's figures for Prometheus: one registry, as a file and over HTTP on this machine alone.

A site dials out and is never dialled, so nothing can scrape it: node_exporter's textfile collector
reads the file instead. Labels are names of parties, parts, tasks and nothing else.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from openfl_flows.atomic import write_atomically

FILE = "metrics.prom"
LOOPBACK = "127.0.0.1"

Sample = tuple[tuple[str, ...], float]

_PREFIX = "openfl_flows_"
_TOTALS = (
    ("site_sent_bytes", "bytes_up", "Bytes that the site sent."),
    ("site_received_bytes", "bytes_down", "Bytes that the site was sent."),
    ("site_samples", "samples", "Training samples that the site saw."),
)
_RATES = (
    ("samples_per_second", "Training samples a second in the last round."),
    ("upload_bytes_per_second", "Bytes a second of the last round's upload."),
    ("download_bytes_per_second", "Bytes a second of the last round's download."),
)


class Exposition:
    """Shows the latest document to Prometheus.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._document: Mapping[str, Any] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def show(self, document: Mapping[str, Any]) -> None:
        """Put a document, as ``status.json`` has it, in the place of the last one."""
        self._document = document
        write_atomically(self._path, generate_latest(self.registry))

    def serve(self, port: int) -> int:
        """Serve the same over HTTP on the loopback device, from a thread; return the port.

        Raises:
            ValueError: The port is taken.
        """
        try:
            server, _ = start_http_server(port, addr=LOOPBACK, registry=self.registry)
        except OSError as error:
            raise ValueError(
                f"network.metrics_port={port}, expected a free port: {error.strerror}"
            ) from None
        return int(server.server_port)

    def collect(self) -> Iterator[Metric]:
        """The figures of the latest document, for the registry."""
        yield from families(self._document)


def families(document: Mapping[str, Any]) -> Iterator[Metric]:
    """The figures of a document, as ``status.json`` has it; none where it has none."""
    yield _gauge("round", "Round at hand, from 1.", (), _one(document.get("round")))
    yield _gauge("rounds_planned", "Number of the last round.", (), _one(document.get("rounds")))
    seconds = document.get("seconds", ())
    yield _gauge("round_seconds", "Wall seconds of the last round.", (), _one(*seconds[-1:]))
    left = document.get("expected", {}).get("left_seconds")
    yield _gauge(
        "left_seconds", "Seconds that the rounds left are expected to take.", (), _one(left)
    )
    sites = document.get("sites", {})
    heard = [((site,), s["last_heard"]) for site, s in sites.items() if s.get("last_heard")]
    text = "Unix time of the site's last call."
    yield _gauge("site_last_heard_timestamp_seconds", text, ("site",), heard)
    yield from _of_sites(document)
    yield from _findings(document)


def _of_sites(document: Mapping[str, Any]) -> Iterator[Metric]:
    spans = document.get("spans", {})
    last = [((site, part), s) for site, own in spans.items() for part, s in own.items()]
    text = "Seconds of the site's last round, by part."
    yield _gauge("site_part_last_seconds", text, ("site", "part"), last)
    tasks = [
        ((site, t), s) for site, own in document.get("tasks", {}).items() for t, s in own.items()
    ]
    yield _gauge(
        "site_task_last_seconds", "Seconds of the last round, by task.", ("site", "task"), tasks
    )
    totals = document.get("totals", {})
    parts = [
        ((site, name.removesuffix("_seconds")), value)
        for site, own in totals.items()
        for name, value in own.items()
        if name.endswith("_seconds")
    ]
    yield _counter("site_part_seconds", "Seconds of all rounds, by part.", ("site", "part"), parts)
    for name, key, text in _TOTALS:
        counts = [((site,), own[key]) for site, own in totals.items()]
        yield _counter(name, text, ("site",), counts)
    for name, text in _RATES:
        rates = [((site,), own[name]) for site, own in document.get("throughput", {}).items()]
        yield _gauge(f"site_{name}", text, ("site",), rates)
    losses = [
        ((site,), own["train_loss"])
        for site, own in document.get("losses", {}).items()
        if own.get("train_loss") is not None
    ]
    yield _gauge("site_train_loss", "Training loss of the last round.", ("site",), losses)


def _findings(document: Mapping[str, Any]) -> Iterator[Metric]:
    costs = [((cost["site"],), cost["seconds"]) for cost in document.get("costs", ())]
    text = "Seconds that rounds took longer because the site was the slowest."
    yield _counter("site_cost_seconds", text, ("site",), costs)
    alerts = [
        ((alert["site"], alert["quantity"]), 1.0)
        for alert in document.get("alerts", {}).get("active", ())
    ]
    yield _gauge("alert_active", "1 for what began and is not over.", ("site", "quantity"), alerts)
    memory = document.get("memory", {})
    held = [((party,), trend["bytes"]) for party, trend in memory.items()]
    yield _gauge(
        "resident_memory_bytes", "What the process held after the last round.", ("party",), held
    )
    growth = [((party,), trend["slope"]) for party, trend in memory.items()]
    text = "Growth of the memory a round, Theil-Sen."
    yield _gauge("memory_growth_bytes", text, ("party",), growth)
    leaks = [((party,), float(trend["verdict"] == "leak")) for party, trend in memory.items()]
    yield _gauge("memory_leak", "1 where the process leaks.", ("party",), leaks)


def _one(*values: float | None) -> list[Sample]:
    return [((), float(value)) for value in values if value is not None]


def _gauge(name: str, text: str, labels: Iterable[str], samples: Iterable[Sample]) -> Metric:
    return _filled(GaugeMetricFamily(_PREFIX + name, text, labels=[*labels]), samples)


def _counter(name: str, text: str, labels: Iterable[str], samples: Iterable[Sample]) -> Metric:
    return _filled(CounterMetricFamily(_PREFIX + name, text, labels=[*labels]), samples)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, samples: Iterable[Sample]) -> Metric:
    for labels, value in samples:
        family.add_metric(labels, value)
    return family
