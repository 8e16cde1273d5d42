"""Corrected features know the graph only: not its padding, not the order of its nodes."""

import networkx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from openfl_flows.models.digress import Graphs
from openfl_flows.models.digress.features import ExtraFeatures, count_cycles
from tests.unit.models.digress.digress_graphs import config, padded, permuted, random_graphs

seeds = st.integers(0, 10_000)


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_padding_changes_nothing(seed):
    graphs = random_graphs(12, seed)
    features = ExtraFeatures(config(max_atoms=12))
    nodes, graph = features(graphs)
    wide_nodes, wide_graph = features(padded(graphs, 3))
    assert_close(wide_nodes[:, :9], nodes, rtol=0, atol=1e-4)
    assert_close(wide_graph, graph, rtol=0, atol=1e-5)
    assert not wide_nodes[:, 9:].any()


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_nodes_move_with_their_features(seed):
    graphs, order = random_graphs(12, seed), torch.randperm(9)
    features = ExtraFeatures(config())
    nodes, graph = features(graphs)
    moved_nodes, moved_graph = features(permuted(graphs, order))
    assert_close(moved_nodes, nodes[:, order], rtol=0, atol=1e-4)
    assert_close(moved_graph, graph, rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_cycles_are_counted_as_by_enumeration(seed):
    bonds = random_graphs(1, seed, density=0.4).bonds[0]
    adjacency = (bonds > 0).float()
    nodes, graph = count_cycles(adjacency[None])
    loops = list(networkx.simple_cycles(networkx.Graph(adjacency.numpy()), length_bound=6))
    sizes = torch.tensor([sum(len(c) == n for c in loops) for n in (3, 4, 5, 6)])
    assert_close(graph[0], sizes.float())
    through = [[sum(len(c) == n and i in c for c in loops) for n in (3, 4, 5)] for i in range(9)]
    assert_close(nodes[0], torch.tensor(through).float())


def test_published_count_of_five_cycles_sees_one_in_a_triangle_with_a_tail():
    bonds = _chain([0] * 4, [(0, 1, 1), (1, 2, 1), (0, 2, 1), (1, 3, 1)]).bonds.float()
    assert count_cycles(bonds)[0][0, 0].tolist() == [1, 0, 0]
    assert count_cycles(bonds, exact=False)[0][0, 0].tolist() == [1, 0, 1]


def _chain(atoms, bonds, width=9):
    graphs = Graphs(torch.full((1, width), -1), torch.zeros(1, width, width, dtype=torch.int64))
    graphs.atoms[0, : len(atoms)] = torch.tensor(atoms)
    for i, j, order in bonds:
        graphs.bonds[0, i, j] = graphs.bonds[0, j, i] = order
    return graphs


def test_chemistry_is_real():
    # C=O and a lone N: valences 4, 2, 3; masses 12, 16, 14.
    nodes, graph = ExtraFeatures(config())(_chain([0, 2, 1], [(0, 1, 2)]))
    assert_close(nodes[0, :3, 6:], torch.tensor([[2.0, 2.0], [0.0, 2.0], [3.0, 0.0]]))
    assert_close(graph[0, 11], torch.tensor(42 / 150))
    assert nodes[0, :3, 3].tolist() == [0, 0, 1]
    assert graph[0, 5] == 2


def test_published_chemistry_counts_classes():
    features = ExtraFeatures(config(numerics="published"))
    nodes, graph = features(_chain([0, 2, 1], [(0, 1, 2)]))
    assert_close(nodes[0, :3, 6:], torch.tensor([[-2.0, 2.0], [0.0, 2.0], [1.0, 0.0]]))
    assert_close(graph[0, 11], torch.tensor((42 + 6 * 12) / 150))


def test_charged_classes_have_the_valence_of_their_charge_and_the_mass_of_their_element():
    vocabulary = ("C", "N+", "O-", "S+", "N-", "S")
    features = ExtraFeatures(config(vocabulary=vocabulary))
    assert features.valences.tolist() == [4, 4, 1, 3, 2, 2]
    assert features.weights.tolist() == [12, 14, 16, 32, 14, 32]


def test_published_weights_are_those_of_the_published_tables():
    published = ExtraFeatures(config(vocabulary=("C", "S", "Cl"), numerics="published"))
    assert_close(published.weights, torch.tensor([12, 30.07, 35.45]))


def test_aromatic_bonds_count_one_and_a_half():
    ring = [(i, (i + 1) % 6, 4) for i in range(6)]
    nodes, _ = ExtraFeatures(config())(_chain([0] * 6, ring))
    assert_close(nodes[0, :6, 7], torch.full((6,), 3.0))


def test_eigenvalues_of_a_path():
    _, graph = ExtraFeatures(config())(_chain([0, 0, 0], [(0, 1, 1), (1, 2, 1)]))
    assert_close(graph[0, 6:11], torch.tensor([1 / 3, 1.0, 2.0, 2.0, 2.0]), rtol=0, atol=1e-6)


def test_an_element_without_valence_is_refused():
    with pytest.raises(ValueError, match="vocabulary holds 'Na'|vocabulary holds 'He'"):
        ExtraFeatures(config(vocabulary=("C", "He")))
