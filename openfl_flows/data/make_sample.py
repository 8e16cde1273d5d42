"""Make the embedded molecule sample: small molecules grown at random, labelled with GFN2-xTB.

Growing and labelling share nothing but SMILES strings, and each is deterministic: a molecule is
grown from one seeded random stream and labelled from its SMILES alone, so neither the number of
workers nor the order of the work changes the file.

A molecule is grown on a plan. The plan (heavy atoms, rings) is drawn first, from weights near
those of QM9; then a core is extended atom by atom, rings are closed, carbons become N, O or F, and
free valences pair up to double and triple bonds. Patterns that react, rearrange or cannot be
built are refused (`REFUSED`).

Run `python -m openfl_flows.data.make_sample --out molecules.csv --num 3000 --seed 0`.
"""

import argparse
import csv
import logging
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TypeVar

from rdkit import Chem

from openfl_flows.data.xtb import Label, label_all

COLUMNS = ("mol_id", "smiles", "mu", "homo")
"""Columns of the sample; `mu` in Debye, `homo` in Hartree, as in MoleculeNet's QM9."""

VALENCE = {"C": 4, "N": 3, "O": 2, "F": 1}
"""Bonds of each element, counted with their order."""
SIZE_WEIGHTS = {1: 1, 2: 2, 3: 3, 4: 5, 5: 8, 6: 14, 7: 45, 8: 135, 9: 787}
"""Relative frequency of each number of heavy atoms, before refusals and duplicates."""
RING_WEIGHTS = {0: 6, 1: 22, 2: 31, 3: 42, 4: 9, 5: 3}
"""Relative frequency of each number of rings; refusals hit the higher ones most."""
RING_SIZE_WEIGHTS = {3: 36, 4: 28, 5: 20, 6: 10, 7: 6}
"""Relative frequency of the size of a ring that is closed."""
ELEMENT_WEIGHTS = {"C": 600, "N": 240, "O": 460, "F": 25}
"""Relative frequency of an element, among those whose valence suffices."""
UNSATURATION_WEIGHTS = {0: 20, 1: 36, 2: 31, 3: 13}
"""Relative frequency of each number of double or triple bonds that are tried."""
DOUBLE_BOND_WEIGHTS = {"CO": 11.0, "CN": 0.9, "CC": 0.4}
TRIPLE_BOND_WEIGHTS = {"CN": 90.0, "CC": 5.0}
"""Relative weight of a bond to become a double, or a triple, bond."""
AROMATIC_SHARE = 0.12
"""Share of the cyclic plans that start from an aromatic core."""
AROMATIC_CORES = (
    "C1=CC=CC=C1",
    "C1=CC=NC=C1",
    "C1=CN=CN=C1",
    "C1=CN=CC=N1",
    "C1=CNC=C1",
    "C1=COC=C1",
    "C1=NC=CN1",
    "C1=NNC=C1",
    "C1=NOC=C1",
    "C1=NC=CO1",
    "N1N=CC=N1",
    "N1C=NC=N1",
)
"""Aromatic rings with their double bonds written out."""

REFUSED = {
    "peroxide": "[#8]~[#8]",
    "single N-O": "[NX3;!a]-[OX2]",
    "single N-N": "[N;!a]-[N;!a]",
    "chain of three heteroatoms": "[#7,#8]~[N,#8]~[#7,#8]",
    "chain of three heteroatoms with an end that is no aromatic N": "[N,#8]~[#7]~[#7,#8]",
    "fluorine on a heteroatom": "F-[#7,#8,F]",
    "acyl or alkynyl fluoride": "F[C;!a]=,#*",
    "alpha-fluoro amine or ether": "F[CX4][#7,#8]",
    "hemiacetal": "[CX4]([OX2H])O",
    "aminal": "[CX4]([#7])[#7,#8]",
    "three heteroatoms on one sp3 carbon": "[CX4](O)(O)O",
    "enol": "[C;!a]=[C;!a][OX2H]",
    "enamine with N-H": "[C;!a]=[C;!a][NX3;H1,H2;!a]",
    "carbamic or carbonic acid": "[OX2H]C(=O)[#7,#8]",
    "ynol, ynamine, cyanate": "*#C[O,$([NX3]-C#C)]",
    "cumulated double bonds": "*=[C,N;!a]=*",
    "triple bond in a ring": "[R]#[R]",
    "double bond at a ring fusion": "[x3,x4;!a]=[*;!a]",
    "unsaturated three-membered ring": "[r3]=,:[r3]",
    "cyclobutadiene": "[r4]~1=,:[r4]~[r4]=,:[r4]~1",
    "bridged aromatic ring": "[a;x3;!$(a:[a;x3])]",
    "three fusion atoms in an aromatic ring": "[a;x3].[a;x3].[a;x3]",
    "adjacent spiro centres": "[x4]~[x4]",
    "propellane": "[x4]~1~[r3,r4]~[x3,x4]~1",
    "heteroatom pair in a small ring": "[#7,#8;r3,r4]~[#7,#8;r3,r4]",
}
"""SMARTS patterns that no molecule of the sample has, by what they are."""

_REFUSED_QUERIES = tuple(Chem.MolFromSmarts(smarts) for smarts in REFUSED.values())

_Key = TypeVar("_Key")
_LOG = logging.getLogger(__name__)


def grow_molecules(num: int, seed: int) -> list[str]:
    """Grow `num` different molecules.

    Args:
        num: How many.
        seed: Of the random stream; the same seed gives the same molecules.

    Returns:
        Canonical SMILES without stereochemistry, sorted by heavy atoms, then by text.

    Raises:
        ValueError: `num` is not positive, or so many different molecules were not found.
    """
    if num < 1:
        raise ValueError(f"num is {num}, but at least 1 molecule has to be grown")
    stream = random.Random(seed)
    found: dict[str, int] = {}
    for _ in range(1000 + 100 * num):
        mol = _grow(stream)
        if mol is not None:
            found.setdefault(Chem.MolToSmiles(mol), mol.GetNumAtoms())
        if len(found) == num:
            return sorted(found, key=lambda smiles: (found[smiles], smiles))
    raise ValueError(f"num is {num}, but only {len(found)} different molecules were found")


def write_sample(path: Path, labels: Mapping[str, Label]) -> None:
    """Write the labelled molecules as CSV with the columns `COLUMNS`, in their order."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, (smiles, point) in enumerate(labels.items(), start=1):
            row = (f"sample_{number}", smiles, f"{point.mu:.4f}", f"{point.homo:.4f}")
            writer.writerow(row)


def distribution(molecules: Iterable[str]) -> dict[str, float]:
    """Measure the shares that a graph generator learns.

    Returns:
        Share of each element among heavy atoms, of each kekulised bond order (with `none`) among
        ordered pairs of different heavy atoms, and of each molecule size (`n=9`) among molecules.
    """
    elements: Counter[str] = Counter()
    bonds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    pairs = 0
    for smiles in molecules:
        mol = Chem.MolFromSmiles(smiles)
        Chem.Kekulize(mol, clearAromaticFlags=True)
        size = mol.GetNumAtoms()
        sizes[f"n={size}"] += 1
        pairs += size * (size - 1)
        elements.update(atom.GetSymbol() for atom in mol.GetAtoms())
        bonds.update(bond.GetBondType().name.lower() for bond in mol.GetBonds())
    shares = {name: count / elements.total() for name, count in elements.most_common()}
    shares["none"] = 1 - 2 * bonds.total() / pairs
    shares |= {name: 2 * count / pairs for name, count in bonds.most_common()}
    shares |= {name: count / sizes.total() for name, count in sorted(sizes.items())}
    return shares


def main(arguments: Sequence[str] | None = None) -> None:
    """Grow, label and write a sample; log each molecule that has no label."""
    parser = argparse.ArgumentParser(description="Makes the embedded molecule sample.")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--num", type=int, default=3000, help="molecules to grow")
    parser.add_argument("--seed", type=int, default=0, help="of the random stream")
    parser.add_argument("--workers", type=int, default=1, help="processes that label")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    molecules = grow_molecules(options.num, options.seed)
    labels, failures = label_all(molecules, options.workers)
    write_sample(options.out, labels)
    for smiles, reason in failures.items():
        _LOG.warning("not labelled: %s (%s)", smiles, reason)
    _LOG.info("grown %d, labelled %d, failed %d", len(molecules), len(labels), len(failures))
    for name, share in distribution(labels).items():
        _LOG.info("%-8s %.4f", name, share)


def _grow(stream: random.Random) -> Chem.Mol | None:
    """Grow one molecule, or None where the plan met a dead end or a refused pattern."""
    size, rings = _draw(stream, SIZE_WEIGHTS), _draw(stream, RING_WEIGHTS)
    core = "C"
    if rings and stream.random() < AROMATIC_SHARE:
        core = stream.choice(AROMATIC_CORES)
        rings -= 1
    # Without sanitisation the core keeps its written single and double bonds.
    mol = Chem.RWMol(Chem.MolFromSmiles(core, sanitize=False))
    fixed = mol.GetNumAtoms() if core != "C" else 0
    if mol.GetNumAtoms() > size:
        return None
    while mol.GetNumAtoms() < size:
        _add_carbon(mol, stream)
    for _ in range(rings):
        if not _close_ring(mol, stream):
            return None
    _choose_elements(mol, fixed, stream)
    for _ in range(_draw(stream, UNSATURATION_WEIGHTS)):
        _raise_bond_order(mol, stream)
    grown = mol.GetMol()
    Chem.SanitizeMol(grown)
    refused = any(grown.HasSubstructMatch(query) for query in _REFUSED_QUERIES)
    return None if refused else grown


def _draw(stream: random.Random, weights: Mapping[_Key, float]) -> _Key:
    return stream.choices(list(weights), list(weights.values()))[0]


def _free_valence(atom: Chem.Atom) -> int:
    return VALENCE[atom.GetSymbol()] - sum(int(b.GetBondTypeAsDouble()) for b in atom.GetBonds())


def _add_carbon(mol: Chem.RWMol, stream: random.Random) -> None:
    """Add a carbon to an atom with a free valence; crowded atoms are chosen less often."""
    weights = {
        atom.GetIdx(): 2.0 ** -max(0, atom.GetDegree() - 1)
        for atom in mol.GetAtoms()
        if _free_valence(atom)
    }
    mol.AddBond(_draw(stream, weights), mol.AddAtom(Chem.Atom("C")), Chem.BondType.SINGLE)


def _close_ring(mol: Chem.RWMol, stream: random.Random) -> bool:
    """Bond two atoms that are a drawn ring size apart; say whether there were any."""
    distances = Chem.GetDistanceMatrix(mol, force=True)
    size = _draw(stream, RING_SIZE_WEIGHTS)
    open_atoms = [atom.GetIdx() for atom in mol.GetAtoms() if _free_valence(atom)]
    pairs = [(i, j) for i, j in combinations(open_atoms, 2) if distances[i, j] == size - 1]
    if pairs:
        mol.AddBond(*stream.choice(pairs), Chem.BondType.SINGLE)
    return bool(pairs)


def _choose_elements(mol: Chem.RWMol, fixed: int, stream: random.Random) -> None:
    """Draw the element of each atom after the first `fixed`, among those that can be bound."""
    for index in range(fixed, mol.GetNumAtoms()):
        atom = mol.GetAtomWithIdx(index)
        possible = {
            element: weight
            for element, weight in ELEMENT_WEIGHTS.items()
            if VALENCE[element] >= atom.GetDegree()
        }
        atom.SetAtomicNum(Chem.GetPeriodicTable().GetAtomicNumber(_draw(stream, possible)))


def _raise_bond_order(mol: Chem.RWMol, stream: random.Random) -> None:
    """Turn one single bond into a double or a triple bond, where the valences allow one."""
    weights: dict[tuple[int, Chem.BondType], float] = {}
    for bond in mol.GetBonds():
        ends = (bond.GetBeginAtom(), bond.GetEndAtom())
        free = min(_free_valence(atom) for atom in ends)
        kind = "".join(sorted(atom.GetSymbol() for atom in ends))
        if free and kind in DOUBLE_BOND_WEIGHTS and bond.GetBondType() == Chem.BondType.SINGLE:
            weights[bond.GetIdx(), Chem.BondType.DOUBLE] = DOUBLE_BOND_WEIGHTS[kind]
            if free > 1:
                weights[bond.GetIdx(), Chem.BondType.TRIPLE] = TRIPLE_BOND_WEIGHTS[kind]
    if weights:
        index, order = _draw(stream, weights)
        mol.GetBondWithIdx(index).SetBondType(order)


if __name__ == "__main__":
    main()
