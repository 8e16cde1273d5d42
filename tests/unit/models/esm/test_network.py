import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EsmForMaskedLM, EsmModel

from openfl_flows.models.esm.config import EsmModelConfig, Lora
from openfl_flows.models.esm.network import (
    build,
    build_encoder,
    embed,
    encoder_digest,
    merged_encoder,
    model_spec,
    outline,
    trained_tensors,
)
from openfl_flows.models.esm.tokens import VOCABULARY, tokenize
from openfl_flows.models.precision import in_precision

TINY = EsmModelConfig(size="tiny", mode="full", hidden=16)
SEQUENCES = ["MKTAYIAKQR", "MGSSHHHHHHSSGLVPRGSHM", "MA"]


def model(**changes):
    options = {"size": "tiny", "hidden": 16, **changes}
    return build(EsmModelConfig(**options), num_outputs=10, per_residue=False, seed=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """ESM-2 as the hub has it: with the language model's head, and the vocabulary beside it."""
    folder = tmp_path_factory.mktemp("esm2")
    torch.manual_seed(7)
    EsmForMaskedLM(TINY.settings()).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    return folder


@pytest.mark.parametrize("pooling", ["mean", "cls", None])
def test_an_embedding_does_not_depend_on_padding(pooling):
    encoder = build_encoder(TINY, seed=0).eval()
    with torch.no_grad():
        together = embed(encoder, tokenize(SEQUENCES), pooling)
        alone = torch.cat([embed(encoder, tokenize([s]), pooling) for s in SEQUENCES])
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_mean_is_over_residues_alone():
    encoder = build_encoder(TINY, seed=0).eval()
    tokens = tokenize(SEQUENCES[:1])
    with torch.no_grad():
        hidden = encoder(input_ids=tokens.ids).last_hidden_state[0]
        assert torch.allclose(embed(encoder, tokens, "mean")[0], hidden[1:-1].mean(0), atol=1e-6)
        assert torch.equal(embed(encoder, tokens, "cls")[0], hidden[0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_computes_what_transformers_does(precision):
    ours = build_encoder(TINY, seed=0).eval()
    theirs = EsmModel(TINY.settings(), add_pooling_layer=False).eval()
    theirs.load_state_dict(ours.state_dict())
    theirs.set_attn_implementation("eager")
    tokens = tokenize(SEQUENCES)
    with torch.no_grad():
        expected = embed(theirs, tokens, None)
        with in_precision(precision, "cpu"):
            found = embed(ours, tokens, None)
    assert torch.allclose(found, expected, atol=1e-5 if precision == "float32" else 0.05)


def test_attention_and_gelu_are_one_kernel_each(monkeypatch):
    called = []
    for name in ("scaled_dot_product_attention", "gelu"):
        kernel = getattr(torch.nn.functional, name)

        def counted(*args, kernel=kernel, name=name, **options):
            called.append((name, args[0].dtype))
            return kernel(*args, **options)

        monkeypatch.setattr(torch.nn.functional, name, counted)
    encoder = build_encoder(TINY, seed=0)
    with in_precision("bfloat16", "cpu"):
        encoder(input_ids=tokenize(SEQUENCES).ids)
    assert called == 2 * [
        ("scaled_dot_product_attention", torch.float32),
        ("gelu", torch.bfloat16),
    ]


@pytest.mark.parametrize("mode", ["frozen", "lora", "full"])
def test_what_travels(mode):
    names = set(trained_tensors(model(mode=mode)))
    head = {f"head.{i}.{kind}" for i in (0, 3) for kind in ("weight", "bias")}
    assert head <= names
    assert not [name for name in names if "contact_head" in name or "inv_freq" in name]
    rest = names - head
    if mode == "frozen":
        assert not rest
    elif mode == "lora":
        assert rest
        assert all(".lora_A." in name or ".lora_B." in name for name in rest)
    else:
        assert "encoder.embeddings.word_embeddings.weight" in rest


@pytest.mark.parametrize("mode", ["frozen", "lora", "full"])
def test_the_outline_has_the_same_spec_without_memory(mode):
    config = EsmModelConfig(size="tiny", mode=mode)
    outlined = outline(config, num_outputs=10, per_residue=False)
    built = build(config, num_outputs=10, per_residue=False, seed=0)
    assert model_spec(outlined) == model_spec(built)
    assert all(tensor.is_meta for tensor in trained_tensors(outlined).values())


@pytest.mark.parametrize(
    ("mode", "parameters"),
    # The head of the tutorial, 1280 -> 256 -> 10; rank 8 on query and value of 33 layers beside it.
    [("frozen", 330_506), ("lora", 330_506 + 33 * 2 * 8 * (1280 + 1280))],
)
def test_what_travels_of_the_published_650m(mode, parameters):
    outlined = outline(EsmModelConfig(size="650M", mode=mode), num_outputs=10, per_residue=False)
    assert sum(tensor.numel() for tensor in trained_tensors(outlined).values()) == parameters


def test_the_650m_has_its_published_size():
    outlined = outline(EsmModelConfig(size="650M", mode="full"), num_outputs=10, per_residue=False)
    encoder = sum(p.numel() for n, p in outlined.encoder.named_parameters() if "contact" not in n)
    # transformers' model with its own head for ten classes has 651,053,471.
    head, contacts = 1280 * 1280 + 1280 + 1280 * 10 + 10, 661
    assert encoder == 651_053_471 - head - contacts


def test_the_same_seed_gives_the_same_model_whatever_was_drawn_before():
    first = model(mode="lora")
    torch.rand(5)
    second = model(mode="lora")
    for name, tensor in trained_tensors(first).items():
        assert torch.equal(tensor, trained_tensors(second)[name]), name


def test_adapters_begin_as_nothing_and_merge_exactly():
    plain, adapted = model(mode="full").eval(), model(mode="lora").eval()
    tokens = tokenize(SEQUENCES)
    assert torch.allclose(plain(tokens), adapted(tokens), atol=1e-6)
    with torch.no_grad():
        for name, tensor in trained_tensors(adapted).items():
            if ".lora_" in name:
                tensor.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    assert not torch.allclose(plain(tokens), adapted(tokens), atol=1e-3)
    merged = EsmModel(TINY.settings(), add_pooling_layer=False)
    merged.load_state_dict(merged_encoder(adapted.encoder))
    with torch.no_grad():
        expected = adapted.embed(tokens)
        assert torch.allclose(embed(merged.eval(), tokens, "mean"), expected, atol=1e-5)


def test_adapters_do_not_change_the_digest_of_the_encoder():
    bare = build_encoder(TINY, seed=9)
    digest = encoder_digest(bare)
    config = EsmModelConfig(size="tiny", mode="lora", lora=Lora(targets=("query", "dense")))
    adapted = build(config, num_outputs=2, per_residue=False, seed=9)
    assert encoder_digest(adapted.encoder) == digest
    with torch.no_grad():
        bare.encoder.layer[0].attention.self.query.weight[0, 0] += 1
    assert encoder_digest(bare) != digest


def test_a_checkpoint_of_the_hub_is_loaded(checkpoint):
    config = EsmModelConfig(size="tiny", weights=str(checkpoint), mode="full")
    encoder = build_encoder(config, seed=0)
    weights = load_file(checkpoint / "model.safetensors")
    name = "encoder.layer.1.output.dense.weight"
    assert torch.equal(encoder.state_dict()[name], weights[f"esm.{name}"])
    reference = EsmForMaskedLM.from_pretrained(checkpoint).eval()
    tokens = tokenize(SEQUENCES[:1])
    with torch.no_grad():
        theirs = reference(input_ids=tokens.ids, output_hidden_states=True).hidden_states[-1]
        ours = encoder.eval()(input_ids=tokens.ids).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-5)


def damaged(checkpoint, tmp_path, *, config=None, drop=None, vocabulary=None):
    content = json.loads((checkpoint / "config.json").read_text()) | (config or {})
    (tmp_path / "config.json").write_text(json.dumps(content))
    weights = load_file(checkpoint / "model.safetensors")
    if drop:
        del weights[drop]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary or VOCABULARY))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"config": {"model_type": "bert"}}, "type 'bert'"),
        ({"config": {"position_embedding_type": "absolute"}}, "positions 'absolute'"),
        ({"config": {"num_hidden_layers": 3}}, "has 3 layers of width 64 with 4 heads"),
        ({"drop": "esm.encoder.layer.1.output.dense.weight"}, "layer.1.output.dense.weight"),
        ({"vocabulary": VOCABULARY[::-1]}, "another vocabulary"),
    ],
)
def test_another_checkpoint_is_refused(checkpoint, tmp_path, damage, message):
    weights = damaged(checkpoint, tmp_path, **damage)
    with pytest.raises(ValueError, match=message) as refused:
        build_encoder(EsmModelConfig(size="tiny", weights=weights), seed=0)
    assert "network.weights=" in str(refused.value)


def test_a_size_that_does_not_fit_is_told_which_would(checkpoint):
    config = EsmModelConfig(size="small", weights=str(checkpoint))
    with pytest.raises(ValueError, match="it is tiny"):
        build_encoder(config, seed=0)


def test_weights_that_are_not_there(tmp_path):
    config = EsmModelConfig(size="tiny", weights=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="no model, neither in a folder"):
        build_encoder(config, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 0}, "network.hidden=0"),
        ({"dropout": 1.0}, "network.dropout=1.0"),
        ({"revision": "main"}, "without network.weights"),
    ],
)
def test_what_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EsmModelConfig(**changes)


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        found = model(mode="full", checkpointing=checkpointing, dropout=0.0).train()
        found(tokenize(SEQUENCES)).square().sum().backward()
        gradients.append(copy.deepcopy(found.encoder.embeddings.word_embeddings.weight.grad))
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-6)
