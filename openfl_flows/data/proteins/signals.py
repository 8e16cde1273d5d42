"""Sorting signals of proteins as patterns, from which generated proteins are put together.

A capital letter of a pattern stands for itself, a small one for a group of residues
(:data:`GROUPS`), and ``x`` for whatever the protein is made of there. Signals vary in length and
in their residues, so each function draws a pattern of its kind.

==================  ============================================================================
signal              source
==================  ============================================================================
signal peptide      von Heijne, Nucleic Acids Res. 14, 4683 (1986)
retention in the    Munro & Pelham, Cell 48, 899 (1987): KDEL; Pelham et al., EMBO J. 7, 1757
reticulum           (1988): HDEL of yeast; Jackson et al., EMBO J. 9, 3153 (1990): KKXX
presequence         von Heijne, EMBO J. 5, 1335 (1986)
transit peptide     von Heijne et al., Eur. J. Biochem. 180, 535 (1989); Gavel & von Heijne,
                    FEBS Lett. 261, 455 (1990)
nuclear import      Kalderon et al., Cell 39, 499 (1984); Robbins et al., Cell 64, 615 (1991)
nuclear export      Wen et al., Cell 82, 463 (1995); la Cour et al., Protein Eng. Des. Sel. 17,
                    527 (2004)
peroxisome          Gould et al., J. Cell Biol. 108, 1657 (1989): PTS1; Swinkels et al., EMBO J.
                    10, 3255 (1991): PTS2
membrane helix      von Heijne, J. Mol. Biol. 225, 487 (1992); Sharpe et al., Cell 142, 158 (2010)
lysosomal tail      Bonifacino & Traub, Annu. Rev. Biochem. 72, 395 (2003)
lipid anchor        Zhang & Casey, Annu. Rev. Biochem. 65, 241 (1996)
glycosylation       Marshall, Annu. Rev. Biochem. 41, 673 (1972)
==================  ============================================================================
"""

from random import Random

GROUPS = {
    "a": "DE",
    "b": "KKR",
    "h": "LLLLLLAAAVVVIIFFGMST",
    "l": "LLLLAAVVIF",
    "n": "ST",
    "o": "LIMFV",
    "p": "STNQGH",
    "q": "AASSSTQGNK",
    "r": "RRRRRK",
    "s": "AAAAAAGSCT",
    "t": "SSSSSSSSAAAAATTTTLLLPPVVVRRRKGGNQF",
    "w": "WYFLK",
}
"""Residues that a small letter stands for, the frequent ones more often."""

RETENTION_OF_MEMBRANES = "bKKxx"
PTS1 = ("SKL", "SKL", "SKL", "SKL", "AKL", "SRL", "SKM", "ARL", "SHL", "CKL")
GLYCOSYLATION = "Nxn"


def draw_residues(pattern: str, rng: Random, residues: str) -> str:
    """One sequence of the pattern; ``x`` is drawn from `residues`."""
    return "".join(
        rng.choice(residues if letter == "x" else GROUPS.get(letter, letter)) for letter in pattern
    )


def signal_peptide(rng: Random) -> str:
    """Start of what enters the secretory pathway: basic, hydrophobic, then A-X-A and the cut."""
    return (
        "M" + "x" * rng.randint(0, 2) + "b" * rng.randint(1, 2) + "l" * rng.randint(9, 13) + "psxs"
    )


def retention(rng: Random, kingdom: str) -> str:
    """End of proteins that are kept in the lumen of the endoplasmic reticulum."""
    return (
        "HDEL" if rng.random() < {"Fungi": 0.9, "Viridiplantae": 0.4}.get(kingdom, 0.1) else "KDEL"
    )


def presequence(rng: Random) -> str:
    """Start of mitochondrial proteins: a helix with a basic and a hydrophobic face, without acid.

    Residues of a helix are 100 degrees apart.
    """
    turns = [100 * i % 360 for i in range(rng.randint(14, 28))]
    return "M" + "".join("l" if t < 120 else "r" if 180 <= t < 270 else "q" for t in turns) + "Rxon"


def transit_peptide(rng: Random) -> str:
    """Start of plastid proteins: rich in S, T and A, without acid, cut at [VI]-X-[AC]-A."""
    return "MA" + "t" * rng.randint(28, 48) + rng.choice("VI") + "x" + rng.choice("AC") + "A"


def nuclear_import(rng: Random) -> str:
    """One basic cluster as that of SV40, or two, ten to twelve residues apart."""
    if rng.random() < 0.3:
        return "KR" + "x" * rng.randint(10, 12) + "bKbKb"
    return rng.choice(("PKKbRKb", "KKbKb", "KRxRb", "PxxKRbKb"))


def nuclear_export(rng: Random) -> str:
    """Four large hydrophobic residues, the last two one apart."""
    return "L" + "x" * rng.randint(2, 3) + "o" + "x" * rng.randint(2, 3) + "LxL"


def peroxisomal_start(rng: Random) -> str:
    """The second, rarer signal of peroxisomes, near the start."""
    return (
        "M" + "x" * rng.randint(2, 10) + "R" + rng.choice("LVI") + "xxxxx" + rng.choice("HQ") + "L"
    )


def membrane_helix(rng: Random, length: int = 21) -> str:
    """A helix that spans a membrane, with aromatic residues at its ends."""
    return "w" + "h" * (length - 3 + rng.randint(0, 2)) + "w"


def lysosomal_tail(rng: Random) -> str:
    """Short cytosolic end behind a membrane helix: YXX and a bulky residue, or two leucines."""
    return "bb" + "x" * rng.randint(4, 10) + rng.choice(("GYxxo", "axxxLL", "axxxLI"))


def lipid_anchor(rng: Random) -> str:
    """End of membrane proteins that are prenylated: a basic stretch, then CAAX."""
    return "bbxbb" + "x" * rng.randint(1, 3) + "C" + "oo" + rng.choice("MSQ")
