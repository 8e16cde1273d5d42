"""Embeddings of a frozen encoder, computed once and kept on disk."""

import hashlib
import logging
from collections.abc import Callable, Sequence

import torch
from transformers import EsmModel

from openfl_flows.data.embedding_store import Embedding, EmbeddingStore
from openfl_flows.models.esm.network import embed
from openfl_flows.models.esm.tokens import batches_by_length, tokenize
from openfl_flows.models.precision import Precision, in_precision

_log = logging.getLogger(__name__)

_STORED = 256
"""Embeddings that are stored at once: what a kill can cost."""


def embed_sequences(
    sequences: Sequence[str],
    encoder: Callable[[], EsmModel],
    *,
    digest: str,
    pooling: str | None,
    max_tokens: int,
    precision: Precision,
    device: str,
    store: EmbeddingStore | None,
) -> list[Embedding]:
    """Embeddings of sequences, each taken from the store or computed.

    Args:
        sequences: What the encoder sees.
        encoder: Gives ESM-2; called only if something is to be computed.
        digest: Of its weights.
        pooling: As for :func:`openfl_flows.models.esm.network.embed`.
        max_tokens: Of a batch on a GPU. On a CPU each sequence goes alone, which is as fast, and
            its embedding depends on no other.
        precision: Of matrix products.
        device: Where to compute.
        store: Where embeddings are kept; None to compute them all.

    Returns:
        For each sequence (D,), or (L, D) without pooling.
    """
    kind = f"{digest} {pooling} {precision}"
    keys = [hashlib.sha256(f"{kind} {sequence}".encode()).hexdigest() for sequence in sequences]
    found = store.get(list(dict.fromkeys(keys))) if store is not None else {}
    missing = {key: s for key, s in zip(keys, sequences, strict=True) if key not in found}
    if missing:
        _log.info("%d of %d sequences are embedded", len(missing), len(sequences))
        model = encoder().to(device).eval()
        names, texts = list(missing), list(missing.values())
        unsaved: dict[str, Embedding] = {}
        most = 1 if torch.device(device).type == "cpu" else max_tokens
        for batch in batches_by_length([len(text) for text in texts], most):
            arrays = _embed(model, [texts[i] for i in batch], pooling, precision, device)
            unsaved |= dict(zip((names[i] for i in batch), arrays, strict=True))
            if store is not None and len(unsaved) >= _STORED:
                store.put(unsaved)
                found |= unsaved
                unsaved = {}
        if store is not None:
            store.put(unsaved)
        found |= unsaved
    return [found[key] for key in keys]


@torch.no_grad()
def _embed(
    encoder: EsmModel, texts: list[str], pooling: str | None, precision: Precision, device: str
) -> list[Embedding]:
    tokens = tokenize(texts).to(device)
    with in_precision(precision, device):
        embedded = embed(encoder, tokens, pooling)
    if pooling is None:
        parts = torch.split(embedded, [len(text) for text in texts])
        return [rows.cpu().numpy() for rows in parts]
    return list(embedded.cpu().numpy())
