"""Embeddings: one for each sequence, the same whether computed or kept."""

from functools import partial

import numpy as np
import pytest
import torch

from openfl_flows.data.embedding_store import EmbeddingStore
from openfl_flows.models.esm import embeddings
from openfl_flows.models.esm.config import EsmModelConfig
from openfl_flows.models.esm.embeddings import embed_sequences
from openfl_flows.models.esm.network import build_encoder, embed
from openfl_flows.models.esm.tokens import tokenize

SEQUENCES = ["MKTAYIAKQR", "MA", "MGSSHHHHHHSSGLVPRGSHM", "MA", "W"]


@pytest.fixture(scope="module")
def encoder():
    return build_encoder(EsmModelConfig(size="tiny"), seed=0).eval()


def embedded(encoder, sequences=SEQUENCES, **options):
    defaults = {
        "digest": "d",
        "pooling": "mean",
        "max_tokens": 40,
        "precision": "float32",
        "device": "cpu",
        "store": None,
    }
    return embed_sequences(sequences, lambda: encoder, **{**defaults, **options})


@pytest.mark.parametrize("pooling", ["mean", "cls", None])
def test_each_sequence_gets_its_own(encoder, tmp_path, pooling):
    store = EmbeddingStore(tmp_path / "store.sqlite", 64)
    with torch.no_grad():
        expected = [embed(encoder, tokenize([s]), pooling).numpy() for s in SEQUENCES]
    if pooling is not None:
        expected = [array[0] for array in expected]
    for keep in (None, store, store):
        found = embedded(encoder, pooling=pooling, store=keep)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == np.float32
            np.testing.assert_array_equal(one, other)


def test_on_a_cpu_an_embedding_depends_on_no_other(encoder):
    together = embedded(encoder, max_tokens=10**6)
    for sequence, array in zip(SEQUENCES, together, strict=True):
        np.testing.assert_array_equal(embedded(encoder, [sequence])[0], array)


def test_what_is_kept_is_of_one_encoder_pooling_and_precision(encoder, tmp_path):
    store = EmbeddingStore(tmp_path / "store.sqlite", 64)
    other = build_encoder(EsmModelConfig(size="tiny"), seed=1).eval()
    asked = [
        (encoder, {}),
        (other, {"digest": "other"}),
        (encoder, {"pooling": "cls"}),
        (encoder, {"pooling": None}),
        (encoder, {"precision": "bfloat16"}),
    ]
    for _ in range(2):
        for model, options in asked:
            found = embedded(model, store=store, **options)
            for one, two in zip(found, embedded(model, **options), strict=True):
                np.testing.assert_array_equal(one, two)


def test_only_what_is_missing_is_computed(encoder, tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path / "store.sqlite", 64)
    computed = []

    def counted(model, tokens, pooling):
        computed.extend(tokens.residues.sum(1).tolist())
        return embed(model, tokens, pooling)

    monkeypatch.setattr(embeddings, "embed", counted)
    embedded(encoder, SEQUENCES[:2], store=store)
    assert sorted(computed) == [2, 10]
    computed.clear()
    embedded(encoder, store=store)
    assert sorted(computed) == [1, 21]
    computed.clear()
    refuse = partial(pytest.fail, "the encoder was asked for")
    embed_sequences(
        SEQUENCES, refuse, digest="d", pooling="mean", max_tokens=1, precision="float32",
        device="cpu", store=store,
    )  # fmt: skip
    assert not computed


def test_a_kill_costs_few_embeddings(encoder, tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path / "store.sqlite", 64)
    monkeypatch.setattr(embeddings, "_STORED", 2)
    calls = []

    def stops(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return embed(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(embeddings, "embed", stops)
        with pytest.raises(KeyboardInterrupt):
            embedded(encoder, store=store)
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(embeddings, "embed", lambda *a: calls.append(a) or embed(*a))
        embedded(encoder, store=store)
    assert len(calls) == 2


def test_nothing_asked_nothing_done(encoder):
    assert embedded(encoder, []) == []
