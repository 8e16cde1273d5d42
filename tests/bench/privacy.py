"""What hiding updates costs: ``python -m tests.bench.privacy speed`` and ``... accuracy``.

``speed``, seconds: CPU seconds a GB of float32 values of each part of the work at a site of three,
and how many copies of the values (memcpy, timed between the parts) take as long. ``accuracy``,
minutes: the toy's test error under noise, FedAvg, 20 rounds, C = 0.2.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate_experiment
from openfl_flows.privacy.fixed_point import summed, to_fixed
from openfl_flows.privacy.gaussian import Gaussian, release
from openfl_flows.privacy.masks import Masks
from openfl_flows.state import State
from openfl_flows.update import Update
from tests.bench.codecs import changes

SITES = ("site-1", "site-2", "site-3")
TENSOR = 2**20
NOISE = Gaussian(clip_norm=1.0, noise_multiplier=1.0)
TOY = ("experiment=toy", "join=fedavg", "federation.rounds=20", "runtime.quiet=true")
# 0.001 is clipping alone.
MULTIPLIERS = (None, 0.001, 1, 5, 20)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("speed", "accuracy"))
    parser.add_argument("--mib", type=int, default=128, help="of float32 values")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sites", type=int, nargs="+", default=(2, 10))
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    options = parser.parse_args(argv)
    if options.what == "speed":
        speed(options.mib, options.runs)
    else:
        accuracy(options.sites, options.seeds)
    return 0


def speed(mib: int, runs: int) -> None:
    """Print a row for each part of the work."""
    with tempfile.TemporaryDirectory() as folder:
        masks = {site: Masks(Path(folder) / site, site, "bench") for site in SITES}
        for site, own in masks.items():
            own.agree({peer: masks[peer].public for peer in SITES if peer != site})
        values = changes(mib * 2**18).reshape(-1, TENSOR)
        model = State({f"t{n:04}": np.zeros_like(row) for n, row in enumerate(values)})
        trained = State({f"t{n:04}": row for n, row in enumerate(values)})
        fixed = to_fixed(trained, model, num_samples=100, sites=len(SITES))
        updates = [Update(site=s, state=fixed, num_samples=100, num_steps=1) for s in SITES]
        digest, copy = model.digest(), np.empty_like(values)
        parts: dict[str, Callable[[], object]] = {
            "integers": lambda: to_fixed(trained, model, num_samples=100, sites=len(SITES)),
            "masks of two other sites": lambda: masks["site-2"].hide(fixed, digest, 1),
            "sum and mean of three updates": lambda: summed(model, updates),
            "clipping and noise": lambda: release(trained, model, NOISE, bytes(32)),
        }
        gigabytes = values.nbytes / 1e9
        for name, work in parts.items():
            took = sorted(_pair(work, lambda: np.copyto(copy, values)) for _ in range(runs + 1))
            seconds = statistics.median(pair[0] for pair in took) / gigabytes
            copies = statistics.median(pair[0] / pair[1] for pair in took)
            sys.stdout.write(f"{name:30} {seconds:6.1f} s/GB {copies:6.0f} copies\n")
            sys.stdout.flush()


def accuracy(sites: Sequence[int], seeds: Sequence[int]) -> None:
    """Print, for each z, epsilon and the least and greatest test error."""
    for multiplier in MULTIPLIERS:
        cells, epsilon = [], "-"
        for number in sites:
            errors = []
            for seed in seeds:
                noise: tuple[str, ...] = ()
                if multiplier is not None:
                    noise = (
                        "privacy=gaussian", "privacy.clip_norm=0.2",
                        f"privacy.noise_multiplier={multiplier}",
                    )  # fmt: skip
                words = (
                    *TOY, *noise, f"federation.sites={number}", f"seed={seed}",
                    f"runtime.resident_sites={number}",
                )  # fmt: skip
                with tempfile.TemporaryDirectory() as folder:
                    run = simulate_experiment(
                        Experiment.from_config(compose(words)), Path(folder) / "run"
                    )
                    errors.append(run.record["metrics"]["test_mse"])
                    spent = run.record["rounds"][-1]["sites"]["site-1"]["metrics"].get("epsilon")
                epsilon = "-" if spent is None else f"{spent:.3g}"
            cells.append(f"{min(errors):.3g} to {max(errors):.3g}")
        sys.stdout.write(f"| {multiplier or 'no privacy'} | {epsilon} | {' | '.join(cells)} |\n")
        sys.stdout.flush()


def _pair(work: Callable[[], object], copy: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of the work, and of a copy right after it."""
    start = time.process_time()
    work()
    middle = time.process_time()
    copy()
    return middle - start, time.process_time() - middle


if __name__ == "__main__":
    raise SystemExit(main())
