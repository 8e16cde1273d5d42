"""Speed and size of the codecs on one core: `python -m tests.bench.codecs`.

Rates are bytes of float32 a CPU second; the ratio compares encoding and decoding together with one
memcpy of the values. Changes are Gaussian, their spread differing from tensor to tensor.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import zstandard

from openfl_flows.codecs.recipes import COMPRESSIONS, build_compression
from openfl_flows.state import Array

T = TypeVar("T")
CELLS = [{"name": name} for name in COMPRESSIONS] + [
    {"name": name, "rounding": "stochastic"} for name in ("int8", "int4", "int2")
]
HEADING = (
    f"{'codec':18}{'encode':>8}{'decode':>8}{'both':>8}{'memcpy':>8}"
    f"{'zstd':>8}{'B/value':>9}{'zstd-1':>8}{'error':>9}"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row per codec."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64, help="of float32 values")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args(arguments)
    values = changes(options.mib * 2**18)
    sys.stdout.write(f"{HEADING}\n")
    copy = np.empty_like(values)
    for cell in CELLS:
        memcpy, _ = timed(lambda: np.copyto(copy, values), options.runs)
        sys.stdout.write(f"{row(cell, values, memcpy, options.runs)}\n")
        sys.stdout.flush()


def changes(size: int, tensor: int = 2**14) -> Array:
    """Values of tensors of ``tensor`` values each, whose spread is log-normal."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(size, np.float32)
    spread = 1e-4 * np.exp(rng.standard_normal(-(-size // tensor), np.float32))
    values *= np.repeat(spread, tensor)[:size]
    return values


def row(cell: dict[str, str], values: Array, memcpy: float, runs: int) -> str:
    """Rates in GB/s, the ratio to memcpy, zstd's share of the time to encode, sizes, the error."""
    codec = build_compression(**cell).codec
    encode, payload = timed(lambda: codec.encode(values, 1), runs)
    decode, decoded = timed(lambda: codec.decode(payload, values.size), runs)
    zstd, squeezed = timed(lambda: zstandard.ZstdCompressor(level=1).compress(payload), runs)
    error = np.linalg.norm(values - decoded) / np.linalg.norm(values)
    rates = [values.nbytes / seconds / 1e9 for seconds in (encode, decode, encode + decode)]
    share = f"{zstd / (zstd + encode):.0%}" if codec.compress else "-"
    return (
        f"{' '.join(cell.values()):18}"
        + "".join(f"{rate:8.2f}" for rate in rates)
        + f"{memcpy / (encode + decode):8.3f}{share:>8}"
        + f"{payload.size / values.size:9.4f}{len(squeezed) / values.size:8.4f}{error:9.2e}"
    )


def timed(work: Callable[[], T], runs: int) -> tuple[float, T]:
    """Median CPU seconds of ``work`` and what it returns, after a run that does not count."""
    result = work()
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds), result


if __name__ == "__main__":
    main()
