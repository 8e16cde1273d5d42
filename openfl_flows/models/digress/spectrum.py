"""Laplacian eigenvalues and eigenvectors, and connected components, of padded graphs.

Shape legend: B graphs, N padded nodes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_NUM_VALUES = 5
_NUM_VECTORS = 2
_PAST_THE_END = 2.0
_SAME_EIGENVALUE = 1e-3
_ODD_ENOUGH = 1e-4


class Spectrum(NamedTuple):
    """Spectral features of a batch.

    Attributes:
        num_components: connected components, (B,).
        not_largest: 1 on nodes outside the largest component, (B, N).
        eigenvalues: the 5 smallest non-zero eigenvalues of D - A over n, (B, 5).
        eigenvectors: node entries that belong to the first 2 of them, (B, N, 2).
    """

    num_components: Tensor
    not_largest: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor


def spectrum(adjacency_BNN: Tensor, mask_BN: Tensor) -> Spectrum:
    """Spectral features that depend neither on padding nor on the order of nodes.

    An eigenvector is only known up to its sign, and up to a rotation among equal eigenvalues. Of a
    simple eigenvalue the sign with a positive sum of cubes is taken, or the absolute values where
    that sum is zero; of a repeated one the root mean square over its eigenvectors. Eigenvalues past
    the last read 2, above any real one (they are at most 1).
    """
    width = mask_BN.shape[1]
    sizes_BN = _component_sizes(adjacency_BNN, mask_BN)
    components_B = torch.where(mask_BN, 1 / sizes_BN.clamp_min(1), 0.0).sum(1).round()
    outside_BN = (sizes_BN < sizes_BN.amax(1, keepdim=True)) & mask_BN
    # Padding sorts behind every eigenvalue of a graph, which is at most n.
    laplacian_BNN = _laplacian(adjacency_BNN, mask_BN, 4.0 * width).double()
    values_BN, vectors_BNN = torch.linalg.eigh(laplacian_BNN)
    num_B1 = mask_BN.sum(1, keepdim=True)
    real_BN = torch.arange(width, device=mask_BN.device) < num_B1
    vectors_BNN = _settle(values_BN, vectors_BNN, real_BN)
    scaled_BN = torch.where(real_BN, values_BN / num_B1.clamp_min(1), _PAST_THE_END)
    return Spectrum(
        num_components=components_B,
        not_largest=outside_BN.float(),
        eigenvalues=_behind(scaled_BN[:, None], components_B, _NUM_VALUES, _PAST_THE_END)[:, 0]
        .clamp_min(0.0)
        .float(),
        eigenvectors=_behind(vectors_BNN, components_B, _NUM_VECTORS, 0.0).float(),
    )


def published_spectrum(adjacency_BNN: Tensor, mask_BN: Tensor) -> Spectrum:
    """The same as the published implementation computes it.

    Eigenvalues of padding (2 N / n) show up behind those of small graphs; eigenvectors are as
    LAPACK returns them; a node counts as outside the largest component where the first
    eigenvector, rounded to 3 decimals, differs from its most frequent value. The published filler
    of padding in that vote is random, so the result is too where all nodes differ; here padding
    votes for distinct values that lose against any repeated value.
    """
    width = mask_BN.shape[1]
    laplacian_BNN = _laplacian(adjacency_BNN, mask_BN, 2.0 * width)
    values_BN, vectors_BNN = torch.linalg.eigh(laplacian_BNN)
    scaled_BN = values_BN / mask_BN.sum(1, keepdim=True)
    components_B = (scaled_BN < 1e-5).sum(1)
    vectors_BNN = vectors_BNN * mask_BN.unsqueeze(-1)
    filler_N = -2.0 - torch.arange(width, device=mask_BN.device)
    first_BN = torch.where(mask_BN, vectors_BNN[:, :, 0].round(decimals=3), filler_N)
    vote_B1 = first_BN.mode(1, keepdim=True).values
    return Spectrum(
        num_components=components_B.float(),
        not_largest=((first_BN != vote_B1) & mask_BN).float(),
        eigenvalues=_behind(scaled_BN[:, None], components_B, _NUM_VALUES, _PAST_THE_END)[:, 0],
        eigenvectors=_behind(vectors_BNN, components_B, _NUM_VECTORS, 0.0),
    )


def _laplacian(adjacency_BNN: Tensor, mask_BN: Tensor, filler: float) -> Tensor:
    """D - A, with `filler` on the diagonal of padding."""
    diagonal_BN = torch.where(mask_BN, adjacency_BNN.sum(-1), filler)
    return torch.diag_embed(diagonal_BN) - adjacency_BNN


def _behind(columns_BMN: Tensor, start_B: Tensor, num: int, filler: float) -> Tensor:
    """`num` columns of each graph from its column `start`, `filler` past the end, (B, M, num)."""
    padded = torch.nn.functional.pad(columns_BMN, (0, num), value=filler)
    index_BK = start_B.long()[:, None] + torch.arange(num, device=start_B.device)
    index_BMK = index_BK.clamp_max(padded.shape[-1] - 1)[:, None].expand(-1, padded.shape[1], -1)
    return padded.gather(-1, index_BMK)


def _component_sizes(adjacency_BNN: Tensor, mask_BN: Tensor) -> Tensor:
    """Number of nodes in each node's component, (B, N); 0 on padding."""
    reach_BNN = adjacency_BNN + torch.diag_embed(mask_BN.float())
    hops = 1
    while hops < mask_BN.shape[1]:
        reach_BNN = (reach_BNN @ reach_BNN).clamp_max(1.0)
        hops *= 2
    return reach_BNN.sum(-1)


def _settle(values_BN: Tensor, vectors_BNN: Tensor, real_BN: Tensor) -> Tensor:
    """Eigenvectors (columns) freed of LAPACK's choice of sign and basis; 0 for padding's."""
    near_BNN = (values_BN[:, :, None] - values_BN[:, None, :]).abs() < _SAME_EIGENVALUE
    near_BNN = near_BNN & real_BN[:, :, None] & real_BN[:, None, :]
    multiplicity_B1N = near_BNN.sum(1, keepdim=True)
    spread_BNN = vectors_BNN.square() @ near_BNN.to(vectors_BNN) / multiplicity_B1N.clamp_min(1)
    cubes_B1N = vectors_BNN.pow(3).sum(1, keepdim=True)
    signed_BNN = torch.where(
        cubes_B1N.abs() > _ODD_ENOUGH, vectors_BNN * cubes_B1N.sign(), vectors_BNN.abs()
    )
    settled_BNN = torch.where(multiplicity_B1N > 1, spread_BNN.sqrt(), signed_BNN)
    return settled_BNN * real_BN[:, None, :]
