"""Molecules as PyTorch Geometric graphs."""

import numpy as np
import pytest
import torch
from torch_geometric.loader import DataLoader

from openfl_flows.data.pyg import from_pyg, to_pyg
from openfl_flows.data.source import MoleculeSource

MOLECULES, _ = MoleculeSource(limit=50).read(("C", "N", "O", "F"), 9)


def test_there_and_back_is_the_same() -> None:
    again = from_pyg(to_pyg(MOLECULES))
    assert again.smiles == MOLECULES.smiles
    for name in ("atoms", "bonds", "targets"):
        np.testing.assert_array_equal(getattr(again, name), getattr(MOLECULES, name))


def test_bonds_are_there_both_ways_and_batches_load() -> None:
    graphs = to_pyg(MOLECULES)
    for graph, bonds in zip(graphs, MOLECULES.bonds, strict=True):
        assert graph.is_undirected()
        assert graph.num_edges == np.count_nonzero(bonds)
        assert (graph.edge_attr[:, 0] == 0).all()
    batch = next(iter(DataLoader(graphs, batch_size=50)))
    assert batch.x.shape == (MOLECULES.num_atoms.sum(), 4)
    assert batch.y.shape == (50, 2)


def test_a_graph_that_does_not_fit_is_refused() -> None:
    graph = to_pyg(MOLECULES)[0]
    with pytest.raises(ValueError, match="graph 0 has .* expected 1 to 1 atoms"):
        from_pyg([to_pyg(MOLECULES)[-1]], max_atoms=1)
    graph.x = torch.zeros(graph.num_nodes, 7)
    with pytest.raises(ValueError, match=r"graph 0 has .* x \(\d, 7\)"):
        from_pyg([graph])
