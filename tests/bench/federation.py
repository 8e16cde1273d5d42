"""Federations under OpenFL's Task Runner at size, ours against OpenFL's own classes.

``python -m tests.bench.federation`` prints four tables; ``python -m tests.bench.federation scale``
only one of them, and ``scale --full`` also OpenFL's own aggregator with all of OpenFold3's tensors,
which takes minutes more.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import yaml

from tests.bench.federation_models import OPENFOLD3_TENSORS
from tests.bench.federation_parties import Trace, federate
from tests.bench.federation_scale import Scale, full_size_calls, measure_scale
from tests.bench.loopback import bandwidth

SCALE_TENSORS = (500, 2000)
SCALE_MEGABYTES = 40.0
"""Of the model with OpenFold3's tensors: few bytes, so that what counts is their number."""
PEAK_MEGABYTES = 100.0
PEAK_SITES = {"ours": (2, 5, 8), "stock": (2, 5)}
GROWTH_MEGABYTES, GROWTH_ROUNDS = 20.0, 50
OVERHEAD_MEGABYTES = (1.0, 20.0, 200.0)


class Peak(NamedTuple):
    """How much more memory an aggregator takes at most with a model than with next to none.

    Attributes:
        resident: As multiple of the model, all resident memory.
        anonymous: The same without what is mapped from files.
    """

    resident: float
    anonymous: float


class Overhead(NamedTuple):
    """A round without training, and what the network alone needs for its bytes.

    Attributes:
        seconds: Of a round with one site, which does nothing but add a constant.
        bound: Seconds in which gRPC moves the model to the site and back.
    """

    seconds: float
    bound: float


def measure_peak(kind: str, sites: int, megabytes: float = PEAK_MEGABYTES) -> Peak:
    """Peak of an aggregator above that of the same federation with a model of 10 kB."""
    traces = []
    for size in (0.01, megabytes):
        with _federated(kind, sites=sites, rounds=1, megabytes=size) as (trace, _):
            traces.append(trace)
    empty, full = traces
    return Peak(
        (full.peak("aggregator") - empty.peak("aggregator")) / (megabytes * 1e6),
        (full.anonymous_peak("aggregator") - empty.anonymous_peak("aggregator"))
        / (megabytes * 1e6),
    )


def measure_growth(
    kind: str, megabytes: float = GROWTH_MEGABYTES, rounds: int = GROWTH_ROUNDS
) -> Trace:
    """Watch many rounds of two sites."""
    with _federated(kind, sites=2, rounds=rounds, megabytes=megabytes) as (trace, _):
        return trace


def measure_overhead(megabytes: float, rounds: int = 5) -> Overhead:
    """Mean seconds of the rounds after the first, and the bound that this machine sets just now."""
    with _federated("ours", sites=1, rounds=rounds, megabytes=megabytes) as (trace, out):
        plan = yaml.safe_load((out / "parties" / "aggregator" / "plan" / "plan.yaml").read_text())
        size = round(megabytes * 1e6)
        port = plan["network"]["settings"]["agg_port"]
        up, down = bandwidth(out / "parties", port, max(size, 200_000_000))
    return Overhead(mean(trace.seconds[1:]), size / up + size / down)


@contextmanager
def _federated(
    kind: str, *, sites: int, rounds: int, megabytes: float
) -> Iterator[tuple[Trace, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        yield federate(kind, out, sites=sites, rounds=rounds, megabytes=megabytes), out


def _scale(full: bool) -> None:
    _write(
        f"Scale: OpenFold3's tensors in {SCALE_MEGABYTES:.0f} MB, 5 sites; CPU seconds of the "
        "aggregator per round, for results and end of the round, and for serving the model"
    )
    for tensors in (*SCALE_TENSORS, OPENFOLD3_TENSORS):
        ours = measure_scale("ours", tensors, SCALE_MEGABYTES)
        _write(f"  {tensors:>5} tensors, ours:  {_shown(ours)}")
        if tensors in SCALE_TENSORS or full:
            stock = measure_scale("stock", tensors, SCALE_MEGABYTES)
            ratio = stock.results_seconds / ours.results_seconds
            _write(f"  {tensors:>5} tensors, stock: {_shown(stock)}; stock / ours {ratio:.0f}")
    _write(f"  calls per site and round at OpenFold3's full size, ours: {full_size_calls()}")


def _peak(_: bool) -> None:
    _write(
        f"Peak memory of the aggregator, model of {PEAK_MEGABYTES:.0f} MB in 10 tensors, above "
        "that with a model of 10 kB, as multiple of the model"
    )
    for kind, counts in PEAK_SITES.items():
        for sites in counts:
            peak = measure_peak(kind, sites)
            _write(
                f"  {kind:>5}, {sites} sites: {peak.resident:5.1f}, without mapped files "
                f"{peak.anonymous:5.1f}"
            )


def _growth(_: bool) -> None:
    _write(
        f"Growth over {GROWTH_ROUNDS} rounds, model of {GROWTH_MEGABYTES:.0f} MB, 2 sites; MB per "
        "round after the 10th, least squares"
    )
    for kind in ("ours", "stock"):
        trace = measure_growth(kind)
        for party in sorted(trace.parties):
            _write(f"  {kind:>5}, memory of {party}: {_slope(*trace.growth(party))}")
        _write(f"  {kind:>5}, disk of the aggregator: {_slope(*trace.disk_growth())}")


def _overhead(_: bool) -> None:
    _write("Round without training, 1 site, against the bound of gRPC over mTLS on loopback")
    for megabytes in OVERHEAD_MEGABYTES:
        seconds, bound = measure_overhead(megabytes)
        _write(
            f"  {megabytes:>5.0f} MB: {seconds:6.2f} s, bound {bound:6.3f} s "
            f"({2 * megabytes / bound:,.0f} MB/s), ratio {seconds / bound:.1f}"
        )


def _shown(scale: Scale) -> str:
    downloads, uploads = (
        scale.calls[f"{n}"] for n in ("GetAggregatedTensor", "SendLocalTaskResults")
    )
    return (
        f"{scale.results_seconds:7.2f} s + {scale.serving_seconds:6.2f} s, calls per site "
        f"{downloads} + {uploads}"
    )


def _slope(value: float, error: float) -> str:
    return f"{value / 1e6:+.3f} ± {error / 1e6:.3f}"


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


_TABLES = {"scale": _scale, "peak": _peak, "growth": _growth, "overhead": _overhead}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[*_TABLES, []], default=[])
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    for name in options.tables or _TABLES:
        _TABLES[name](options.full)


if __name__ == "__main__":
    main()
