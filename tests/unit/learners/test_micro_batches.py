"""Cutting a batch by size changes nothing but the padding; molecules on disk train the same."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.data.source import SAMPLE, MoleculeSource
from openfl_flows.learners.base import Budget
from openfl_flows.learners.digress import DigressTraining
from openfl_flows.learners.digress_task import DigressTask
from openfl_flows.learners.micro_batches import micro_batches
from openfl_flows.metrics.mean import Means
from openfl_flows.state import State
from tests.tiny import NETWORK, digress

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.array)


def silent(*_: object) -> None:
    pass


def trained(task: DigressTask, steps: int = 3) -> State:
    learner = task.learner("site-1")
    learner.receive(task.initial_state())
    learner.train(Budget(steps=steps), silent)
    return learner.send()


def validated(task: DigressTask) -> Means:
    learner = task.pooled_learner()
    learner.receive(task.initial_state())
    return {**learner.validate(), **learner.test()}


@given(sizes=SIZES, size=st.integers(1, 20), pairs=st.integers(1, 5_000))
def test_parts_are_the_batch_within_both_limits(sizes, size, pairs) -> None:
    parts = list(micro_batches(sizes, size=size, pairs=pairs, width=40))
    positions = [part.positions(len(sizes)) for part in parts]
    assert sorted(np.concatenate(positions)) == list(range(len(sizes)))
    for part, chosen in zip(parts, positions, strict=True):
        assert part.width == sizes[chosen].max()
        assert len(chosen) == 1 or len(chosen) * part.width**2 <= pairs
        assert len(chosen) <= size
    assert [part.width for part in parts] == sorted(part.width for part in parts)


@given(sizes=SIZES, size=st.integers(1, 20))
def test_without_pairs_graphs_stay_as_they_come(sizes, size) -> None:
    parts = list(micro_batches(sizes, size=size, pairs=None, width=40))
    positions = [part.positions(len(sizes)) for part in parts]
    assert np.concatenate(positions).tolist() == list(range(len(sizes)))
    assert {part.width for part in parts} == {40}
    assert all(len(chosen) == size for chosen in positions[:-1])


def test_gradients_of_parts_of_similar_sizes_are_those_of_the_batch() -> None:
    still = dataclasses.replace(NETWORK, dropout=0.0, max_atoms=14)
    gradients = []
    for options in ({"micro_batch": 32}, {"micro_batch": 32, "micro_pairs": 300}):
        task = digress(network=still, training=DigressTraining(batch_size=32, **options))
        learner = task.learner("site-1")
        learner.receive(task.initial_state())
        learner._networks.eval()
        losses = learner._train_denoiser(np.arange(32)), learner._train_regressor(np.arange(32))
        named = learner._networks.named_parameters()
        found = {n: p.grad.double() for n, p in named if p.grad is not None}
        gradients.append((found, torch.stack(losses)))
    (whole, loss), (parts, loss_of_parts) = gradients
    torch.testing.assert_close(loss_of_parts, loss, rtol=1e-6, atol=0)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(
            parts[name], gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()) + 1e-8
        )


def test_molecules_on_disk_train_to_the_bits_of_those_in_memory(tmp_path) -> None:
    stored = MoleculeSource(
        path=str(SAMPLE), folder=str(tmp_path), storage="disk", workers=1, limit=200
    )
    memory = digress()
    disk = digress(data=stored)
    assert disk.graph_statistics == memory.graph_statistics
    assert trained(disk) == trained(memory)
    assert validated(disk) == validated(memory)
    assert disk.composition() == memory.composition()


def test_a_site_with_a_table_on_disk_of_its_own_trains_to_the_same_bits(tmp_path) -> None:
    stored = MoleculeSource(
        path=str(SAMPLE), folder=str(tmp_path / "store"), storage="disk", workers=1, limit=200
    )
    task = digress(data=stored)
    constants = dataclasses.replace(task, statistics=task.graph_statistics)
    task.write_site_data("site-1", tmp_path / "site-1")
    unlimited = dataclasses.replace(constants, data=dataclasses.replace(stored, limit=None))
    own = unlimited.at_site("site-1", tmp_path / "site-1")
    assert own.data.storage == "disk"
    assert trained(own) == trained(constants)


def test_validation_in_parts_of_similar_sizes_measures_every_graph() -> None:
    training = DigressTraining(batch_size=32, micro_pairs=300, validation_passes=2)
    learner = digress(training=training).learner("site-1")
    means = learner.validate()
    assert means["nll"].count == 2 * len(learner._molecules.val)
    assert means == learner.validate()


def test_a_regressor_without_any_label_is_refused_before_training(tmp_path) -> None:
    path = tmp_path / "m.smi"
    path.write_text("C\nCC\nCCC\nCCO\n" * 10)
    data = MoleculeSource(
        path=str(path), folder=str(tmp_path), storage="disk", workers=1, target_columns=()
    )
    with pytest.raises(ValueError, match="training.regressor=true, expected false: no training"):
        digress(data=data).initial_state()
    off = digress(data=data, training=DigressTraining(batch_size=32, regressor=False))
    assert trained(off, steps=1) != off.initial_state()


def test_published_numerics_are_never_cut_by_size() -> None:
    published = dataclasses.replace(NETWORK, numerics="published")
    with pytest.raises(ValueError, match="micro_pairs=100, expected null: published numerics"):
        digress(network=published, training=DigressTraining(micro_pairs=100))
    with pytest.raises(ValueError, match="training.micro_pairs=0, expected 1 or more"):
        DigressTraining(micro_pairs=0)
