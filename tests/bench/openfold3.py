"""OpenFold3 at its published size: exchange, checkpoints, a site, the aggregator, the wire.

``python -m tests.bench.openfold3`` measures all, each in a process of its own, one after another;
``python -m tests.bench.openfold3 exchange`` one. All take half an hour, 12 GB of memory and 20 GB
of disk.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.openfold3_phases import Phase, Phases

ROOT = Path(__file__).parents[2]
BYTES = 4 * 368_293_788
"""Of the unique parameters."""
REPEAT = 3


def measure(kind: str, **options: Any) -> tuple[list[Phase], dict[str, Any]]:
    """Measure one of :data:`KINDS` in a process of its own: its phases, and other figures."""
    code = f"from tests.bench.openfold3 import run; run({kind!r}, {options!r})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    result = json.loads(done.stdout.splitlines()[-1])
    return [Phase(**row) for row in result["phases"]], result["figures"]


def run(kind: str, options: dict[str, Any]) -> None:
    """Measure in this process and print."""
    import torch

    import openfl_flows.learners.openfold3  # noqa: F401  before the first phase
    from openfl_flows.ops.memory import return_freed_memory

    torch.set_num_threads(1)
    if kind in ("site", "aggregator"):
        return_freed_memory()  # as their processes in a federation do
    with tempfile.TemporaryDirectory(prefix="of3-bench-") as folder:
        phases = Phases()
        figures = KINDS[kind](phases, Path(folder), **options) or {}
    sys.stdout.write("\n" + json.dumps({"phases": phases.rows(), "figures": figures}) + "\n")


def _config(**changes: Any) -> Any:
    from openfl_flows.models.openfold3.config import OpenFold3Config

    return OpenFold3Config(size="published", **changes)


def _exchange(phases: Phases, folder: Path) -> None:
    import numpy as np

    from openfl_flows.models.openfold3.network import (
        build,
        load_network,
        network_spec,
        network_state,
    )
    from openfl_flows.ops.files import load_state, map_state, save_state
    from openfl_flows.state import pack, unpack

    source = np.full(BYTES // 4, 1.5, np.float32)
    target = np.empty_like(source)
    target.fill(0)
    for _ in range(REPEAT):
        with phases.phase("np.copyto"):
            np.copyto(target, source)
    del target
    for _ in range(REPEAT):
        with phases.phase("np.copyto, into new memory"):
            target = np.empty_like(source)
            np.copyto(target, source)
        del target
    del source
    with phases.phase("build"):
        network = build(_config()).model
    for _ in range(REPEAT):
        state = None
        with phases.phase("send"):
            state = network_state(network)
    for _ in range(REPEAT):
        with phases.phase("receive"):
            load_network(network, state)
    with phases.phase("spec"):
        spec = network_spec(network)
    assert spec == state.spec
    with phases.phase("digest"):
        state.digest()
    file = folder / "update.safetensors"
    with phases.phase("save_state, its digest known"):
        save_state(file, state)
    with phases.phase("load_state, with its digest"):
        load_state(file)
    with phases.phase("map_state"):
        mapped = map_state(file)
    with phases.phase("receive a mapped state"):
        load_network(network, mapped)
    for _ in range(REPEAT):
        buckets: list[Any] = []
        with phases.phase("pack into buckets"):
            buckets = pack(state)
    with phases.phase("unpack"):
        unpacked = unpack(buckets, spec)
    assert unpacked.digest() == state.digest()


def _checkpoint(phases: Phases, folder: Path) -> dict[str, Any]:
    import torch

    from openfl_flows.models.openfold3.checkpoint import (
        load_weights,
        save_inference,
        save_training,
    )
    from openfl_flows.models.openfold3.network import build, network_state, outline

    config = _config()
    with phases.phase("outline"):
        outline(config)
    state = network_state(build(config, seed=0).model)
    with phases.phase("save_inference"):
        save_inference(state, config, folder / "bare.pt")
    with phases.phase("save_training"):
        save_training(state, None, config, folder / "train.ckpt", global_step=1)
    digest = state.digest()
    del state
    with phases.phase("write published.pt"):
        # As published: the two names of a tensor have their own bytes.
        content = torch.load(folder / "bare.pt", weights_only=True)
        torch.save({name: t.clone() for name, t in content.items()}, folder / "published.pt")
        del content
    figures = {f"{file.name} bytes": file.stat().st_size for file in folder.iterdir()}
    for name in ("published.pt", "bare.pt", "train.ckpt"):
        with phases.phase(f"load_weights, {name}"):
            loaded = load_weights(folder / name, config)
        assert loaded.digest() == digest
        del loaded
    return figures


def _site(phases: Phases, folder: Path, tokens: int = 32) -> dict[str, Any]:
    from openfl_flows.data.structures.select import SAMPLE
    from openfl_flows.data.structures.set import StructureSet
    from openfl_flows.learners.base import Budget
    from openfl_flows.learners.openfold3 import (
        OpenFold3Data,
        OpenFold3Learner,
        OpenFold3Training,
    )
    from openfl_flows.learners.site import Site
    from openfl_flows.models.openfold3.network import build, network_state
    from openfl_flows.models.openfold3.samples import Crops
    from openfl_flows.ops.files import map_state, save_state

    config = _config(
        diffusion_samples=1, num_recycles=0, mini_rollout_steps=1, checkpointing=True, msa_rows=16
    )
    structures = StructureSet.open(SAMPLE)
    data = OpenFold3Data(structures=structures, train=("1ubq", "7l39"), val=("1ubq",), test=())
    training = OpenFold3Training(
        accumulate=2, validation_crops=1, crops=Crops(tokens=tokens), max_failures=1
    )
    save_state(folder / "global.safetensors", network_state(build(config, seed=0).model))
    model = map_state(folder / "global.safetensors")
    with phases.phase("build the learner"):
        learner = OpenFold3Learner(config, training, data, seed=0)
    site = Site("site", lambda: learner, folder=folder / "s", budget=Budget(steps=1), resident=1)
    with phases.phase("receive"):
        learner.receive(model)
    sample = next(learner._samples.numbers([0]))
    with phases.phase("forward and backward of one sample"):
        learner._trainer.loss(sample.batch, 0)[0].backward()
    with phases.phase("release its gradients"):
        learner._trainer.release_gradients()
    for round_ in (1, 2):
        with phases.phase(f"round {round_}: receive, one step of two samples"):
            site.train(model, round_)
        with phases.phase(f"round {round_}: finish"):
            update = site.finish_round(round_)
    assert update != model
    return {"tokens": tokens, "state bytes": model.nbytes}


def _aggregator(phases: Phases, folder: Path, sites: int = 5, join: str = "fedavg") -> None:
    from openfl_flows.joins.recipes import build_ema, build_join
    from openfl_flows.metrics.mean import Mean
    from openfl_flows.models.openfold3.network import network_spec, outline
    from openfl_flows.ops.aggregation import Aggregation, Contribution, initial_checkpoint
    from openfl_flows.ops.files import map_state
    from openfl_flows.ops.run import RunDirectory
    from openfl_flows.update import Update

    # Written by another process: this one shall hold nothing that an aggregator does not.
    names = [f"site-{number}" for number in range(sites)]
    code = f"from tests.bench.openfold3 import write_models; write_models({str(folder)!r}, {sites})"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True)
    spec = network_spec(outline(_config()))
    recipe = build_join(join)
    ema = build_ema("at_sync", decay=0.999) if join == "diloco" else None

    def contribution(name: str) -> Contribution:
        state = map_state(folder / f"{name}.safetensors")
        return Contribution(
            update=Update(site=name, state=state, num_samples=80, num_steps=10),
            received={}, trained={"loss": Mean(1.0, 1)}, validated={}, seconds={}, peak_rss_bytes=0,
            frames_bytes=state.nbytes,
        )  # fmt: skip

    first = map_state(folder / "global.safetensors")
    assert first.spec == spec
    with phases.phase("create the run"):
        checkpoint = initial_checkpoint(first, recipe, average=ema is not None)
        run_ = RunDirectory.create(folder / "run", config={}, initial=checkpoint)
    del first, checkpoint
    model = run_.model()
    aggregation = Aggregation(run_, recipe, ema)
    for round_ in (1, 2):
        with phases.phase(f"round {round_}: join and commit"):
            model = aggregation.join(model, [contribution(name) for name in names])


def write_models(folder: str, sites: int) -> None:
    """Write a global model and so many different ones of sites, all of the published size."""
    import numpy as np

    from openfl_flows.models.openfold3.network import network_spec, outline, unique_tensors
    from openfl_flows.ops.files import save_state
    from openfl_flows.state import State

    network = outline(_config())
    spec = network_spec(network)
    constants = {n: t.numpy() for n, t in unique_tensors(network).items() if not t.is_meta}
    frozen = [t.name for t in spec if t.reduce == "keep"]
    for number, name in enumerate(["global", *(f"site-{n}" for n in range(sites))]):
        draw = np.random.default_rng(number)
        arrays = {
            t.name: constants[t.name].copy()
            if t.reduce == "keep"
            else draw.standard_normal(t.shape, np.float32)
            for t in spec
        }
        save_state(Path(folder) / f"{name}.safetensors", State(arrays, frozen=frozen))


def _wire(phases: Phases, folder: Path) -> dict[str, Any]:
    from collections import Counter

    from openfl_flows.models.openfold3.network import network_spec, outline
    from openfl_flows.taskrunner.wire import bucket_names
    from tests.bench.federation_models import openfold3_shapes
    from tests.bench.federation_scale import TASKS, measure_scale

    figures: dict[str, Any] = {}
    for stage in ("structure", "confidence"):
        spec = network_spec(outline(_config(stage=stage)))
        moving = [t for t in spec if t.reduce != "keep"]
        if stage == "structure":
            listed = Counter(openfold3_shapes())
            assert Counter(t.shape for t in moving) == listed, "openfold3_shapes.csv"
        size = 4 * sum(math.prod(t.shape) for t in moving)
        buckets = len(bucket_names(spec))
        figures[stage] = {
            "tensors": len(moving),
            "bytes": size,
            "buckets": buckets,
            "calls per site and round": 1 + buckets + len(TASKS),
        }
    # Its buckets are as large as those of the whole, and fewer: all parties are in one process.
    sample = measure_scale("ours", figures["structure"]["tensors"], 100.0, ("site-1",))
    assert sum(sample.calls.values()) == 1 + 3 + len(TASKS)
    return {**figures, "largest message bytes": sample.largest_message}


KINDS: dict[str, Callable[..., dict[str, Any] | None]] = {
    "exchange": _exchange,
    "checkpoint": _checkpoint,
    "site": _site,
    "aggregator": _aggregator,
    "wire": _wire,
}


def _write_table(title: str, phases: list[Phase], figures: dict[str, Any]) -> None:
    best: dict[str, Phase] = {}
    for phase in phases:
        if phase.name not in best or phase.cpu_seconds < best[phase.name].cpu_seconds:
            best[phase.name] = phase
    lines = [f"{title}: seconds, CPU seconds; peak, peak without files, after, as multiples"]
    lines += [
        f"  {p.name:<40} {p.seconds:7.2f} {p.cpu_seconds:7.2f} {p.peak / BYTES:6.2f} "
        f"{p.anonymous_peak / BYTES:6.2f} {p.after / BYTES:6.2f}"
        for p in best.values()
    ]
    lines += [f"  {name}: {figure}" for name, figure in figures.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=[])
    for kind in parser.parse_args().kinds or KINDS:
        if kind != "aggregator":
            _write_table(kind, *measure(kind))
            continue
        for join in ("fedavg", "diloco"):
            for sites in (2, 5):
                title = f"aggregator, {join}, {sites} sites"
                _write_table(title, *measure(kind, sites=sites, join=join))


if __name__ == "__main__":
    main()
