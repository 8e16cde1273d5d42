"""Peak memory of a simulation against a flow that keeps plain tensors as attributes.

``python -m tests.bench.memory`` runs both as processes of their own, with a 100 MB model at four
sites, and prints the peaks, and what each adds to a process that has imported the same and trains a
model of a few bytes.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

MEGABYTES = 100
SITES = 4
ROUNDS = 2


def measure(kind: str, megabytes: int = MEGABYTES) -> int:
    """Peak resident bytes of one process that runs ``kind``: ``shared`` or ``plain``."""
    code = f"from tests.bench.memory import run; run({kind!r}, {megabytes})"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=root, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(json.loads(done.stdout.splitlines()[-1])["peak"])


def run(kind: str, megabytes: int) -> None:
    """Run one kind in this process and print its peak."""
    from openfl_flows.ops.memory import peak_rss_bytes

    padding = megabytes * 2**20 // 4
    names = tuple(f"site-{number}" for number in range(1, SITES + 1))
    if kind == "shared":
        _run_shared(names, padding)
    else:
        _run_plain(names, padding)
    sys.stdout.write("\n" + json.dumps({"peak": peak_rss_bytes()}) + "\n")


def _run_shared(names: tuple[str, ...], padding: int) -> None:
    from openfl_flows.experiment import Runtime
    from openfl_flows.flows.simulation import simulate
    from openfl_flows.joins.recipes import fedavg
    from openfl_flows.learners.base import Budget
    from openfl_flows.learners.toy import ToyTask

    with tempfile.TemporaryDirectory() as folder:
        simulate(
            ToyTask(sites=names, padding=padding),
            join=fedavg(),
            rounds=ROUNDS,
            budget=Budget(steps=2),
            out=Path(folder) / "run",
            runtime=Runtime(quiet=True),
        )


def _run_plain(names: tuple[str, ...], padding: int) -> None:
    """The way that Workflow tutorials do it: tensors as attributes, one optimizer per round."""
    import openfl_flows.flows  # noqa: F401, I001 - settles Metaflow's folder before OpenFL imports it
    from openfl.experimental.workflow.interface import Aggregator, Collaborator, FLSpec
    from openfl.experimental.workflow.placement import aggregator, collaborator
    from openfl.experimental.workflow.runtime import LocalRuntime

    from openfl_flows.learners.base import Budget
    from openfl_flows.learners.module import module_state
    from openfl_flows.learners.toy import ToyTask
    from openfl_flows.state import State

    task = ToyTask(sites=names, padding=padding)

    class PlainFlow(FLSpec):
        def __init__(self, model: dict) -> None:
            super().__init__()
            self.model = model
            self.round = 0

        @aggregator
        def start(self) -> None:
            self.names = self.runtime.collaborators
            self.next(self.train, foreach="names")

        @collaborator
        def train(self) -> None:
            self.learner.receive(State(self.model))
            self.learner.train(Budget(steps=2), lambda *_: None)
            self.update = {n: a.copy() for n, a in module_state(self.learner._model).items()}
            self.next(self.join)

        @aggregator
        def join(self, inputs: list) -> None:
            self.model = {
                name: sum(site.update[name] for site in inputs) / len(inputs) for name in self.model
            }
            self.round += 1
            if self.round < ROUNDS:
                self.next(self.train, foreach="names")
            else:
                self.next(self.end)

        @aggregator
        def end(self) -> None:
            pass

    def private(site: str) -> dict:
        return {"learner": task.learner(site)}

    initial = {name: array.copy() for name, array in task.initial_state().items()}
    flow = PlainFlow(initial)
    flow.runtime = LocalRuntime(
        aggregator=Aggregator(),
        collaborators=[
            Collaborator(name=name, private_attributes_callable=private, site=name)
            for name in names
        ],
    )
    flow.run()


def main() -> None:
    """Measure and print."""
    rows = {kind: (measure(kind, 0), measure(kind)) for kind in ("shared", "plain")}
    model = MEGABYTES * 2**20
    for kind, (base, peak) in rows.items():
        added = (peak - base) / model
        sys.stdout.write(
            f"{kind:>7}: peak {peak / 2**20:,.0f} MiB, of an empty model {base / 2**20:,.0f} MiB, "
            f"added {added:.1f} times the model\n"
        )
    (_, shared), (_, plain) = rows["shared"], rows["plain"]
    sys.stdout.write(f"shared / plain, whole process: {shared / plain:.2f}\n")


if __name__ == "__main__":
    main()
