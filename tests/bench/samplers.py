"""Quality of samplers against evaluations of the network: `python -m tests.bench.samplers RUN...`.

Every cell, a sampler with a number of steps, draws `--num` molecules from each run's model with the
run's own seed. Shares are pooled over runs, with Wilson's interval; measures of a whole set are
means over runs. Cells that are in `--out` already are not drawn again.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest

from openfl_flows.experiment import Experiment
from openfl_flows.learners.digress_task import DigressTask
from openfl_flows.metrics.mean import Mean
from openfl_flows.ops.files import load_state
from openfl_flows.ops.run import RunDirectory

SAMPLERS: Mapping[str, Mapping[str, float]] = {
    "even": {},
    "spacing 2": {"spacing": 2},
    "spacing 3": {"spacing": 3},
    "spacing 2, overshoot 1": {"spacing": 2, "overshoot": 1},
    "spacing 3, overshoot 0.5": {"spacing": 3, "overshoot": 0.5},
    "spacing 3, overshoot 1": {"spacing": 3, "overshoot": 1},
    "spacing 2, corrector 1": {"spacing": 2, "corrector": 1},
    "spacing 3, corrector 1": {"spacing": 3, "corrector": 1},
    "temperature 0.9": {"temperature": 0.9},
}
SHARES = ("validity", "connected", "uniqueness", "novelty")
MEASURES = ("kl_score", "snn", "scaffold_similarity", "fragment_similarity", "internal_diversity")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the cells that are missing and print the table of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--steps", default="10,25,50,100,250,500", help="of the cells to draw")
    parser.add_argument("--samplers", default="|".join(SAMPLERS), help="their names, parted by |")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for path in options.runs:
        run = RunDirectory.open(path)
        task = Experiment.from_config(run.record["config"]).task
        assert isinstance(task, DigressTask)
        for steps in map(int, options.steps.split(",")):
            for name in options.samplers.split("|"):
                draw(path, task, options.out, name, steps, options.num)
    sys.stdout.write(f"{table(options.out)}\n")


def draw(run: Path, task: DigressTask, out: Path, name: str, steps: int, num: int) -> None:
    """One cell of one run."""
    cell = out / f"{name} {steps}" / run.name
    if (cell / "cell.json").is_file():
        return
    state = load_state(run / "model.safetensors")
    sampling = dataclasses.replace(
        task.sampling, num=num, steps=steps, chain_frames=0, **SAMPLERS[name]
    )
    began = time.process_time()
    found = task.draw(state, cell, sampling, seed=task.seed)
    seconds = time.process_time() - began
    values = {key: [mean.total, mean.count] for key, mean in found.items()}
    record = {"sampler": name, "steps": steps, "seconds": seconds, "found": values}
    (cell / "cell.json").write_text(json.dumps(record))


def table(out: Path) -> str:
    """Markdown of all cells under ``out``, in the order of samplers and steps."""
    cells: dict[tuple[int, int], list[Mapping[str, Mean]]] = {}
    names = list(SAMPLERS)
    for file in sorted(out.glob("*/*/cell.json")):
        record = json.loads(file.read_text())
        found = {key: Mean(*pair) for key, pair in record["found"].items()}
        cells.setdefault((names.index(record["sampler"]), record["steps"]), []).append(found)
    head = ("sampler", "steps", *SHARES, *(name.replace("_", " ") for name in MEASURES))
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (index, steps), runs in sorted(cells.items()):
        shares = [_share([run[name] for run in runs]) for name in SHARES]
        measures = [_spread([run[name].value for run in runs if name in run]) for name in MEASURES]
        lines.append("| " + " | ".join((names[index], str(steps), *shares, *measures)) + " |")
    return "\n".join(lines)


def _share(means: list[Mean]) -> str:
    pooled = sum(means, Mean(0, 0))
    if not pooled.count:
        return "–"
    interval = binomtest(int(pooled.total), int(pooled.count)).proportion_ci(method="wilson")
    return f"{pooled.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


if __name__ == "__main__":
    main()
