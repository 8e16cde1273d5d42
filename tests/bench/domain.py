"""Whether distances from the sites' sketches tell where models err.

``python -m tests.bench.domain molecules --data QM9.csv`` or ``proteins --data DEEPLOC.fasta``;
minutes each on two cores.

Three sites with other scaffolds each (proteins: other classes); a model that site-1 trained alone
and the federated one, measured on the test data of all sites, item by item. Distances are from
site-1's sketch and from that of all sites; for molecules, beside them, 1 less the largest Tanimoto
similarity to any training molecule, which only a place with all data could know.
"""

import argparse
import secrets
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from openfl_flows.cli.plan import compose
from openfl_flows.data.domain.calibration import Calibration, calibrate
from openfl_flows.data.domain.parts import molecule_parts, protein_parts
from openfl_flows.data.domain.sketch import Sketch, distances, make_sketch, merge_sketches
from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate_experiment
from openfl_flows.learners.digress_task import DigressTask
from openfl_flows.learners.esm import EsmLearner
from openfl_flows.learners.esm_task import EsmTask
from openfl_flows.learners.micro_batches import DeviceMolecules
from openfl_flows.seeds import derived_seed
from openfl_flows.state import State
from tests.tiny import OVERRIDES

Floats = NDArray[np.float64]
SHARED = ("runtime.quiet=true", "federation.sites=3", "runtime.resident_sites=3")
MOLECULES = (
    *OVERRIDES, *SHARED, "experiment=digress_qm9_20k", "data=csv", "data.limit=9000",
    "partition=scaffold", "federation.rounds=6", "federation.epochs=null", "federation.steps=60",
    "model.network.num_layers=2", "model.network.dx=32", "model.network.ff_x=32",
    "model.training.batch_size=128", "model.training.micro_batch=128",
    "model.training.validation_limit=64", "model.training.test_passes=1", "model.sampling.num=1",
)  # fmt: skip
PROTEINS = (
    *SHARED, "experiment=esm_deeploc", "model=esm", "model.network.size=tiny",
    "model.training.lr=3e-3", "data.max_length=510", "federation.rounds=20", "federation.epochs=1",
)  # fmt: skip
SITE = "site-1"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("molecules", "proteins"))
    parser.add_argument("--data", required=True, metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args(argv)
    study = molecules if options.kind == "molecules" else proteins
    with tempfile.TemporaryDirectory() as folder:
        for seed in options.seeds:
            study(options.data, seed, Path(folder))
    return 0


def trained(overrides: tuple[str, ...], folder: Path) -> tuple[Experiment, State, State]:
    """The federated model, and that of one site alone after as many steps."""
    experiment = Experiment.from_config(compose(overrides))
    federated = simulate_experiment(experiment, folder / "federated").model()
    learner = experiment.task.learner(SITE)
    learner.receive(experiment.task.initial_state())
    for _ in range(experiment.rounds):
        learner.train(experiment.budget, lambda *_: None)
    return experiment, federated, learner.send()


def molecules(data: str, seed: int, folder: Path) -> None:
    plan = (*MOLECULES, f"data.path={data}", f"seed={seed}")
    experiment, federated, alone = trained(plan, folder / str(seed))
    task = experiment.task
    assert isinstance(task, DigressTask)
    secret = secrets.token_bytes(32)
    own = {site: [*task._dealt[site].train.smiles] for site in task.sites}
    sketches = {
        site: make_sketch(filter(None, map(molecule_parts, rows)), secret, kind="molecules")
        for site, rows in own.items()
    }
    test = [smiles for site in task.sites for smiles in task._dealt[site].test.smiles]
    parts = [molecule_parts(smiles) for smiles in test]
    union = merge_sketches([*sketches.values()])
    pooled = [smiles for rows in own.values() for smiles in rows]
    for name, model, sketch, known in (
        ("site-1 alone", alone, sketches[SITE], own[SITE]),
        ("federated", federated, union, pooled),
    ):
        errors = regressor_errors(task, model)
        show(f"seed {seed}, {name}, sketch", sketch, distances(parts, sketch, secret), errors)
        near = nearest(test, known)
        show(f"seed {seed}, {name}, nearest", sketch, near, errors, float(np.quantile(near, 0.95)))


def regressor_errors(task: DigressTask, model: State) -> Floats:
    """|prediction - label| in deviations of the labels, mean of both targets, hardly any noise."""
    regressor = task.networks(model).regressor
    found = []
    for site in task.sites:
        table = task._dealt[site].test
        data = DeviceMolecules(table, "cpu")
        generator = torch.Generator().manual_seed(derived_seed("domain"))
        for block in table.blocks():
            index = np.arange(len(table))[block]
            t = torch.ones(len(index), dtype=torch.long)
            error = regressor.absolute_error(
                data.graphs(index), data.targets[torch.from_numpy(index)], generator, t=t
            )
            found.append((error / regressor.std).mean(1).double().numpy())
    return np.concatenate(found)


def nearest(queries: list[str], known: list[str]) -> Floats:
    """1 less the largest Tanimoto similarity of ECFP4 to any known molecule."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)

    def prints(rows: list[str]) -> list[object]:
        return [generator.GetFingerprint(Chem.MolFromSmiles(smiles)) for smiles in rows]

    training = prints(known)
    return np.array(
        [1 - max(DataStructs.BulkTanimotoSimilarity(query, training)) for query in prints(queries)]
    )


def proteins(data: str, seed: int, folder: Path) -> None:
    plan = (*PROTEINS, f"data.path={data}", f"seed={seed}")
    experiment, federated, alone = trained(plan, folder / str(seed))
    task = experiment.task
    assert isinstance(task, EsmTask)
    secret = secrets.token_bytes(32)
    for word in (3, 4):
        sketches = {
            site: make_sketch(
                filter(None, (protein_parts(p.sequence, word) for p in task._dealt[site].train)),
                secret, kind="proteins", word=word,
            )
            for site in task.sites
        }  # fmt: skip
        union = merge_sketches([*sketches.values()])
        for name, tests in sorted(task._pooled.tests.items()):
            parts = [protein_parts(protein.sequence, word) for protein in tests]
            true = task._target.tensor(tests).numpy()
            for who, model, sketch in (
                ("site-1 alone", alone, sketches[SITE]), ("federated", federated, union)
            ):  # fmt: skip
                learner = task.pooled_learner()
                assert isinstance(learner, EsmLearner)
                learner.receive(model)
                chances = learner.outputs([p.sequence for p in tests]).softmax(1).double().numpy()
                errors = 1 - chances[np.arange(len(true)), true]
                found = distances(parts, sketch, secret)
                show(f"seed {seed}, {who}, {name}, words of {word}", sketch, found, errors)


def show(
    title: str, sketch: Sketch, found: Floats, errors: Floats, radius: float | None = None
) -> Calibration:
    told = calibrate(found, errors, sketch.radius if radius is None else radius)
    low, high = told.spearman_interval
    smaller, larger = told.ratio_interval
    sys.stdout.write(
        f"{title}: n={told.num} hashes={len(sketch.hashes)} radius="
        f"{sketch.radius if radius is None else radius:.2f} inside={100 * told.inside:.1f}% "
        f"median={statistics.median(found[~np.isnan(found)]):.3f} "
        f"spearman={told.spearman:+.3f} ({low:+.3f} to {high:+.3f}) error "
        f"{told.error_inside:.3f} inside, {told.error_outside:.3f} outside "
        f"(ratio {smaller:.2f} to {larger:.2f})\n"
    )
    sys.stdout.flush()
    return told


if __name__ == "__main__":
    sys.exit(main())
