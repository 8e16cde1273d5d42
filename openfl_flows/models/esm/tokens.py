"""ESM-2's tokens: one for each residue, between a first and a last one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CLS, PAD, EOS, UNKNOWN, MASK = 0, 1, 2, 3, 32
LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO"
"""Residues in the order of their tokens, which begin with 4."""
VOCABULARY = (
    "<cls>", "<pad>", "<eos>", "<unk>", *LETTERS, ".", "-", "<null_1>", "<mask>",
)  # fmt: skip
"""Of all ESM-2 models (transformers' ``vocab.txt``)."""

_TOKEN_OF = np.full(256, UNKNOWN, dtype=np.int64)
_TOKEN_OF[np.frombuffer(LETTERS.encode(), dtype=np.uint8)] = 4 + np.arange(len(LETTERS))


class Tokens(NamedTuple):
    """A padded batch of sequences.

    Attributes:
        ids: (B, L) int64.
        residues: (B, L) whether a token is a residue.
    """

    ids: Tensor
    residues: Tensor

    @property
    def attention(self) -> Tensor | None:
        """(B, L) what may be looked at; None where nothing is padding, which is quicker."""
        real = self.ids != PAD
        return None if bool(real.all()) else real.long()

    def to(self, device: str) -> "Tokens":
        """The same on another device."""
        return Tokens(self.ids.to(device), self.residues.to(device))


def tokenize(sequences: Sequence[str]) -> Tokens:
    """Pad sequences to the longest of them, with the two tokens around each.

    Args:
        sequences: B sequences in upper case; letters that ESM-2 does not have are unknown to it.
    """
    num_tokens = max(map(len, sequences)) + 2
    ids = np.full((len(sequences), num_tokens), PAD, dtype=np.int64)
    residues = np.zeros(ids.shape, dtype=bool)
    for row, sequence in enumerate(sequences):
        end = len(sequence) + 1
        ids[row, 0], ids[row, end] = CLS, EOS
        ids[row, 1:end] = _TOKEN_OF[np.frombuffer(sequence.encode(), dtype=np.uint8)]
        residues[row, 1:end] = True
    return Tokens(torch.from_numpy(ids), torch.from_numpy(residues))


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Batches of sequences of like lengths, so that little is padding.

    Args:
        lengths: Of the sequences.
        max_tokens: Of a batch, padding included; a longer sequence is a batch of its own.

    Returns:
        Positions of each batch's sequences, the longest first: what memory is needed is known at
        once.
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batches[-1][0]] if batches else 0
        if batches and (len(batches[-1]) + 1) * (longest + 2) <= max_tokens:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches
