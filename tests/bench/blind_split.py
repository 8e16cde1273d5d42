# ruff: noqa: T201
"""What ways to group molecules leak in a blind split, over many keys: near duplicates in two parts.

python -m tests.bench.blind_split FILE [--ask 4000] [--keys 50]
"""

import argparse
import random
from collections import Counter
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from openfl_flows.data.blind.folds import group_number, part_of
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
SPLITS = {"80/10/10": (0.8, 0.1, 0.1), "five folds": None}


def parts(names: list[str], key: int, fractions: tuple[float, float, float] | None) -> list[str]:
    secret = key.to_bytes(32, "big")
    number = {name: group_number(secret, "molecule", name) for name in set(names)}
    if fractions is None:
        return [str(int(5 * number[name])) for name in names]
    return [part_of(number[name], fractions) for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--ask", type=int, default=4000)
    parser.add_argument("--keys", type=int, default=50)
    options = parser.parse_args()
    table = ".csv" in options.file.suffixes
    rows = stream_rows(options.file, required=("smiles",)) if table else stream_smiles(options.file)
    smiles = [row.cells["smiles"] for row in rows]
    asked = random.Random(0).sample(range(len(smiles)), min(options.ask, len(smiles)))
    pairs = near_molecules(smiles, asked)
    with_one = len(np.unique(pairs[:, 0]))
    print(f"{len(smiles):,} molecules, {len(asked):,} asked, {len(pairs):,} near duplicates, "
          f"of {with_one:,} molecules ({with_one / len(asked):.2%})")  # fmt: skip
    print("| groups by | number | largest | pairs in two groups | "
          + " | ".join(f"{s}: pairs | molecules | test share" for s in SPLITS) + " |")  # fmt: skip
    for rule, group in RULES.items():
        names = [group(each) for each in smiles]
        counts = Counter(names)
        array = np.unique(names, return_inverse=True)[1]
        two = (array[pairs[:, 0]] != array[pairs[:, 1]]).mean()
        cells = []
        for fractions in SPLITS.values():
            crossing, leaking, held = [], [], []
            for key in range(options.keys):
                found = np.asarray(parts(names, key, fractions))
                crosses = found[pairs[:, 0]] != found[pairs[:, 1]]
                crossing.append(float(crosses.mean()))
                leaking.append(len(np.unique(pairs[crosses, 0])) / len(asked))
                held.append(float((found == ("0" if fractions is None else "test")).mean()))
            cells.append(f"{mean(crossing):.2%} ± {stdev(crossing):.2%} | {mean(leaking):.2%} | "
                         f"{mean(held):.1%} ± {stdev(held):.1%}")  # fmt: skip
        print(f"| {rule} | {len(counts):,} | {max(counts.values()) / len(smiles):.1%} | "
              f"{two:.2%} | {' | '.join(cells)} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
