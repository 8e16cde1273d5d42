"""A site's molecules on the device, and batches of them cut into parts of similar sizes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openfl_flows.data.molecule_table import MoleculeTable
from openfl_flows.data.molecules import Molecules
from openfl_flows.models.digress import Graphs

Indices = NDArray[np.int64]


class Part(NamedTuple):
    """A micro-batch.

    Attributes:
        chosen: Which graphs of the batch; an index tensor is on the CPU.
        width: Nodes that its graphs are padded to.
    """

    chosen: slice | Tensor
    width: int

    def positions(self, num: int) -> Indices:
        """Where its graphs are in a batch of `num`."""
        chosen = self.chosen if isinstance(self.chosen, slice) else self.chosen.numpy()
        positions: Indices = np.arange(num)[chosen]
        return positions

    def of(self, graphs: Graphs) -> Graphs:
        """These graphs of a batch."""
        return graphs.rows(self.chosen).trimmed(self.width)


class DeviceMolecules:
    """Molecules as tensors: all on the device if they are in memory, else those asked for.

    Args:
        molecules: A site's.
        device: As torch names it.
    """

    def __init__(self, molecules: MoleculeTable, device: str) -> None:
        self._molecules, self._device = molecules, device
        self.targets = torch.from_numpy(molecules.targets).to(device)
        self.num_atoms = molecules.num_atoms
        self._resident: Graphs | None = None
        if isinstance(molecules, Molecules):
            self._resident = self._tensors(molecules.atoms, molecules.bonds)

    def graphs(self, index: Indices) -> Graphs:
        """Some graphs, as wide as any may be."""
        if self._resident is not None:
            return self._resident.rows(torch.from_numpy(index))
        return self._tensors(*self._molecules.rows(index, self._molecules.max_atoms))

    def _tensors(self, atoms: NDArray[np.int8], bonds: NDArray[np.int8]) -> Graphs:
        return Graphs(torch.from_numpy(atoms), torch.from_numpy(bonds)).to(self._device)


def micro_batches(
    num_atoms: Indices, *, size: int, pairs: int | None, width: int
) -> Iterator[Part]:
    """Cut a batch.

    Args:
        num_atoms: Nodes of each graph of the batch.
        size: Graphs of a part at most.
        pairs: Pairs of nodes of a part at most, padding included: graphs are sorted by size and
            padded to the largest of their part; a graph with more is a part of its own. None to
            take graphs as they come, padded to `width`.
        width: Nodes that a graph may have.

    Yields:
        Parts that together are the batch.
    """
    num = len(num_atoms)
    if pairs is None:
        yield from (Part(slice(i, min(num, i + size)), width) for i in range(0, num, size))
        return
    order = np.argsort(num_atoms, kind="stable")
    begin = 0
    for end in range(1, num + 1):
        full = end - begin == size
        if full or end == num or (end + 1 - begin) * num_atoms[order[end]] ** 2 > pairs:
            chosen = torch.from_numpy(order[begin:end])
            yield Part(chosen, int(num_atoms[order[end - 1]]))
            begin = end
