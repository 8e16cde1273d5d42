"""What drawn molecules are judged against, and sampling that a plan must not ask for."""

import csv
import dataclasses

import pytest
import torch

from openfl_flows.data.molecule_sites import pool
from openfl_flows.learners.digress_samples import DigressSampling, judge_and_write, references
from openfl_flows.models.digress import Graphs, Sampled
from tests.tiny import NETWORK, digress

TASK = digress()


def drawn(molecules):
    """Real molecules as if a model had drawn them."""
    graphs = Graphs(torch.from_numpy(molecules.atoms), torch.from_numpy(molecules.bonds))
    return Sampled(graphs, None)


@pytest.fixture(scope="module")
def pooled():
    return pool(list(TASK._dealt.values()))


def test_molecules_of_the_test_set_are_new_and_exactly_as_it_is(pooled, tmp_path):
    against = references(pooled)
    found = judge_and_write(drawn(pooled.test), NETWORK.vocabulary, against, tmp_path)
    for name in ("kl_score", "snn", "scaffold_similarity", "fragment_similarity"):
        assert found[name].value == pytest.approx(1), name
    assert found["num_measured"].value == found["num_reference"].value == len(against.test)
    assert found["snn_train"].value < 0.9


def test_molecules_of_the_training_set_are_not_new_and_further_from_the_test_set(pooled, tmp_path):
    found = judge_and_write(drawn(pooled.train), NETWORK.vocabulary, references(pooled), tmp_path)
    assert found["novelty"].value == 0
    assert found["snn"].value < 0.9
    assert found["snn_train"].value > found["snn"].value
    with (tmp_path / "samples.csv").open(newline="") as file:
        assert {row["novel"] for row in csv.DictReader(file)} == {"0"}


def test_references_are_as_many_of_each_and_always_the_same(pooled):
    once, again = references(pooled), references(pooled)
    assert len(once.test) == len(once.train) == len(pooled.test)
    assert once.train.smiles == again.train.smiles
    assert {*once.train.smiles} <= once.known


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": -1}, "sampling.num=-1, expected at least 0"),
        ({"batch_size": 0}, "sampling.batch_size=0, expected at least 1"),
        ({"spacing": 9}, "sampling.spacing is 9; expected 0.25 to 8"),
        ({"steps": 0}, "sampling.steps is 0; expected 1 to diffusion_steps=20"),
        ({"steps": 21}, "sampling.steps is 21; expected 1 to diffusion_steps=20"),
        ({"steps": 2, "corrector": 2}, "sampling.steps is 2; expected more than corrector=2"),
    ],
)
def test_sampling_that_cannot_be_is_refused_before_training(options, message):
    with pytest.raises(ValueError, match=message):
        digress(sampling=DigressSampling(**options))


def test_the_way_down_decides_what_is_drawn(tmp_path):
    state, texts = TASK.initial_state(), []
    plain = dataclasses.replace(TASK.sampling, num=16, steps=5)
    for number, sampling in enumerate(
        (plain, plain, dataclasses.replace(plain, spacing=3.0, overshoot=1.0))
    ):
        folder = tmp_path / str(number)
        TASK.draw(state, folder, sampling, seed=1)
        texts.append((folder / "chain.npz").read_bytes())
    assert texts[0] == texts[1] != texts[2]
