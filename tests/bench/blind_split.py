# ruff: noqa: T201
"""What ways to group molecules leak in a blind split, over many keys: near duplicates in two parts.

python -m tests.bench.blind_split FILE [--ask 4000] [--keys 50] [--rules RULE ...]
"""

import argparse
import random
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from openfl_flows.data.blind.folds import group_number
from openfl_flows.data.blind.leakage import near_molecules
from openfl_flows.data.blind.molecules import MoleculeGroups
from openfl_flows.data.strata import murcko_scaffolds
from openfl_flows.data.table import stream_rows, stream_smiles

RULES = {
    "every molecule alone": lambda smiles: smiles,
    "Murcko scaffold": lambda smiles: murcko_scaffolds([smiles])[0],
    "core, rings=3": MoleculeGroups(rings=3).group,
    "core, rings=2": MoleculeGroups(rings=2).group,
    "core, rings=1": MoleculeGroups(rings=1).group,
    "atoms": MoleculeGroups(rule="atoms").group,
}
SPLITS = {"80/10/10": (0.1, 0.2), "five folds": (0.2, 0.4, 0.6, 0.8)}
SIMILARITIES = (0.7, 0.85)


def crossing(
    groups: np.ndarray, pairs: np.ndarray, numbers: np.ndarray, asked: int
) -> list[tuple[float, float]]:
    """Of each split: share of pairs in two parts, and of molecules asked for that have one."""
    found = []
    for bounds in SPLITS.values():
        part = np.searchsorted(bounds, numbers, side="right")[groups]
        crosses = part[pairs[:, 0]] != part[pairs[:, 1]]
        found.append((crosses.mean(), len(np.unique(pairs[crosses, 0])) / asked))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--ask", type=int, default=4000)
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    options = parser.parse_args()
    table = ".csv" in options.file.suffixes
    rows = stream_rows(options.file, required=("smiles",)) if table else stream_smiles(options.file)
    smiles = [row.cells["smiles"] for row in rows]
    asked = random.Random(0).sample(range(len(smiles)), min(options.ask, len(smiles)))
    near = {least: near_molecules(smiles, asked, tanimoto=least) for least in SIMILARITIES}
    for least, pairs in near.items():
        print(f"{len(smiles):,} molecules, {len(asked):,} asked, {len(pairs):,} pairs from "
              f"{least}, of {len(np.unique(pairs[:, 0])):,} molecules")  # fmt: skip
    print("| groups by | number | largest | test share | similarity | pairs in two groups | "
          + " | ".join(f"{split}: pairs | molecules" for split in SPLITS) + " |")  # fmt: skip
    for rule in options.rules:
        names, groups = np.unique([RULES[rule](each) for each in smiles], return_inverse=True)
        sizes = np.bincount(groups)
        keys = [
            np.array([group_number(key.to_bytes(32, "big"), "molecule", name) for name in names])
            for key in range(options.keys)
        ]
        held = [sizes[numbers < 0.1].sum() / len(smiles) for numbers in keys]
        for least, pairs in near.items():
            two = (groups[pairs[:, 0]] != groups[pairs[:, 1]]).mean()
            means = np.mean([crossing(groups, pairs, key, len(asked)) for key in keys], axis=0)
            print(f"| {rule} | {len(names):,} | {sizes.max() / len(smiles):.1%} | "
                  f"{mean(held):.1%} ± {stdev(held):.1%} | {least} | {two:.2%} | "
                  + " | ".join(f"{share:.2%}" for share in means.ravel()) + " |",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
