"""Throughput of DiGress on one CPU thread: ``python -m tests.bench.digress``.

Figures are per CPU second of the process, so that a shared machine does not spoil them. A training
step is what a learner does for one batch: draw it, noise it, features, forward, backward, AdamW.
"Of the bound" is the rate against that of the step's matrix products alone, at the speed that this
processor reaches on one of them in the same run.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from openfl_flows.data.molecule_sites import PartitionConfig, SiteMolecules, deal
from openfl_flows.data.source import MoleculeSource
from openfl_flows.learners.base import Budget
from openfl_flows.learners.digress import DigressLearner, DigressTraining
from openfl_flows.models.digress import Denoiser, DigressConfig, GraphStatistics, count_statistics
from openfl_flows.models.digress.statistics import statistics_from_counts
from openfl_flows.models.precision import Kernels, Precision, in_precision
from openfl_flows.ops.memory import peak_rss_bytes

PUBLISHED = {"train": 68.0, "sample": 216.0, "memory": 3.9e9}
"""Of the published implementation at its default size, one thread of another processor: graphs per
CPU second of a training step at batch 512, graphs times steps per CPU second of sampling, bytes of
peak memory."""

PRESETS = {"default": (DigressConfig.default(), 512), "small": (DigressConfig.small(), 256)}
MICRO_BATCH: dict[Kernels, int] = {"torch": 64, "native": 256}
"""Where each is fastest: native kernels keep what is wide in the cache by themselves."""


class Rates(NamedTuple):
    """Graphs, and graphs times steps, per CPU second; the same without all but matrix products."""

    train: float
    sample: float
    train_bound: float
    sample_bound: float


def main() -> None:
    """Measure one preset and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--kernels", choices=MICRO_BATCH, default="torch")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, batch_size = PRESETS[options.preset]
    training = DigressTraining(
        batch_size=batch_size,
        micro_batch=MICRO_BATCH[options.kernels],
        regressor=False,
        precision=options.precision,
        kernels=options.kernels,
    )
    site, statistics = _data(config)
    rates = _measure(config, training, site, statistics, options.steps)
    peak = peak_rss_bytes()
    out = sys.stdout.write
    out(f"{options.preset} preset, batch {batch_size}, {options.kernels} kernels, ")
    out(f"{options.precision}, one thread\n")
    for name, key, rate, bound in (
        ("training, graphs per CPU second", "train", rates.train, rates.train_bound),
        ("sampling, graph-steps per CPU second", "sample", rates.sample, rates.sample_bound),
    ):
        ratio = f", {rate / PUBLISHED[key]:.2f} times published" * (options.preset == "default")
        out(f"{name:>38}: {rate:8.1f}, {rate / bound:4.0%} of the bound{ratio}\n")
    out(f"{'peak memory, GB':>38}: {peak / 1e9:8.2f}\n")


def _data(config: DigressConfig) -> tuple[SiteMolecules, GraphStatistics]:
    molecules, _ = MoleculeSource().read(config.vocabulary, config.max_atoms)
    site = deal(molecules, ("site-1",), PartitionConfig(), 0)["site-1"]
    train = site.train.rows(range(len(site.train)))
    counts = count_statistics(*train, site.train.targets, len(config.vocabulary))
    return site, statistics_from_counts(counts)


def _measure(
    config: DigressConfig, training: DigressTraining, site: SiteMolecules,
    statistics: GraphStatistics, steps: int,
) -> Rates:  # fmt: skip
    learner = DigressLearner(config, training, statistics, site, seed=0)
    learner.train(Budget(steps=1), lambda *_: None)
    trained = _per_cpu_second(
        lambda: learner.train(Budget(steps=steps), lambda *_: None).num_samples
    )
    denoiser, num = Denoiser(config, statistics), training.micro_batch
    if training.kernels == "native":
        denoiser.model.use_native_kernels()
    generator = torch.Generator().manual_seed(0)

    def sample(steps: int) -> int:
        with in_precision(training.precision, "cpu"):
            denoiser.sample(num, generator, steps=steps, batch_size=num)
        # The network runs once more, to draw the final graph.
        return num * (steps + 1)

    sample(1)
    sampled = _per_cpu_second(lambda: sample(20))
    speed = _matrix_product_speed(training.precision)
    flops = _flops_per_graph(config, statistics)
    return Rates(trained, sampled, speed / (3 * flops), speed / flops)


def _flops_per_graph(config: DigressConfig, statistics: GraphStatistics) -> float:
    """Of the matrix products of a forward pass; backward ones are twice as many."""
    denoiser = Denoiser(config, statistics)
    generator = torch.Generator().manual_seed(0)
    graphs = denoiser.sample(8, generator, steps=1, num_nodes=torch.full((8,), config.max_atoms))
    noisy = denoiser.corrupt(graphs.graphs, generator)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        denoiser(noisy)
    return float(counter.get_total_flops()) / 8


def _matrix_product_speed(precision: Precision) -> float:
    """Floating-point operations per CPU second in a product of the shapes that pairs have."""
    a, b = torch.randn(64 * 81, 64), torch.randn(64, 512)
    if precision == "bfloat16":
        a, b = a.bfloat16(), b.bfloat16()
    out = torch.mm(a, b)

    def repeat() -> int:
        for _ in range(200):
            torch.mm(a, b, out=out)
        return 200 * 2 * a.shape[0] * a.shape[1] * b.shape[1]

    return _per_cpu_second(repeat)


def _per_cpu_second(work: Callable[[], int]) -> float:
    began = time.process_time()
    done = work()
    return done / (time.process_time() - began)


if __name__ == "__main__":
    main()
