"""Throughput of DiGress on one CPU thread: ``python -m tests.bench.digress``.

Figures are per CPU second of the process, so that a shared machine does not spoil them. A training
step is what a learner does for one batch: draw it, noise it, features, forward, backward, AdamW.
"""

import argparse
import sys
import time

import torch

from openfl_flows.data.molecule_sites import PartitionConfig, deal
from openfl_flows.data.source import MoleculeSource
from openfl_flows.learners.base import Budget
from openfl_flows.learners.digress import DigressLearner, DigressTraining
from openfl_flows.models.digress import Denoiser, DigressConfig, count_statistics
from openfl_flows.models.digress.statistics import statistics_from_counts
from openfl_flows.ops.memory import peak_rss_bytes

PUBLISHED = {"train": 68.0, "sample": 216.0, "memory": 3.9e9}
"""Of the published implementation at its default size, one thread: graphs per CPU second of a
training step at batch 512, graphs times steps per CPU second of sampling, bytes of peak memory."""

PRESETS = {"default": (DigressConfig.default(), 512), "small": (DigressConfig.small(), 256)}


def main() -> None:
    """Measure one preset and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--micro-batch", type=int, default=64)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, batch_size = PRESETS[options.preset]
    training = DigressTraining(
        batch_size=batch_size,
        micro_batch=options.micro_batch,
        regressor=False,
        precision=options.precision,
    )
    molecules, _ = MoleculeSource().read(config.vocabulary, config.max_atoms)
    site = deal(molecules, ("site-1",), PartitionConfig(), 0)["site-1"]
    counts = count_statistics(
        site.train.atoms, site.train.bonds, site.train.targets, len(config.vocabulary)
    )
    statistics = statistics_from_counts(counts)
    learner = DigressLearner(config, training, statistics, site, seed=0)
    learner.train(Budget(steps=1), lambda *_: None)
    began = time.process_time()
    report = learner.train(Budget(steps=options.steps), lambda *_: None)
    trained = report.num_samples / (time.process_time() - began)
    memory = peak_rss_bytes()

    denoiser = Denoiser(config, statistics)
    generator = torch.Generator().manual_seed(0)
    denoiser.sample(64, generator, steps=2, batch_size=64)
    began = time.process_time()
    denoiser.sample(64, generator, steps=20, batch_size=64)
    sampled = 64 * 20 / (time.process_time() - began)

    rows = (
        ("training, graphs per CPU second", trained, PUBLISHED["train"]),
        ("sampling, graph-steps per CPU second", sampled, PUBLISHED["sample"]),
        ("peak memory of training, GB", memory / 1e9, PUBLISHED["memory"] / 1e9),
    )
    out = sys.stdout.write
    out(f"{options.preset} preset, batch {batch_size}, micro-batch {options.micro_batch}, ")
    out(f"{options.steps} steps, {options.precision}, one thread\n")
    for name, ours, theirs in rows:
        against = f", published {theirs:.1f}, ratio {ours / theirs:.2f}"
        out(f"{name:>38}: {ours:8.1f}{against if options.preset == 'default' else ''}\n")


if __name__ == "__main__":
    main()
