"""Structural features of a noisy graph: cycles, spectrum, charge, valency, weight.

Order of the node features: c3, c4, c5, not in the largest component, two eigenvectors, charge,
valency. Order of the graph features: n / n_max, C3..C6, number of components, five eigenvalues,
weight (Vignac et al., 2023, appendix B). "published" numerics follow the published implementation
where that depends on padding or on class indices; "corrected" features depend on the graph alone,
up to the order of its nodes.

Shape legend: B graphs, N padded nodes, K classes.
"""

import torch
from rdkit import Chem
from torch import Tensor, nn

from openfl_flows.data.vocabulary import AtomClass, atom_class
from openfl_flows.models.digress.config import DigressConfig
from openfl_flows.models.digress.graphs import Graphs, one_hot_atoms, pair_mask
from openfl_flows.models.digress.spectrum import published_spectrum, spectrum

NUM_NODE_FEATURES = 8
NUM_GRAPH_FEATURES = 12
_BOND_ORDERS = (0.0, 1.0, 2.0, 3.0, 1.5)
# Of the published GuacaMol pre-processing, where sulfur weighs less than phosphorus.
_PUBLISHED_WEIGHTS = {
    "B": 10.81, "Br": 79.9, "Cl": 35.45, "I": 126.9, "P": 30.97, "S": 30.07, "Se": 78.97,
    "Si": 28.09,
}  # fmt: skip


class ExtraFeatures(nn.Module):
    """Computes the features of a batch; holds the element tables, no parameters."""

    valences: Tensor
    weights: Tensor
    orders: Tensor

    def __init__(self, config: DigressConfig) -> None:
        """Look up valences and masses of the vocabulary.

        Raises:
            ValueError: for a symbol without a fixed valence.
        """
        super().__init__()
        self.corrected = config.corrected
        self.max_atoms = config.max_atoms
        self.max_weight = config.max_weight
        kinds = [atom_class(name) for name in config.vocabulary]
        valences = [_valence(kind) for kind in kinds]
        if min(valences) < 1:
            name = config.vocabulary[valences.index(min(valences))]
            raise ValueError(f"vocabulary holds {name!r}; expected elements that form bonds")
        table = Chem.GetPeriodicTable()
        weights: list[float] = [round(table.GetAtomicWeight(kind.element)) for kind in kinds]
        orders: tuple[float, ...] = _BOND_ORDERS
        if not self.corrected:
            # The published implementation takes arg-maxima, so classes stand in for both tables.
            valences, orders = list(range(len(kinds))), (0.0, 1.0, 2.0, 3.0, 4.0)
            weights = [
                _PUBLISHED_WEIGHTS.get(kind.element, weight)
                for kind, weight in zip(kinds, weights, strict=True)
            ]
        self.register_buffer("valences", torch.tensor(valences).float(), persistent=False)
        self.register_buffer("weights", torch.tensor(weights).float(), persistent=False)
        self.register_buffer("orders", torch.tensor(orders), persistent=False)

    def forward(self, graphs: Graphs) -> tuple[Tensor, Tensor]:
        """Node features (B, N, 8) and graph features (B, 12), float32; no gradient."""
        # Powers of the adjacency matrix pass what 16-bit floats count exactly.
        with torch.no_grad(), torch.autocast(graphs.atoms.device.type, enabled=False):
            return self._features(graphs)

    def _features(self, graphs: Graphs) -> tuple[Tensor, Tensor]:
        mask_BN = graphs.mask
        adjacency_BNN = ((graphs.bonds > 0) & pair_mask(mask_BN)).float()
        node_cycles_BN3, graph_cycles_B4 = (
            (counts / 10).clamp_max(1.0)
            for counts in count_cycles(adjacency_BNN, exact=self.corrected)
        )
        decompose = spectrum if self.corrected else published_spectrum
        found = decompose(adjacency_BNN, mask_BN)
        chemistry_BN2, weight_B1 = self._chemistry(graphs)
        size_B1 = mask_BN.sum(1, keepdim=True).float() / self.max_atoms
        nodes = (node_cycles_BN3, found.not_largest[..., None], found.eigenvectors, chemistry_BN2)
        graph = (size_B1, graph_cycles_B4, found.num_components[:, None], found.eigenvalues)
        nodes_BNF = torch.cat(nodes, -1) * mask_BN.unsqueeze(-1)
        return nodes_BNF, torch.cat((*graph, weight_B1), -1)

    def _chemistry(self, graphs: Graphs) -> tuple[Tensor, Tensor]:
        """Charge (valence of the element - used valency) and valency, (B, N, 2); weight (B, 1)."""
        atoms_BNK = one_hot_atoms(graphs, len(self.weights))
        # The diagonal holds class 0, of order 0, so it adds nothing.
        used_BN = self.orders[graphs.bonds.long()].sum(-1)
        charge_BN = atoms_BNK @ self.valences - used_BN
        weight_B = (atoms_BNK @ self.weights).sum(1)
        if not self.corrected:
            weight_B = weight_B + (~graphs.mask).sum(1) * self.weights[0]
        return torch.stack((charge_BN, used_BN), -1), weight_B[:, None] / self.max_weight


def count_cycles(adjacency_BNN: Tensor, *, exact: bool = True) -> tuple[Tensor, Tensor]:
    """Cycles of 3-5 nodes through each node (B, N, 3), of 3-6 nodes per graph (B, 4).

    Closed formulas in powers of the adjacency matrix (the graph totals are Harary and Manvel's,
    1971). The published count of 5-cycles misses the closed walks that leave a triangle at a node
    other than their start, and so overcounts wherever a triangle has neighbours.

    Args:
        adjacency_BNN: 0 or 1, symmetric, zero diagonal.
        exact: count those walks too, instead of the published formula.
    """
    a1 = adjacency_BNN
    degree = a1.sum(-1)
    a2 = a1 @ a1
    a3 = a2 @ a1
    a4, a5, a6 = a2 @ a2, a3 @ a2, a3 @ a3
    closed3, closed4, closed5 = (_diagonal(power) for power in (a3, a4, a5))
    through_neighbours = (a1 @ torch.stack((degree, closed3), -1)).unbind(-1)
    twice3 = closed3
    twice4 = closed4 - degree * (degree - 1) - through_neighbours[0]
    twice5 = closed5 - 2 * closed3 * degree - through_neighbours[1] + closed3
    if exact:
        detours = ((a1 * a2) @ degree.unsqueeze(-1)).squeeze(-1)
        twice5 = twice5 - 2 * detours + 4 * closed3
    twelve_c6 = (
        _diagonal(a6).sum(-1)
        - 3 * closed3.square().sum(-1)
        + 9 * (a1 * a2.square()).sum((1, 2))
        - 6 * (degree * closed4).sum(-1)
        + 6 * closed4.sum(-1)
        - 4 * closed3.sum(-1)
        + 4 * degree.pow(3).sum(-1)
        + 3 * a3.sum((1, 2))
        - 12 * degree.square().sum(-1)
        + 4 * _diagonal(a2).sum(-1)
    )
    totals = (twice3.sum(-1) / 6, twice4.sum(-1) / 8, twice5.sum(-1) / 10, twelve_c6 / 12)
    return torch.stack((twice3, twice4, twice5), -1) / 2, torch.stack(totals, -1)


def _valence(kind: AtomClass) -> int:
    """Bonds of an atom: a charge gives it those of the element with as many electrons."""
    table = Chem.GetPeriodicTable()
    return int(table.GetDefaultValence(table.GetAtomicNumber(kind.element) - kind.charge))


def _diagonal(matrix_BNN: Tensor) -> Tensor:
    """The diagonals, (B, N)."""
    return matrix_BNN.diagonal(dim1=1, dim2=2)
