"""OpenFold3 in whole runs: one site is the centralized run, a resumed one the undisturbed one."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from openfl_flows.baselines import train_centralized
from openfl_flows.cli import main
from openfl_flows.cli.plan import compose
from openfl_flows.experiment import Experiment
from openfl_flows.flows.simulation import simulate_experiment
from openfl_flows.ops.run import RunDirectory

SMALL = (
    "experiment=of3_demo",
    "federation.rounds=2",
    "federation.steps=2",
    "model.network.diffusion_samples=2",
    "model.training.optimization.warmup_steps=1",
    "model.training.crops.tokens=16",
    "model.training.validation_crops=2",
    "model.training.test_rollouts=0",
    "model.predictions=0",
    "runtime.quiet=true",
)


def plan(*overrides: str) -> Experiment:
    return Experiment.from_config(compose((*SMALL, *overrides)))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Two rounds of two sites, by the command line."""
    out = tmp_path_factory.mktemp("of3") / "run"
    shown = ("model.predictions=1", "model.training.test_rollouts=1", "runtime.resident_sites=2")
    assert main(["simulate", *SMALL, *shown, f"out={out}"]) == 0
    return RunDirectory.open(out)


def test_a_run_shows_its_loss_by_term_its_norms_and_its_structures(undisturbed):
    record = undisturbed.record
    assert record["status"] == "finished"
    for entry in record["rounds"]:
        assert {"distogram_loss", "mse_loss", "loss"} <= entry["metrics"].keys()
        assert entry["movement"]["weight_norm"] > entry["movement"]["drift"] > 0
        for site in entry["sites"].values():
            assert site["num_samples"] == 4
            assert site["metrics"]["failed_samples"] == 0
    assert {"test_lddt_intra_protein", "ema_test_lddt_intra_protein"} <= record["metrics"].keys()
    predicted = sorted(file.name for file in (undisturbed.path / "samples").glob("*.cif"))
    assert len(predicted) == 2
    page = (undisturbed.path / "report.html").read_text()
    assert predicted[0].removesuffix(".cif") in page
    assert "3Dmol" in page


def test_a_run_is_saved_for_openfold3s_inference_and_trainer(undisturbed, tmp_path):
    arguments = ["save", str(undisturbed.path), "--weights", "ema", "--training"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    task, average = plan().task, undisturbed.average()
    saved = torch.load(tmp_path / "training.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    for name, array in average.items():
        np.testing.assert_array_equal(saved["ema"]["params"][name].numpy(), array)
    for name, array in undisturbed.model().items():
        np.testing.assert_array_equal(saved["state_dict"][f"model.{name}"].numpy(), array)
    for file in ("ema.pt", "training.ckpt", "ema.safetensors"):
        assert task.load_checkpoint(tmp_path / file) == average


def test_a_run_that_was_stopped_ends_in_the_same_bits(undisturbed, tmp_path):
    simulate_experiment(plan("federation.rounds=1"), tmp_path / "run")
    run = simulate_experiment(plan(), tmp_path / "run", resume=True)
    assert run.model() == undisturbed.model()
    assert run.average() == undisturbed.average()
    for a, b in zip(run.record["rounds"], undisturbed.record["rounds"], strict=True):
        assert a["metrics"] == b["metrics"]
        assert a["movement"] == b["movement"]


def test_a_federation_of_one_site_is_the_centralized_run(tmp_path):
    one = plan("federation.sites=1", "join=fedavg", "ema=none", "federation.validate=model")
    federated = simulate_experiment(one, tmp_path / "federated")
    central = train_centralized(
        one.task, rounds=one.rounds, budget=one.budget, out=tmp_path / "central"
    )
    assert federated.record["digest"] == central.record["digest"]
    assert federated.record["metrics"] == central.record["metrics"]


@pytest.mark.slow
def test_two_processes_of_a_site_give_the_run_of_one(undisturbed, tmp_path):
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "openfl_flows")
    simulate = (sys.executable, "-m", "openfl_flows", "simulate", *SMALL, f"out={tmp_path / 'run'}")
    subprocess.run([sys.executable, *torchrun, "ranks", "--", *simulate], check=True)
    # Of two samples a step the sum has one order.
    assert RunDirectory.open(tmp_path / "run").model() == undisturbed.model()
