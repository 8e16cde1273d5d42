"""Make the embedded protein sample: generated proteins that carry known sorting signals.

No protein was taken from a data set. A protein is drawn as one pattern (see
:mod:`openfl_flows.data.proteins.signals`): the signals of its place in the cell on a background of
that place's amino acids. As in nature, signals are imperfect: some proteins have none
(:data:`UNSIGNALLED`), of some the signal is worn (:data:`WORN`), and any may carry another place's
signal where it means nothing (:data:`DECOYS`). About a third have relatives, which come from one
ancestor and are in the same set.

Python's own random stream is used, so the file is the same to the byte everywhere.

Run ``python -m openfl_flows.data.make_protein_sample --out proteins.fasta``.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from random import Random

from openfl_flows.data.proteins import signals
from openfl_flows.data.proteins.fasta import Record, write_fasta

SETS = {"train": 5, "val": 1, "test": 2}
"""How many times :data:`CLASSES` there are in each set."""

CLASSES = {
    "Cell_membrane": 30,
    "Cytoplasm": 57,
    "Endoplasmic_reticulum": 20,
    "Extracellular": 36,
    "Golgi_apparatus": 10,
    "Lysosome": 9,
    "Mitochondrion": 33,
    "Nucleus": 81,
    "Peroxisome": 8,
    "Plastid": 16,
}
"""Proteins of each class in 300, near the shares of DeepLoc 1.0; the rarest are more."""

KINGDOMS = ("Metazoa", "Fungi", "Viridiplantae", "Other")
KINGDOM_WEIGHTS = {
    "Cell_membrane": (74, 8, 14, 4),
    "Cytoplasm": (60, 22, 12, 6),
    "Endoplasmic_reticulum": (52, 28, 16, 4),
    "Extracellular": (68, 15, 5, 12),
    "Golgi_apparatus": (54, 22, 22, 2),
    "Lysosome": (48, 22, 24, 6),
    "Mitochondrion": (44, 36, 15, 5),
    "Nucleus": (53, 21, 22, 4),
    "Peroxisome": (38, 22, 36, 4),
    "Plastid": (0, 0, 100, 0),
}
"""Weight of each kingdom in a class, near that of DeepLoc 2.0 with more of the others."""

KINGDOM_EXTRA = {"Fungi": "S" * 20 + "N" * 15 + "T" * 10, "Viridiplantae": "G" * 12 + "A" * 8}
"""Residues that a kingdom has more of, in a thousand."""

COMPOSITION = """
                       A  C  D  E  F  G  H  I  K   L  M  N  P  Q  R  S  T  V  W  Y
Cell_membrane         69 23 47 58 46 68 22 56 48 101 22 43 54 38 50 82 58 68 14 32
Cytoplasm             69 17 54 78 35 57 25 49 64  97 20 43 54 49 55 85 53 59 10 27
Endoplasmic_reticulum 66 17 49 63 52 61 25 56 55 109 23 40 50 37 49 76 53 67 16 36
Extracellular         68 30 56 58 37 82 23 45 54  75 17 48 61 40 48 84 67 61 14 35
Golgi_apparatus       65 17 52 68 45 56 25 55 58 106 23 43 49 44 50 81 52 65 14 32
Lysosome              68 18 51 61 47 61 23 58 52 107 22 45 49 42 47 84 54 66 14 33
Mitochondrion         73 15 52 66 40 67 24 55 66 100 22 42 49 41 55 72 53 67 11 30
Nucleus               66 17 55 76 34 58 26 45 69  88 21 45 60 49 57 93 53 55  9 25
Peroxisome            75 16 50 60 42 72 25 55 57 102 22 39 51 38 52 75 52 71 13 32
Plastid               78 13 55 70 41 73 18 55 62  95 21 39 49 32 56 80 50 73 12 28
"""
"""How many of a thousand residues are each, at places in the cell.

Counted in the proteins of one place in DeepLoc 2.0, without the 35 first and 10 last residues.
"""

UNSIGNALLED = 0.03
"""Share of proteins without any signal, besides those of which a class has none anyway."""
WORN = 0.1
"""Share of proteins whose signal lost residues: each with a chance of one in three."""
DECOYS = 0.08
"""Share of proteins with something like a signal in their middle, whatever their class."""

FAMILIES = 0.15
"""Chance that a protein is the ancestor of one to three relatives: so a third of all have some."""
DIVERGENCE = (0.1, 0.4)
"""Share of residues in which a relative differs from its ancestor, least and most; in signals,
which selection keeps, a third of it."""

MIN_LENGTH, MAX_LENGTH = 60, 350
SHORTEST_LOOP = 4
"""Residues between two signals, at least."""

Signals = tuple[str, list[str], str]
"""Patterns at the start, within, and at the end of a protein."""


def make_proteins(seed: int) -> list[Record]:
    """Draw all proteins, in random order.

    Args:
        seed: Of the random stream; the same seed gives the same proteins.

    Returns:
        Records with the attribute ``KINGDOM``, named and numbered in order.
    """
    rng = Random(seed)
    drawn = [
        (sequence, label, part, kingdom)
        for part, times in SETS.items()
        for label, count in CLASSES.items()
        for sequence, kingdom in _some(label, count * times, rng)
    ]
    rng.shuffle(drawn)
    return [
        Record(
            name=f"sample_{i}",
            sequence=sequence,
            target=label,
            part=part,
            mask=None,
            attributes={"KINGDOM": kingdom},
            line=2 * i - 1,
        )
        for i, (sequence, label, part, kingdom) in enumerate(drawn, start=1)
    ]


def _some(label: str, number: int, rng: Random) -> Iterator[tuple[str, str]]:
    """Sequence and kingdom of so many proteins of a class: families and single ones."""
    while number:
        kingdom = rng.choices(KINGDOMS, KINGDOM_WEIGHTS[label])[0]
        residues = _background(label, kingdom)
        pattern = _pattern(label, kingdom, rng)
        ancestor = signals.draw_residues(pattern, rng, residues)
        size = min(number, rng.randint(2, 4)) if rng.random() < FAMILIES else 1
        number -= size
        yield ancestor, kingdom
        for _ in range(size - 1):
            yield _relative(ancestor, pattern, rng, residues), kingdom


def _pattern(label: str, kingdom: str, rng: Random) -> str:
    """One protein: its signals, and ``x`` for the background between them."""
    start, within, end = _SIGNALS[label](kingdom, rng)
    if rng.random() < UNSIGNALLED:
        start, within, end = "", [], ""
    if rng.random() < WORN:
        start, *within, end = (_worn(pattern, rng) for pattern in (start, *within, end))
    if rng.random() < DECOYS:
        within.insert(rng.randint(0, len(within)), rng.choice(_DECOYS)(rng))
    start = start or "M"
    u, v = rng.random(), rng.random()
    length = MIN_LENGTH + int((MAX_LENGTH + 1 - MIN_LENGTH) * u * (0.15 + 0.85 * v))
    used = sum(map(len, (start, *within, end))) + SHORTEST_LOOP * (len(within) + 1)
    spare = max(0, length - used)
    cuts = sorted(rng.randint(0, spare) for _ in within)
    loops = [b - a + SHORTEST_LOOP for a, b in zip((0, *cuts), (*cuts, spare), strict=True)]
    middle = [n * "x" + inner for n, inner in zip(loops, (*within, ""), strict=True)]
    return start + "".join(middle) + end


def _worn(pattern: str, rng: Random) -> str:
    kept = "".join("x" if rng.random() < 1 / 3 else letter for letter in pattern)
    return "M" + kept[1:] if pattern.startswith("M") else kept


def _relative(ancestor: str, pattern: str, rng: Random, residues: str) -> str:
    """The ancestor after mutations; the first residue stays M."""
    least, most = DIVERGENCE
    rate = least + (most - least) * rng.random()
    return ancestor[0] + "".join(
        rng.choice(residues) if rng.random() < (rate if place == "x" else rate / 3) else residue
        for residue, place in zip(ancestor[1:], pattern[1:], strict=True)
    )


def _background(label: str, kingdom: str) -> str:
    """About a thousand residues in the proportions of a place and a kingdom."""
    header, *rows = (line.split() for line in COMPOSITION.strip().splitlines())
    counts = next(row[1:] for row in rows if row[0] == label)
    even = "".join(residue * int(n) for residue, n in zip(header, counts, strict=True))
    return even + KINGDOM_EXTRA.get(kingdom, "")


def _cell_membrane(kingdom: str, rng: Random) -> Signals:
    kind = rng.random()
    if kind < 0.6:
        helices = [signals.membrane_helix(rng) for _ in range(rng.randint(2, 5))]
        return "", [f"bb{h}" if i % 2 else f"{h}bb" for i, h in enumerate(helices)], ""
    if kind < 0.85:
        return signals.signal_peptide(rng), [signals.membrane_helix(rng) + "bbxb"], ""
    return "MG", [], signals.lipid_anchor(rng)


def _cytoplasm(kingdom: str, rng: Random) -> Signals:
    return "", [signals.nuclear_export(rng)] if rng.random() < 0.25 else [], ""


def _endoplasmic_reticulum(kingdom: str, rng: Random) -> Signals:
    if rng.random() < 0.55:
        return signals.signal_peptide(rng), [], signals.retention(rng, kingdom)
    helices = [signals.membrane_helix(rng, 19) for _ in range(rng.randint(1, 3))]
    return "", helices, signals.RETENTION_OF_MEMBRANES


def _extracellular(kingdom: str, rng: Random) -> Signals:
    sites = [signals.GLYCOSYLATION] * rng.randint(0, 2)
    return signals.signal_peptide(rng), sites, ""


def _golgi_apparatus(kingdom: str, rng: Random) -> Signals:
    tail = "M" + "x" * rng.randint(3, 9) + "b" * rng.randint(1, 2)
    return tail + signals.membrane_helix(rng, 17) + "pxpxpp", [], ""


def _lysosome(kingdom: str, rng: Random) -> Signals:
    sites = [signals.GLYCOSYLATION] * rng.randint(2, 4)
    if rng.random() < 0.3:
        return signals.signal_peptide(rng), sites, ""
    end = signals.membrane_helix(rng) + signals.lysosomal_tail(rng)
    return signals.signal_peptide(rng), sites, end


def _mitochondrion(kingdom: str, rng: Random) -> Signals:
    return signals.presequence(rng) if rng.random() < 0.94 else "", [], ""


def _nucleus(kingdom: str, rng: Random) -> Signals:
    if rng.random() < 0.08:
        return "", [], ""
    return "", [signals.nuclear_import(rng) for _ in range(rng.randint(1, 2))], ""


def _peroxisome(kingdom: str, rng: Random) -> Signals:
    if rng.random() < 0.15:
        return signals.peroxisomal_start(rng), [], ""
    return "", [], rng.choice(signals.PTS1)


def _plastid(kingdom: str, rng: Random) -> Signals:
    return signals.transit_peptide(rng), [], ""


_SIGNALS = {
    "Cell_membrane": _cell_membrane,
    "Cytoplasm": _cytoplasm,
    "Endoplasmic_reticulum": _endoplasmic_reticulum,
    "Extracellular": _extracellular,
    "Golgi_apparatus": _golgi_apparatus,
    "Lysosome": _lysosome,
    "Mitochondrion": _mitochondrion,
    "Nucleus": _nucleus,
    "Peroxisome": _peroxisome,
    "Plastid": _plastid,
}

_DECOYS = (
    signals.membrane_helix,
    signals.nuclear_export,
    signals.nuclear_import,
    lambda rng: signals.retention(rng, "Metazoa"),
    lambda rng: rng.choice(signals.PTS1),
)


def main(arguments: list[str] | None = None) -> None:
    """Write the sample to the file that the command line names."""
    parser = argparse.ArgumentParser(description="Make the embedded protein sample.")
    parser.add_argument("--out", type=Path, required=True, help="FASTA file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random stream (0)")
    options = parser.parse_args(arguments)
    proteins = make_proteins(options.seed)
    write_fasta(options.out, proteins)
    print(f"{options.out}: {len(proteins):,} proteins")


if __name__ == "__main__":
    main()
