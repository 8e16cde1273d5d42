"""The same weights as OpenFold3's own Lightning trainer, to the last bit."""

import copy
from collections.abc import Iterator

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from openfl_flows.joins.ema import at_sync, interpolated
from openfl_flows.models.openfold3.network import build, load_network, network_state
from openfl_flows.models.openfold3.randomness import seeded
from openfl_flows.models.openfold3.samples import Batch, Crops, NumberedSamples, Sampling
from openfl_flows.models.openfold3.trainer import OpenFold3Trainer, Optimization
from openfl_flows.state import State

STEPS, ACCUMULATE, DECAY = 4, 2, 0.9
OPTIMIZATION = Optimization(lr=1e-3, warmup_steps=2)


class Recorded(Dataset[Batch]):
    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return copy.deepcopy(self.batches[index])


pytestmark = pytest.mark.filterwarnings(
    "ignore:You called `self.log", "ignore:The .train_dataloader"
)


class Epochs(SequentialSampler):
    epoch = 0


class Data(pl.LightningDataModule):
    next_dataset_indices: dict[str, int] = {}

    def __init__(self, batches: list[Batch]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[Batch]:
        data = Recorded(self.batches)
        return DataLoader(data, batch_size=None, sampler=Epochs(data))


class SeedOfEachSample(pl.Callback):
    """What the trainer under test does around every sample."""

    def on_train_batch_start(self, trainer, module, batch, index):
        self.context = seeded(1000 + index, module.model)
        self.context.__enter__()

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.context.__exit__(None, None, None)


@pytest.fixture(scope="module")
def batches(structures) -> list[Batch]:
    # 1ubq has no ligand, 2q2k holds DNA.
    ids = ("1ubq", "2q2k", "7l39")
    samples = NumberedSamples(
        Sampling(structures=structures, ids=ids, crops=Crops(tokens=24), seed=3)
    )
    return [sample.batch for sample in samples.numbers(range(STEPS * ACCUMULATE))]


@pytest.fixture(scope="module")
def lightning(tiny, batches) -> tuple[State, State, State]:
    """Initial weights, weights and moving average after OpenFold3's own training."""
    module = build(tiny, seed=0)
    OPTIMIZATION.applied_to(module.config.settings)
    module.grad_manager.accumulate_grad_batches = ACCUMULATE
    module.config.settings.ema.decay = DECAY
    module.ema.decay = DECAY
    initial = network_state(module.model)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SeedOfEachSample()],
    )
    trainer.fit(module, datamodule=Data(batches))
    assert trainer.global_step == STEPS
    average = {n: t.numpy() for n, t in module.ema.params.items() if n in initial}
    return initial, network_state(module.model), State(average, frozen=initial.frozen)


def steps(batches: list[Batch]) -> Iterator[list[tuple[Batch, int]]]:
    for step in range(STEPS):
        numbers = range(step * ACCUMULATE, (step + 1) * ACCUMULATE)
        yield [(copy.deepcopy(batches[n]), 1000 + n) for n in numbers]


def largest(a: State, b: State) -> float:
    return max(float(abs(a[name] - b[name]).max()) for name in a)


def test_every_weight_is_that_of_openfold3s_trainer(tiny, batches, lightning):
    initial, trained, _ = lightning
    module = build(tiny)
    load_network(module.model, initial)
    trainer = OpenFold3Trainer(module, OPTIMIZATION, accumulate=ACCUMULATE)
    for step in steps(batches):
        trainer.take_step(step)
    ours = network_state(module.model)
    assert largest(ours, trained) == 0.0
    assert largest(ours, initial) > 1e-4
    assert trainer.step == STEPS


def test_a_trainer_built_anew_after_every_step_gives_the_same(tiny, batches, lightning, tmp_path):
    state, trained, _ = lightning
    local = None
    for number, step in enumerate(steps(batches)):
        module = build(tiny)
        load_network(module.model, state)
        trainer = OpenFold3Trainer(module, OPTIMIZATION, accumulate=ACCUMULATE)
        if local is not None:
            trainer.restore(torch.load(local, weights_only=True))
        trainer.take_step(step)
        state, local = network_state(module.model), tmp_path / f"{number}.pt"
        torch.save(trainer.local_state(), local)
    assert largest(state, trained) == 0.0


def test_an_average_at_sync_stays_near_that_of_every_step(tiny, batches, lightning):
    """One site, a sync after every second step, against OpenFold3's average of every step."""
    initial, _, per_step = lightning
    module = build(tiny)
    load_network(module.model, initial)
    trainer = OpenFold3Trainer(module, OPTIMIZATION, accumulate=ACCUMULATE)
    forms = {"at_sync": at_sync(decay=DECAY), "interpolated": interpolated(decay=DECAY)}
    averages = dict.fromkeys(forms, initial)
    before = initial
    for number, step in enumerate(steps(batches), start=1):
        trainer.take_step(step)
        if number % 2 == 0:
            after = network_state(module.model)
            for name, form in forms.items():
                averages[name] = form(averages[name], before, after, 2)
            before = after
    moved = largest(per_step, initial)
    distances = {name: largest(average, per_step) / moved for name, average in averages.items()}
    assert distances["interpolated"] < distances["at_sync"] < 1
    assert distances["interpolated"] < 0.25
