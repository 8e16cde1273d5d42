"""How many near duplicates a split puts on two sides, beside what a random one of its sizes does.

All is measured at one site, on its own data, and stays there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import rdFingerprintGenerator

from openfl_flows.data.proteins.clusters import alike_pairs
from openfl_flows.seeds import derived_seed

TANIMOTO = 0.7
"""Similarity from which on two molecules are near duplicates: Morgan fingerprints of radius 2
(ECFP4), 2,048 bits, no stereochemistry."""

IDENTITY = 0.4
"""The same of two proteins: identical residues over the shorter of them."""

Pairs = NDArray[np.int64]
"""(P, 2) numbers of an item that was asked for and of another that is near it."""


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """What crosses from one part to another.

    Attributes:
        asked: Items whose neighbours were looked for.
        pairs: Pairs of one of these and a near duplicate, both in a part.
        crossing: Share of the pairs that are in two parts; NaN without pairs.
        leaking: Share of the items asked for that have a near duplicate in another part.
        random_crossing: The first share for a random split of the same sizes: the expectation.
        random_leaking: The second, of one random split.
    """

    asked: int
    pairs: int
    crossing: float
    leaking: float
    random_crossing: float
    random_leaking: float


def measure(pairs: Pairs, parts: Sequence[str], asked: Sequence[int]) -> Leakage:
    """Compare a split with a random one.

    Args:
        pairs: Near duplicates, see :func:`near_molecules`.
        parts: Part of each item; the empty string for one that is in none, and does not count.
        asked: Items whose neighbours were looked for.
    """
    labels = np.unique(np.asarray(parts), return_inverse=True)[1]
    inside = np.array([bool(part) for part in parts])
    pairs = pairs[inside[pairs].all(axis=1)]
    counted = np.asarray(asked, dtype=np.int64)
    counted = counted[inside[counted]]
    shuffled = labels.copy()
    shuffled[inside] = np.random.default_rng(derived_seed("leakage")).permutation(labels[inside])
    num = int(inside.sum())
    same = sum(int(n) * (int(n) - 1) for n in np.bincount(labels[inside]))
    return Leakage(
        asked=len(counted),
        pairs=len(pairs),
        crossing=float(_crossing(pairs, labels).mean()) if len(pairs) else float("nan"),
        leaking=_leaking(pairs, labels, len(counted)),
        random_crossing=1 - same / max(1, num * (num - 1)),
        random_leaking=_leaking(pairs, shuffled, len(counted)),
    )


def near_molecules(
    smiles: Sequence[str], asked: Sequence[int], *, tanimoto: float = TANIMOTO
) -> Pairs:
    """Near duplicates of some molecules among all, see :data:`TANIMOTO`.

    Args:
        smiles: All molecules; one that RDKit refuses has no neighbours.
        asked: Numbers of those whose neighbours are looked for.
        tanimoto: The least similarity of near duplicates.
    """
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints, numbers = [], []
    with rdBase.BlockLogs():
        for number, text in enumerate(smiles):
            molecule = Chem.MolFromSmiles(text)
            if molecule is not None:
                prints.append(generator.GetFingerprint(molecule))
                numbers.append(number)
    number_of = np.array(numbers, dtype=np.int64)
    place = {number: i for i, number in enumerate(numbers)}
    found = [np.zeros((0, 2), dtype=np.int64)]
    for number in asked:
        if (own := place.get(int(number))) is None:
            continue
        alike = np.asarray(DataStructs.BulkTanimotoSimilarity(prints[own], prints)) >= tanimoto
        alike[own] = False
        near = number_of[alike]
        found.append(np.stack([np.full(len(near), number), near], axis=1))
    return np.concatenate(found)


def near_proteins(sequences: Sequence[str]) -> Pairs:
    """All near duplicates among proteins, each pair both ways, see :data:`IDENTITY`."""
    pairs = [(i, j) for i, j, _ in alike_pairs(sequences, identity=IDENTITY)]
    found = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return np.concatenate([found, found[:, ::-1]])


def _crossing(pairs: Pairs, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    crosses: NDArray[np.bool_] = labels[pairs[:, 0]] != labels[pairs[:, 1]]
    return crosses


def _leaking(pairs: Pairs, labels: NDArray[np.int64], asked: int) -> float:
    return len(np.unique(pairs[_crossing(pairs, labels), 0])) / max(1, asked)
