"""The OpenFold3 learner: reproducible, restorable, and loud where OpenFold3 is silent."""

import copy
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from openfl_flows.data.structures.select import SAMPLE, StructureSelection
from openfl_flows.data.structures.set import StructureSet
from openfl_flows.experiment import check
from openfl_flows.learners.base import Budget
from openfl_flows.learners.openfold3 import OpenFold3Data, OpenFold3Learner, OpenFold3Training
from openfl_flows.learners.openfold3_task import OpenFold3Task
from openfl_flows.models.openfold3.config import CONFIDENCE_HEADS, OpenFold3Config
from openfl_flows.models.openfold3.network import build, load_network, network_state
from openfl_flows.models.openfold3.randomness import seeded
from openfl_flows.models.openfold3.samples import Crops, NumberedSamples, Sampling
from openfl_flows.models.openfold3.trainer import LossesOffError, OpenFold3Trainer, Optimization
from openfl_flows.state import State
from tests.openfold3_set import TINY

TRAINING = OpenFold3Training(
    accumulate=2,
    optimization=Optimization(lr=1e-3, warmup_steps=1),
    crops=Crops(tokens=16),
    validation_crops=2,
    test_rollouts=0,
)
IDS = ("1kd8", "1psm", "1ubq", "7l39")


def task(**changes) -> OpenFold3Task:
    options = {
        "sites": ("a", "b"),
        "network": OpenFold3Config(**TINY),
        "training": TRAINING,
        "data": StructureSelection(split=None, held_out=2),
        "predictions": 0,
    }
    return OpenFold3Task(**options | changes)


@pytest.fixture(scope="module")
def initial() -> State:
    return task().initial_state()


def learner(folder: Path = SAMPLE, ids=IDS, **changes) -> OpenFold3Learner:
    data = OpenFold3Data(structures=StructureSet.open(folder), train=ids, val=ids[:1], test=ids[:1])
    training = check("training", OpenFold3Training, {**vars(TRAINING), **changes})
    return OpenFold3Learner(OpenFold3Config(**TINY), training, data, seed=5)


def trained(a: OpenFold3Learner, state: State, steps: int) -> State:
    a.receive(state)
    a.train(Budget(steps=steps), lambda *_: None)
    return a.send()


def test_a_restored_learner_goes_on_to_the_same_bits(initial, tmp_path):
    kept = learner()
    middle = trained(kept, initial, 1)
    torch.save(dict(kept.local_state()), tmp_path / "local.pt")
    expected = trained(kept, middle, 2)
    restored = learner()
    restored.restore(torch.load(tmp_path / "local.pt", weights_only=True))
    assert trained(restored, middle, 2) == expected
    assert expected != middle


def test_only_unique_parameters_travel_and_every_alias_gets_them(initial):
    network = build(OpenFold3Config(**TINY)).model
    changed = initial.map(lambda array: array + np.float32(1) if array.ndim else array)
    kept = {name: initial[name] for name in initial.frozen}
    load_network(network, changed.with_arrays(kept))
    names = network.state_dict()
    assert len(names) > len(initial)
    twice = [name for name in names if name.startswith("sample_diffusion.diffusion_module.")]
    assert len(twice) > 100
    for name in twice:
        own = name.removeprefix("sample_diffusion.")
        if own not in initial.frozen:
            np.testing.assert_array_equal(names[name].numpy(), initial[own] + np.float32(1))


def test_a_model_with_other_constants_is_refused(initial):
    network = build(OpenFold3Config(**TINY)).model
    other = initial.with_arrays({"version_tensor": initial["version_tensor"] + np.float32(1)})
    with pytest.raises(ValueError, match="'version_tensor' is a constant"):
        load_network(network, other)


def test_sample_n_is_the_same_whoever_makes_it():
    sampling = Sampling(
        structures=StructureSet.open(SAMPLE), ids=IDS, crops=Crops(tokens=16), seed=3
    )
    here, there = NumberedSamples(sampling), NumberedSamples(sampling)
    one_by_one = [here[number] for number in (4, 2, 0)]
    ahead = list(there.numbers((4, 2, 0), workers=1))
    for a, b in zip(one_by_one, ahead, strict=True):
        assert a.number == b.number
        assert a.batch["pdb_id"] == b.batch["pdb_id"]
        assert torch.equal(a.batch["ref_pos"], b.batch["ref_pos"])
        truth = "ground_truth"
        assert torch.equal(a.batch[truth]["atom_positions"], b.batch[truth]["atom_positions"])
    drawn = {tuple(here[number].batch["ref_pos"].ravel()[:9].tolist()) for number in range(6)}
    assert len(drawn) == 6


def test_crops_grow_with_the_steps():
    crops = check("crops", Crops, {"tokens": [[0, 16], [2, 24]]})
    sampling = Sampling(
        structures=StructureSet.open(SAMPLE), ids=("1ubq",), crops=crops, seed=0, per_step=2
    )
    samples = NumberedSamples(sampling)
    sizes = [int(samples[number].batch["token_mask"].sum()) for number in (0, 3, 4, 9)]
    assert sizes == [16, 16, 24, 24]


@pytest.mark.parametrize("share", ["contiguous", "spatial", "interface"])
def test_every_kind_of_crop_can_be_asked_for_alone(share):
    shares = {"contiguous": 0.0, "spatial": 0.0, "interface": 0.0, share: 1.0}
    crops = Crops(tokens=16, **shares)
    sampling = Sampling(
        structures=StructureSet.open(SAMPLE),
        ids=("1kd8",),
        crops=crops,
        seed=0,
    )
    batch = NumberedSamples(sampling)[0].batch
    index = batch["residue_index"][0][batch["token_mask"][0] > 0]
    chains = len(set(batch["asym_id"][0][batch["token_mask"][0] > 0].tolist()))
    steps = (index[1:] - index[:-1]).tolist()
    if share == "contiguous":
        assert steps.count(1) >= len(steps) - chains
    else:
        assert chains == 2 or steps.count(1) < len(steps)


def test_recycles_and_noise_differ_from_sample_to_sample():
    network = build(OpenFold3Config(**TINY)).model
    recycles, noise = [], []
    for seed in range(20):
        with seeded(seed, network):
            recycles.append(int(network.synced_generator.integers(4)))
            noise.append(float(torch.randn(())))
    assert len(set(recycles)) == 4
    assert len(set(noise)) == 20


def test_the_process_keeps_its_own_random_numbers():
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(1)
    np.random.seed(1)
    with seeded(7):
        torch.rand(5)
        np.random.rand(5)
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])


def broken(batch):
    """A batch that OpenFold3 cannot align: its answer is a loss of zero."""
    batch = copy.deepcopy(batch)
    del batch["ground_truth"]["num_atoms_per_token"]
    return batch


def test_losses_that_openfold3_turned_off_are_an_error(initial, caplog):
    module = build(OpenFold3Config(**TINY))
    load_network(module.model, initial)
    sampling = Sampling(
        structures=StructureSet.open(SAMPLE), ids=("1ubq",), crops=Crops(tokens=16), seed=0
    )
    batch = NumberedSamples(sampling)[0].batch
    trainer = OpenFold3Trainer(module, TRAINING.optimization, accumulate=2)
    with caplog.at_level(logging.CRITICAL), pytest.raises(LossesOffError, match="structure 1ubq"):
        trainer.loss(broken(batch), 0)
    for _ in range(2):  # the first has a learning rate of 0
        results = trainer.take_step([(batch, 1), (broken(batch), 2)])
        assert isinstance(results[1], LossesOffError)
        assert results[0]["loss"] > 0
    assert network_state(module.model) != initial


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """A set of which one structure lost its file after it was prepared."""
    folder = tmp_path_factory.mktemp("damaged") / "set"
    StructureSet.open(SAMPLE).copy(IDS, folder)
    shutil.rmtree(folder / "structure_files" / "7l39")
    return folder


def test_samples_that_cannot_be_made_stop_the_round(damaged, initial):
    site = learner(damaged)
    site.receive(initial)
    with pytest.raises(ValueError, match=r"failed in this round.*max_failures=0.*7l39"):
        site.train(Budget(steps=5), lambda *_: None)


def test_so_many_of_them_may_fail_and_are_counted(damaged, initial):
    site = learner(damaged, max_failures=50)
    site.receive(initial)
    report = site.train(Budget(steps=5), lambda *_: None)
    failed = report.metrics["failed_samples"]
    assert failed.total >= 1
    assert failed.count == 10
    assert report.num_samples == 10


def test_a_set_without_any_usable_structure_says_so(damaged, initial):
    site = learner(damaged, ids=("7l39",), max_failures=1000)
    site.receive(initial)
    with pytest.raises(ValueError, match="10 samples in a row cannot be made"):
        site.train(Budget(steps=1), lambda *_: None)


def test_a_site_on_its_own_set_is_the_site_of_the_simulation(initial, tmp_path):
    whole = task()
    whole.write_site_data("a", tmp_path / "a")
    own = whole.at_site("a", tmp_path / "a")
    assert own.initial_state() == whole.initial_state()
    here, there = whole.learner("a"), own.learner("a")
    assert trained(here, initial, 2) == trained(there, initial, 2)
    assert here.validate() == there.validate()


def test_validation_is_the_same_every_time_and_less_when_asked(initial):
    site = learner(validation_interval=2)
    site.receive(initial)
    first = site.validate()
    assert first == site.validate()
    assert {"loss", "distogram_loss", "mse_loss", "plddt_loss"} <= first.keys()
    site.train(Budget(steps=1), lambda *_: None)
    assert site.validate() == {}
    site.train(Budget(steps=1), lambda *_: None)
    assert site.validate().keys() == first.keys()


def test_the_confidence_stage_trains_and_sends_its_heads_alone():
    staged = task(network=OpenFold3Config(**TINY, stage="confidence"))
    initial = staged.initial_state()
    site = staged.learner("a")
    after = trained(site, initial, 2)
    moved = {name for name in initial if not np.array_equal(initial[name], after[name])}
    assert moved
    assert all(name.startswith(CONFIDENCE_HEADS) for name in moved)
    assert set(initial.travelling()) == {n for n in initial if n.startswith(CONFIDENCE_HEADS)}
    assert initial.travelling().nbytes < initial.nbytes / 2
    assert staged.best_metric == ("confidence_loss", "min")
    # NMR: no resolution, so nothing to learn confidence from.
    assert "1psm" not in site._data.train + site._data.val + site._data.test


@pytest.mark.parametrize(
    ("where", "values", "message"),
    [
        ("training", {"precision": "bfloat16"}, r"precision=bfloat16 on device=cpu"),
        ("training", {"crops": {"tokens": [[5, 16]]}}, r"crops\.tokens=.*begin at 0"),
        ("training", {"crops": {"spatial": 0.9}}, r"shares that sum to 1"),
        ("training", {"optimization": {"lr": 0}}, r"optimization\.lr=0"),
        ("training", {"optimization": {"warmup_steps": 10**6}}, r"warmup_steps=1000000"),
        ("training", {"optimization": {"warmup_steps": 0}}, r"warmup_steps=0, expected 1 to"),
        ("training", {"acumulate": 2}, r"acumulate"),
        ("network", {"size": "huge"}, r"network\.size='huge'"),
        ("network", {"custom": {"settings": {"ema": {"dekay": 1}}}}, r"dekay"),
        ("network", {"rollout_steps": 0}, r"rollout_steps=0, expected at least 1"),
    ],
)
def test_a_plan_that_cannot_train_is_refused_by_key(where, values, message):
    kind = {"training": OpenFold3Training, "network": OpenFold3Config}[where]
    with pytest.raises(ValueError, match=message):
        check(where, kind, OmegaConf.to_container(OmegaConf.create(values)))
