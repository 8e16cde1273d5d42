"""Few steps: which levels are visited and how, trimming by size, and what stays exact."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from openfl_flows.models.digress import Denoiser, Descent, Graphs, Guidance, Noisy, Prediction
from openfl_flows.models.digress.sampling import sample_graphs
from openfl_flows.models.digress.schedule import strided_levels
from tests.unit.models.digress.digress_graphs import (
    config,
    denoiser,
    generator,
    regressor,
    statistics,
)

CHOICES = [
    Descent(),
    Descent(spacing=2),
    Descent(spacing=3, overshoot=1),
    Descent(spacing=2, overshoot=0.5),
    Descent(spacing=2, corrector=1),
]
JOINT = {(0, 0, 1): 0.4, (1, 1, 2): 0.3, (0, 2, 0): 0.2, (3, 2, 3): 0.1}
"""Probabilities of (first atom, second atom, bond): each entry alone says little of the others."""


class ExactPair(Denoiser):
    """The best predictor of molecules of two atoms that are drawn from JOINT: Bayes' rule."""

    def forward(self, noisy, *, diagonal=True):
        del diagonal
        graphs, process = noisy.graphs, self.process
        kept = process.survivals[noisy.t]
        entries = (graphs.atoms[:, 0], graphs.atoms[:, 1], graphs.bonds[:, 0, 1])
        limits = (process.atom_limit, process.atom_limit, process.bond_limit)
        marginals = [torch.zeros(len(kept), len(limit)) for limit in limits]
        for state, probability in JOINT.items():
            weight = torch.full((len(kept),), probability)
            for z, x, limit in zip(entries, state, limits, strict=True):
                weight = weight * (kept * (z == x) + (1 - kept) * limit[z])
            for marginal, x in zip(marginals, state, strict=True):
                marginal[:, x] += weight
        logs = [(m + 1e-30).log() for m in marginals]
        return torch.stack(logs[:2], 1), logs[2][:, None, None].expand(-1, 2, 2, -1)


def pairs_drawn(descent, steps, num=4000):
    """Shares of JOINT's molecules, and of all others, among those that ExactPair draws."""
    settings = config(extra_features=False, max_atoms=2, diffusion_steps=100)
    model = ExactPair(settings, statistics(2))
    drawn = model.sample(
        num, generator(5), num_nodes=torch.full((num,), 2), steps=steps, descent=descent
    ).graphs
    states = torch.stack((*drawn.atoms.T, drawn.bonds[:, 0, 1]), 1).tolist()
    return {state: states.count(list(state)) / num for state in JOINT}


@pytest.mark.parametrize("descent", [Descent(), Descent(spacing=2, corrector=1)], ids=str)
def test_at_all_steps_the_joint_distribution_is_drawn(descent):
    for state, share in pairs_drawn(descent, 100).items():
        assert share == pytest.approx(JOINT[state], abs=0.03), state


def test_at_few_steps_dense_levels_draw_fewer_impossible_molecules():
    even, dense = (sum(pairs_drawn(Descent(spacing=s), 8).values()) for s in (1, 2))
    assert even + 0.005 < dense


def test_overshooting_draws_possible_molecules_but_prefers_likely_ones_at_any_number_of_steps():
    shares = pairs_drawn(Descent(spacing=3, overshoot=1), 100)
    assert sum(shares.values()) > 0.995
    likely, rare = (0, 0, 1), (0, 2, 0)
    assert shares[likely] > JOINT[likely] + 0.03
    assert shares[rare] < JOINT[rare] - 0.03


@pytest.mark.parametrize("spacing", [0.5, 2, 3.5])
def test_with_all_steps_spacing_changes_no_bit(spacing):
    model = denoiser()
    even = model.sample(10, generator(3)).graphs
    spaced = model.sample(10, generator(3), descent=Descent(spacing=spacing)).graphs
    assert torch.equal(even.atoms, spaced.atoms)
    assert torch.equal(even.bonds, spaced.bonds)


@given(steps=st.integers(1, 50), spacing=st.floats(0.25, 8))
def test_spaced_levels_are_distinct_and_end_at_zero(steps, spacing):
    levels = strided_levels(50, steps, spacing=spacing)
    assert levels[0] == 50
    assert levels[-1] == 0
    assert len(levels) == steps + 1
    assert all(a > b for a, b in itertools.pairwise(levels))


@given(
    steps=st.integers(4, 50),
    spacing=st.floats(0.25, 8),
    overshoot=st.floats(0, 1),
    corrector=st.integers(0, 3),
)
def test_a_path_denoises_as_often_as_it_says(steps, spacing, overshoot, corrector):
    descent = Descent(spacing=spacing, overshoot=overshoot, corrector=corrector)
    path = descent.path(50, steps)
    assert path[0] == 50
    assert path[-1] == 0
    assert all(a != b for a, b in itertools.pairwise(path))
    assert sum(b < a for a, b in itertools.pairwise(path)) == steps


def test_paths_by_hand():
    assert Descent().path(8, 4) == [8, 6, 4, 2, 0]
    assert Descent(spacing=2).path(16, 4) == [16, 9, 4, 1, 0]
    assert Descent(overshoot=1).path(8, 4) == [8, 0, 6, 0, 4, 0, 2, 0]
    assert Descent(overshoot=0.5).path(8, 2) == [8, 2, 4, 0]
    assert Descent(corrector=1).path(8, 5) == [8, 4, 8, 4, 0, 4, 0, 4, 0]


def test_sharper_predictions_are_less_diverse():
    model = denoiser()
    entropies = []
    for temperature in (0.3, 1.0):
        drawn = model.sample(200, generator(1), descent=Descent(temperature=temperature)).graphs
        share = torch.bincount(drawn.atoms[drawn.mask], minlength=4) / drawn.mask.sum()
        entropies.append(float(-(share * share.clamp_min(1e-9).log()).sum()))
    assert entropies[0] < entropies[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": 0}, "spacing is 0; expected 0.25 to 8"),
        ({"overshoot": 1.5}, "overshoot is 1.5; expected 0 to 1"),
        ({"corrector": -1}, "corrector is -1; expected 0 or more"),
        ({"temperature": 0}, "temperature is 0; expected 0.1 to 10"),
    ],
)
def test_ways_that_lead_nowhere_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Descent(**options)


def test_a_corrector_needs_steps():
    with pytest.raises(ValueError, match="steps is 2; expected more than corrector=2"):
        Descent(corrector=2).path(20, 2)


@pytest.mark.parametrize("descent", CHOICES, ids=str)
def test_trimming_to_the_largest_graph_changes_rounding_only(descent):
    model, widths = denoiser(), []

    def whole(noisy, *, diagonal=True):
        """Predict as if the batch had not been trimmed."""
        num = noisy.graphs.atoms.shape[1]
        widths.append(num)
        extra = (0, 9 - num)
        atoms = F.pad(noisy.graphs.atoms, extra, value=-1)
        wide = Noisy(Graphs(atoms, F.pad(noisy.graphs.bonds, extra * 2)), noisy.t)
        found = model.predict(wide, diagonal=diagonal)
        return Prediction(found.atoms[:, :num], found.bonds[:, :num, :num])

    sizes = torch.tensor([2, 9, 3, 1, 4, 2, 8, 3])
    options = {
        "num_nodes": sizes, "steps": 8, "keep_chain": 3, "chain_frames": 2, "guidance": None,
        "batch_size": 3, "descent": descent,
    }  # fmt: skip
    with torch.no_grad():
        trimmed, padded = (
            sample_graphs(model.process, predict, 8, generator(2), **options)
            for predict in (model.predict, whole)
        )
    assert set(widths) == {9, 3, 2}
    assert torch.equal(trimmed.graphs.atoms, padded.graphs.atoms)
    assert torch.equal(trimmed.graphs.bonds, padded.graphs.bonds)
    assert torch.equal(trimmed.graphs.num_nodes, sizes)
    assert trimmed.graphs.bonds.shape == (8, 9, 9)


def test_a_chain_belongs_to_its_graph_whatever_the_order_of_drawing():
    sizes = torch.tensor([1, 9, 2, 8, 1, 9, 2, 8])
    drawn = denoiser().sample(
        8, generator(), num_nodes=sizes, batch_size=2, keep_chain=5, chain_frames=4
    )
    assert drawn.chain is not None
    for frame in drawn.chain:
        assert torch.equal(frame.num_nodes, sizes[:5])
    assert torch.equal(drawn.chain[-1].bonds, drawn.graphs.bonds[:5])


def test_published_numerics_keep_their_padding():
    model, widths = denoiser(numerics="published"), []

    def predict(noisy, *, diagonal=True):
        widths.append(noisy.graphs.atoms.shape[1])
        return model.predict(noisy, diagonal=diagonal)

    with torch.no_grad():
        sample_graphs(
            model.process, predict, 4, generator(), num_nodes=torch.full((4,), 3), steps=3,
            keep_chain=0, chain_frames=0, guidance=None, batch_size=2, descent=Descent(),
        )  # fmt: skip
    assert set(widths) == {9}


def test_targets_stay_with_their_graphs_whatever_the_order_of_drawing():
    sizes = torch.tensor([3, 9] * 24)
    wanted = torch.tensor([-50.0, 50.0]).repeat_interleave(24)
    target = torch.stack((wanted, torch.full((48,), -6.0)), 1)
    judge = regressor()
    pull = Guidance(regressor=judge, target=target, strength=10.0)
    drawn = denoiser().sample(
        48, generator(1), num_nodes=sizes, steps=10, guidance=pull, batch_size=8
    )
    with torch.no_grad():
        found = judge.predict(Noisy(drawn.graphs, torch.zeros(48, dtype=torch.int64)))[:, 0]
    assert_close(drawn.graphs.num_nodes, sizes)
    assert found[:24].mean() < found[24:].mean()
