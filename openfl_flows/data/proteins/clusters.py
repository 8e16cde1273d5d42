"""Clusters of proteins with like sequences, found without a program outside Python.

Three steps, each stricter and dearer than the one before:

1. Two proteins that share two words of six residues on one diagonal (the same distance apart in
   both, not overlapping) are looked at. Words are written in twelve groups of residues that replace
   each other often, so that a word survives I for V or K for R; words of very many proteins are
   passed over. The double hit is that of Altschul et al. (1997); the reduced alphabet is in the
   manner of Murphy, Wallqvist and Levy (2000).
2. The words are extended without gaps; pairs whose BLOSUM62 score is below 40 are dropped.
3. The rest is aligned with gaps (X-drop, BLOSUM62, a gap of n costs 10 + n). A pair is alike if the
   identical residues of that local alignment are at least the given share of the **shorter**
   sequence: the identity of CD-HIT (Li and Godzik 2006), which a common domain alone does not reach
   in long proteins.

Alike pairs are joined by single linkage: no pair that was found alike is in two clusters, but two
proteins of a cluster need not be alike.

What is found and what is missed: of pairs that differ by substitutions alone, at random places and
by random residues, these shares were found alike at ``identity`` 0.25 (100 pairs each):

========  ====  ====  ====  ====  ====
residues  30 %  40 %  50 %  60 %  70 % identical
========  ====  ====  ====  ====  ====
150          2     7    45    88   100
300          4    36    86   100   100
600         14    69    98   100   100
========  ====  ====  ====  ====  ====

Real families, in which some stretches are conserved and one relative leads to another, are found
lower: of 3,000 proteins of DeepLoc, words of five residues, at several times the cost, gave about
6 % more pairs at 0.3, and 2,505 clusters for 2,510. Remote homologs, which need profiles or
structures, are missed, and so are relatives by a short domain. So clusters keep near relatives
together; that no homolog is at two sites they do not promise. MMseqs2 or PSI-CD-HIT find more: name
their clusters in the headers and deal by that attribute.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
from biotite.sequence import LetterAlphabet, ProteinSequence
from biotite.sequence.align import (
    KmerAlphabet,
    KmerTable,
    SubstitutionMatrix,
    align_local_gapped,
    align_local_ungapped,
    get_sequence_identity,
)
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from openfl_flows.data.array_cache import cache_key, load_arrays, store_arrays

_log = logging.getLogger(__name__)

WORD = 6
"""Residues of a word."""
GROUPS = ("A", "ST", "C", "DE", "FY", "G", "H", "ILMV", "KR", "NQ", "P", "W")
"""Residues that replace each other often: the letters of words."""
_COMMON = 200
"""Proteins with one word from which on it is passed over, or one in a hundred if these are more."""
_UNGAPPED_DROP, _UNGAPPED_SCORE = 20, 40
_GAPPED_DROP, _GAP = 60, (-11, -1)
_METHOD = 1
"""Number of this way to cluster, for what is kept on disk."""

_MASKED = 255
_BITS = 20
_POSITION = (1 << _BITS) - 1


def cluster_sequences(
    names: Sequence[str],
    sequences: Sequence[str],
    *,
    identity: float,
    cache: Path | None = None,
) -> list[str]:
    """Name the cluster of each protein: the first, in sorted order, of the names in it.

    The order of the proteins changes nothing. Time grows with the square of their number: 13,362
    proteins of DeepLoc (480 residues on average) took two minutes of one processor core, 3,000 of
    them eight seconds.

    Args:
        names: N distinct names.
        sequences: N sequences of letters; other letters than those of BLOSUM62 count as unknown
            and U and O as C and K.
        identity: Identical residues over the length of the shorter sequence, above 0 and at most 1,
            from which on two sequences are alike. Equal sequences always are.
        cache: Folder where the clusters of a set of proteins are kept for the next time.

    Returns:
        N names of clusters.

    Raises:
        ValueError: A name occurs twice, or `identity` is out of range.
    """
    if not 0 < identity <= 1:
        raise ValueError(f"identity is {identity}, expected above 0 and at most 1")
    if len(set(names)) != len(names):
        raise ValueError("a name of a protein occurs twice, expected distinct names")
    if cache is None:
        return _cluster(names, sequences, identity)
    order = sorted(range(len(names)), key=names.__getitem__)
    content = json.dumps([(names[i], sequences[i]) for i in order]).encode()
    key = cache_key(hashlib.sha256(content).digest(), {"identity": identity, "method": _METHOD})
    path = cache / f"clusters-{key}.npz"
    kept = load_arrays(path)
    if kept is None:
        clusters = _cluster([names[i] for i in order], [sequences[i] for i in order], identity)
        store_arrays(path, {"clusters": np.array(clusters)})
    else:
        clusters = [str(cluster) for cluster in kept["clusters"]]
    named = {names[i]: cluster for i, cluster in zip(order, clusters, strict=True)}
    return [named[name] for name in names]


def alike_pairs(sequences: Sequence[str], *, identity: float) -> Iterator[tuple[int, int, float]]:
    """All pairs of proteins that are found alike, as :func:`cluster_sequences` finds them.

    Args:
        sequences: N sequences of letters.
        identity: As for :func:`cluster_sequences`.

    Yields:
        Two positions, the lower one first, and the identity of the two; 1 for equal sequences.
    """
    known = [sequence.translate(_LETTERS) for sequence in sequences]
    distinct = sorted(set(known))
    members: dict[str, list[int]] = {}
    for position, sequence in enumerate(known):
        members.setdefault(sequence, []).append(position)
    for same in members.values():
        yield from ((i, j, 1.0) for i, j in combinations(same, 2))
    residues = [ProteinSequence(sequence) for sequence in distinct]
    for first, second, seed in _candidates(residues):
        found = _identity(residues[first], residues[second], seed)
        if found >= identity:
            for pair in product(members[distinct[first]], members[distinct[second]]):
                yield min(pair), max(pair), found


def _cluster(names: Sequence[str], sequences: Sequence[str], identity: float) -> list[str]:
    known = [sequence.translate(_LETTERS) for sequence in sequences]
    distinct = sorted(set(known))
    if len(distinct) >= 1000:
        _log.info("clustering %d sequences", len(distinct))
    sets = DisjointSet(range(len(distinct)))
    residues = [ProteinSequence(sequence) for sequence in distinct]
    for i, j, seed in _candidates(residues):
        if not sets.connected(i, j) and _identity(residues[i], residues[j], seed) >= identity:
            sets.merge(i, j)
    root = {sequence: sets[i] for i, sequence in enumerate(distinct)}
    first: dict[int, str] = {}
    for name, sequence in sorted(zip(names, known, strict=True)):
        first.setdefault(root[sequence], name)
    return [first[root[sequence]] for sequence in known]


def _candidates(
    residues: Sequence[ProteinSequence],
) -> Iterable[tuple[int, int, tuple[int, int]]]:
    """Pairs i < j to align, with a position in each to start from; the most alike first."""
    alphabet = KmerAlphabet(LetterAlphabet("ABCDEFGHIJKL"), WORD)
    words, positions = _words([sequence.code for sequence in residues], alphabet)
    table = KmerTable.from_kmer_selection(alphabet, positions, words)
    best: dict[tuple[int, int], tuple[int, int, int]] = {}
    for i, (word, position) in enumerate(zip(words, positions, strict=True)):
        for j, p, q in _double_hits(table.match_kmer_selection(position, word), i):
            score = align_local_ungapped(
                *(residues[i], residues[j], _MATRIX, (p, q), _UNGAPPED_DROP),
                score_only=True,
                check_matrix=False,
            )
            if score >= _UNGAPPED_SCORE:
                best[i, j] = max(best.get((i, j), (0, 0, 0)), (score, p, q))
    for (i, j), (_, p, q) in sorted(best.items(), key=lambda each: (-each[1][0], each[0])):
        yield i, j, (p, q)


def _words(
    codes: Sequence[NDArray[np.uint8]], alphabet: KmerAlphabet
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.uint32]]]:
    """Words of each sequence that are to be looked up, and where they begin; each word once."""
    words, positions = [], []
    for code in codes:
        groups = _GROUP_OF[code]
        if len(groups) < WORD:
            words.append(np.zeros(0, dtype=np.int64))
            positions.append(np.zeros(0, dtype=np.uint32))
            continue
        masked = np.lib.stride_tricks.sliding_window_view(groups == _MASKED, WORD).any(axis=1)
        found = alphabet.create_kmers(np.where(groups == _MASKED, 0, groups).astype(np.uint8))
        found[masked] = -1
        word, first = np.unique(found, return_index=True)
        words.append(word[word >= 0])
        positions.append(first[word >= 0].astype(np.uint32))
    counts = np.bincount(np.concatenate(words or [np.zeros(0, np.int64)]), minlength=len(alphabet))
    shared = (counts > 1) & (counts <= max(_COMMON, len(codes) // 100))
    for i, word in enumerate(words):
        words[i], positions[i] = word[shared[word]], positions[i][shared[word]]
    return words, positions


def _double_hits(matches: NDArray[np.uint32], i: int) -> list[tuple[int, int, int]]:
    """A later sequence and a position in both for each diagonal with two separate words.

    Args:
        matches: (M, 3) position in sequence i, number of the other sequence, position in it.
        i: Number of the sequence that was looked up.
    """
    matches = matches[matches[:, 1] > i]
    if not len(matches):
        return []
    own, other, there = matches.astype(np.int64).T
    diagonal = there - own + (1 << (_BITS - 1))
    keys = np.sort((((other << _BITS) | diagonal) << _BITS) | own)
    starts = np.flatnonzero(np.diff(keys >> _BITS, prepend=-1))
    ends = np.append(starts[1:], len(keys)) - 1
    apart = (keys[ends] & _POSITION) - (keys[starts] & _POSITION) >= WORD
    middle = keys[(starts + ends)[apart] // 2]
    p = middle & _POSITION
    q = p + ((middle >> _BITS) & _POSITION) - (1 << (_BITS - 1))
    return list(zip((middle >> 2 * _BITS).tolist(), p.tolist(), q.tolist(), strict=True))


def _identity(first: ProteinSequence, second: ProteinSequence, seed: tuple[int, int]) -> float:
    alignment = align_local_gapped(first, second, _MATRIX, seed, _GAPPED_DROP, _GAP, max_number=1)[
        0
    ]
    return float(get_sequence_identity(alignment, mode="shortest"))


_MATRIX = SubstitutionMatrix.std_protein_matrix()
_SYMBOLS: Sequence[str] = ProteinSequence.alphabet.get_symbols()


class _Letters(dict[int, str]):
    """What each letter is to BLOSUM62; X where it knows none."""

    def __missing__(self, letter: int) -> str:
        return "X"


_LETTERS = _Letters({ord(s): s for s in _SYMBOLS if s != "*"} | {ord("U"): "C", ord("O"): "K"})
_GROUP_OF = np.array(
    [next((g for g, group in enumerate(GROUPS) if s in group), _MASKED) for s in _SYMBOLS],
    dtype=np.uint8,
)
