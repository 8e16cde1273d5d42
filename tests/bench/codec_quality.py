"""What codecs cost in quality, on small models of all three kinds.

``python -m tests.bench.codec_quality [digress] [esm] [openfold3]``, an hour or more for all.

Simulated federations of equal seeds, which differ in the codec alone, against the same with values
as they are: the difference of the last validation in percent, its mean over seeds, and the 95 %
interval of that mean by Student's t. ``--qm9 FILE`` takes molecules from a QM9 table.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scipy import stats

from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate_experiment
from tests.tiny import OVERRIDES

SHARED = ("runtime.quiet=true", "runtime.resident_sites=3", "federation.epochs=null")
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "digress": (
        "elbo",
        (
            *OVERRIDES, "experiment=demo", "data.limit=1000", "federation.steps=10",
            "federation.rounds=20", "model.training.validation_limit=100",
            "model.training.test_passes=1", "model.sampling.num=1",
        ),
    ),
    "esm": (
        "loss",
        (
            "experiment=esm_scl", "federation.steps=10", "federation.rounds=8",
            "model.training.batch_size=32", "model.training.lr=1e-3",
        ),
    ),
    "openfold3": (
        "loss",
        (
            "experiment=of3_demo", "federation.steps=4", "federation.rounds=4",
            "model.network.diffusion_samples=2", "model.training.crops.tokens=16",
            "model.training.optimization.warmup_steps=1", "model.training.validation_crops=3",
            "model.training.validation_rollouts=0", "model.training.test_rollouts=0",
            "model.predictions=0",
        ),
    ),
}  # fmt: skip
CODECS = ("int4", "int2")
JOINS = ("fedavg", "diloco")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--joins", nargs="+", choices=JOINS, default=JOINS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--qm9", metavar="FILE")
    options = parser.parse_args(argv)
    for model in options.models:
        metric, plan = MODELS[model]
        if model == "digress" and options.qm9:
            plan = (*plan, "data=qm9", f"data.path={options.qm9}", "data.limit=1000")
        for join in options.joins:
            found: dict[str, list[tuple[float, float, float]]] = {}
            for codec, seed in _cells(options.seeds):
                words = (*SHARED, *plan, f"join={join}", f"codec={codec}", f"seed={seed}")
                found.setdefault(codec, []).append(_last(metric, words))
            for codec in CODECS:
                _tell(model, join, codec, metric, found[codec], found["identity"])
    return 0


def _cells(seeds: int) -> Iterator[tuple[str, int]]:
    return ((codec, seed) for seed in range(1, seeds + 1) for codec in ("identity", *CODECS))


def _last(metric: str, words: tuple[str, ...]) -> tuple[float, float, float]:
    """The last validation, and bytes up and down of all rounds."""
    with tempfile.TemporaryDirectory() as folder:
        run = simulate_experiment(Experiment.from_config(compose(words)), Path(folder) / "run")
        rounds = run.record["rounds"]
    up, down = (sum(r[way] for r in rounds) for way in ("bytes_up", "bytes_down"))
    return rounds[-1]["metrics"][metric], up, down


def _tell(model: str, join: str, codec: str, metric: str, found: list, reference: list) -> None:
    changes = [100 * (a[0] / b[0] - 1) for a, b in zip(found, reference, strict=True)]
    up, down = (4 * sum(a[n] for a in found) / sum(b[n] for b in reference) for n in (1, 2))
    wide = stats.t.ppf(0.975, len(changes) - 1) * statistics.stdev(changes) / len(changes) ** 0.5
    mean = statistics.mean(changes)
    value = statistics.mean(b[0] for b in reference)
    sys.stdout.write(
        f"{model:10} {join:7} {codec:5} {metric} {value:.4f} {mean:+.2f} % "
        f"({mean - wide:+.2f} to {mean + wide:+.2f}), bytes a value {up:.3f} up, {down:.3f} down\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
