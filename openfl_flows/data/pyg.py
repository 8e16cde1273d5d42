"""Molecules to and from PyTorch Geometric, in the layout of the published DiGress data sets.

A graph's ``x`` is one-hot atoms (n, K), ``edge_index`` (2, 2b) holds every bond both ways,
``edge_attr`` one-hot bond classes (2b, 5), ``y`` the targets (1, 2); ``smiles`` is kept.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch.nn.functional import one_hot
from torch_geometric.data import Data
from torch_geometric.utils import dense_to_sparse, to_dense_adj

from openfl_flows.data.molecules import Molecules
from openfl_flows.data.smiles import BOND_CLASSES, PADDING


def to_pyg(molecules: Molecules) -> list[Data]:
    """One graph for each molecule."""
    graphs = []
    for row, num in enumerate(molecules.num_atoms):
        bonds = torch.from_numpy(molecules.bonds[row, :num, :num].astype(np.int64))
        edge_index, classes = dense_to_sparse(bonds)
        atoms = torch.from_numpy(molecules.atoms[row, :num].astype(np.int64))
        graph = Data(
            x=one_hot(atoms, len(molecules.vocabulary)).float(),
            edge_index=edge_index,
            edge_attr=one_hot(classes, len(BOND_CLASSES)).float(),
            y=torch.from_numpy(molecules.targets[row : row + 1]),
            smiles=molecules.smiles[row],
        )
        graphs.append(graph)
    return graphs


def from_pyg(
    graphs: Iterable[Data],
    *,
    vocabulary: Sequence[str] = ("C", "N", "O", "F"),
    max_atoms: int = 9,
    target_names: Sequence[str] = ("mu", "homo"),
) -> Molecules:
    """Molecules of graphs in the layout above; ``smiles`` may be missing.

    Raises:
        ValueError: A graph has no atom or too many, or its columns do not fit.
    """
    listed = list(graphs)
    atoms = np.full((len(listed), max_atoms), PADDING, np.int8)
    bonds = np.zeros((len(listed), max_atoms, max_atoms), np.int8)
    targets = np.full((len(listed), len(target_names)), np.nan, np.float32)
    for row, graph in enumerate(listed):
        num = int(graph.num_nodes)
        expected = (num, len(vocabulary)), (graph.num_edges, len(BOND_CLASSES))
        found = tuple(graph.x.shape), tuple(graph.edge_attr.shape)
        if not 1 <= num <= max_atoms or found != expected:
            raise ValueError(
                f"graph {row} has {num} atoms, x {found[0]} and edge_attr {found[1]}; expected "
                f"1 to {max_atoms} atoms, x {expected[0]} and edge_attr {expected[1]}"
            )
        atoms[row, :num] = graph.x.argmax(-1)
        classes = graph.edge_attr.argmax(-1)
        bonds[row, :num, :num] = to_dense_adj(graph.edge_index, None, classes, num)[0]
        if graph.y is not None:
            targets[row] = graph.y.reshape(-1)
    return Molecules(
        smiles=tuple(str(graph.get("smiles", "")) for graph in listed),
        atoms=atoms,
        bonds=bonds,
        targets=targets,
        charged=np.zeros(len(listed), np.bool_),
        vocabulary=tuple(vocabulary),
        target_names=tuple(target_names),
    )
