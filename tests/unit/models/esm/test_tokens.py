from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import EsmTokenizer
from transformers.models.esm.configuration_esm import get_default_vocab_list

from openfl_flows.models.esm.tokens import LETTERS, VOCABULARY, batches_by_length, tokenize

PUBLISHED = Path(__file__).parents[5] / "shared/data/esm2_t6_8M_tokenizer_config/vocab.txt"

sequences = st.lists(st.text(LETTERS, min_size=1, max_size=30), min_size=1, max_size=6)


def test_the_vocabulary_is_that_of_transformers():
    assert get_default_vocab_list() == VOCABULARY


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published vocabulary is not there")
def test_the_vocabulary_is_the_published_one():
    assert tuple(PUBLISHED.read_text().split()) == VOCABULARY


@given(sequences)
def test_tokens_are_those_of_the_tokenizer(tmp_path_factory, batch):
    file = tmp_path_factory.getbasetemp() / "vocab.txt"
    file.write_text("\n".join(VOCABULARY))
    tokenizer = EsmTokenizer(str(file))
    expected = tokenizer(batch, padding=True, return_tensors="pt")
    tokens = tokenize(batch)
    assert torch.equal(tokens.ids, expected["input_ids"])
    mask = tokens.attention
    assert torch.equal(
        torch.ones_like(tokens.ids) if mask is None else mask, expected["attention_mask"]
    )
    assert tokens.residues.sum(1).tolist() == [len(sequence) for sequence in batch]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200))
def test_batches_hold_every_sequence_once_within_the_limit(lengths, max_tokens):
    batches = batches_by_length(lengths, max_tokens)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        size = len(batch) * (max(lengths[i] for i in batch) + 2)
        assert size <= max_tokens or len(batch) == 1
