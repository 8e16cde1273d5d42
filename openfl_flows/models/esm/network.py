"""ESM-2 with its head, and which of its tensors travel."""

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoConfig, EsmModel

from openfl_flows.models.esm.config import SHAPES, EsmModelConfig, Shape
from openfl_flows.models.esm.fused import fuse
from openfl_flows.models.esm.tokens import VOCABULARY, Tokens
from openfl_flows.seeds import derived_seed
from openfl_flows.state import Spec, TensorSpec

_UNUSED = ("contact_head.", "pooler.")
"""Parts of a checkpoint that no task here uses; they never train and never travel."""

_BASE, _ADAPTER = ".base_layer.", ".lora_"
"""How peft names the weights that an adapter is added to, and the adapter."""


class ProteinModel(nn.Module):
    """An encoder, pooling, and a head of two layers.

    Args:
        encoder: ESM-2 without a pooling layer, or None where embeddings are given.
        config: What is built.
        num_outputs: Classes, or 1 for a value.
        per_residue: Whether each residue has outputs, or each sequence.
    """

    def __init__(
        self,
        encoder: EsmModel | None,
        config: EsmModelConfig,
        *,
        num_outputs: int,
        per_residue: bool,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.Linear(config.shape.width, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, num_outputs),
        )
        self._pooling = None if per_residue else config.pooling

    def forward(self, tokens: Tokens) -> Tensor:
        """Outputs, (B, C) of sequences or (R, C) of all residues of the batch in their order."""
        outputs: Tensor = self.head(self.embed(tokens))
        return outputs

    def embed(self, tokens: Tokens) -> Tensor:
        """What the head sees: (B, D) of sequences or (R, D) of all residues of the batch."""
        assert self.encoder is not None
        return embed(self.encoder, tokens, self._pooling)


def embed(encoder: EsmModel, tokens: Tokens, pooling: str | None) -> Tensor:
    """The last layer's residues, pooled.

    Args:
        encoder: ESM-2.
        tokens: B sequences.
        pooling: ``mean`` over residues or ``cls``, the first token; None for all residues.

    Returns:
        (B, D), or (R, D) of all residues of the batch, float32.
    """
    found = encoder(input_ids=tokens.ids, attention_mask=tokens.attention)
    hidden_BLD: Tensor = found.last_hidden_state.float()
    if pooling is None:
        return hidden_BLD[tokens.residues]
    if pooling == "cls":
        return hidden_BLD[:, 0]
    weight_BL1 = tokens.residues.unsqueeze(-1).to(hidden_BLD.dtype)
    return (hidden_BLD * weight_BL1).sum(1) / weight_BL1.sum(1)


def build_encoder(config: EsmModelConfig, *, seed: int) -> EsmModel:
    """ESM-2 in float32, with its weights.

    Raises:
        ValueError: The weights cannot be had, or are of another model.
    """
    if config.weights is None:
        with torch.random.fork_rng():
            torch.manual_seed(derived_seed(seed, "encoder"))
            encoder = EsmModel(config.settings(), add_pooling_layer=False)
    else:
        encoder = _pretrained(config)
    return _prepared(encoder, config)


def build(
    config: EsmModelConfig, *, num_outputs: int, per_residue: bool, seed: int
) -> ProteinModel:
    """The model as it begins; what does not train is frozen.

    Without an encoder where ``config.mode`` is ``frozen``: the head is trained on embeddings.

    Raises:
        ValueError: As :func:`build_encoder`.
    """
    encoder = None if config.mode == "frozen" else build_encoder(config, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "head"))
        return _assembled(encoder, config, num_outputs=num_outputs, per_residue=per_residue)


def outline(config: EsmModelConfig, *, num_outputs: int, per_residue: bool) -> ProteinModel:
    """The model without memory for its parameters: their names and shapes."""
    with torch.device("meta"):
        encoder = None
        if config.mode != "frozen":
            encoder = _prepared(EsmModel(config.settings(), add_pooling_layer=False), config)
        return _assembled(encoder, config, num_outputs=num_outputs, per_residue=per_residue)


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What trains, and so travels, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def model_spec(model: nn.Module) -> Spec:
    """Names and shapes of what travels; no copy is made."""
    return Spec(
        TensorSpec(
            name=name,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            reduce="mean",
        )
        for name, tensor in sorted(trained_tensors(model).items())
    )


def encoder_digest(encoder: nn.Module) -> str:
    """SHA-256 of the weights that embeddings follow from, without adapters, in hexadecimal."""
    digest = hashlib.sha256()
    named = ((name.replace(_BASE, "."), p) for name, p in encoder.named_parameters())
    for name, tensor in sorted(named, key=lambda each: each[0]):
        if not name.startswith(_UNUSED) and _ADAPTER not in name:
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().numpy().data)
    return digest.hexdigest()


def merged_encoder(encoder: nn.Module) -> dict[str, Tensor]:
    """The encoder's state dict under the names of transformers, with adapters added to it."""
    merged = copy.deepcopy(encoder)
    for name, module in list(merged.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, last = name.rpartition(".")
            setattr(merged.get_submodule(parent), last, module.get_base_layer())
    return {name: tensor.cpu().clone() for name, tensor in merged.state_dict().items()}


def _assembled(
    encoder: EsmModel | None, config: EsmModelConfig, *, num_outputs: int, per_residue: bool
) -> ProteinModel:
    # The head first: it is the same in every mode.
    model = ProteinModel(encoder, config, num_outputs=num_outputs, per_residue=per_residue)
    if encoder is not None and config.mode == "lora":
        lora = config.lora
        adapters = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.targets),
        )
        model.encoder = inject_adapter_in_model(adapters, encoder)
    return model


def _prepared(encoder: EsmModel, config: EsmModelConfig) -> EsmModel:
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(config.mode == "full" and not name.startswith(_UNUSED))
    if config.checkpointing:
        encoder.activation_checkpointing_enable()
    return fuse(encoder)


def _pretrained(config: EsmModelConfig) -> EsmModel:
    source = {"pretrained_model_name_or_path": config.weights, "revision": config.revision}
    where = f"network.weights={config.weights}"
    # What it says of unused parts of a checkpoint is no news; what matters is checked below.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        settings = AutoConfig.from_pretrained(**source)
        _check(settings, config, where)
        encoder, found = EsmModel.from_pretrained(
            **source,
            config=settings,
            add_pooling_layer=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{where}: no model, neither in a folder of that name in {Path.cwd()} nor on the hub: "
            f"{reason}"
        ) from None
    # transformers gives random values to what a checkpoint lacks.
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(_UNUSED))
    if missing:
        raise ValueError(f"{where}: tensor {missing[0]!r} is missing, expected all of ESM-2")
    if found["mismatched_keys"]:
        name, theirs, ours = sorted(found["mismatched_keys"])[0]
        raise ValueError(f"{where}: tensor {name!r} is {tuple(theirs)}, expected {tuple(ours)}")
    return encoder


def _check(settings: Any, config: EsmModelConfig, where: str) -> None:
    """Refuse a checkpoint that is not the ESM-2 of the plan."""
    kind = getattr(settings, "position_embedding_type", None)
    if settings.model_type != "esm" or kind != "rotary":
        raise ValueError(
            f"{where}: a model of type {settings.model_type!r} with positions {kind!r}, expected "
            "ESM-2, of type 'esm' with 'rotary'"
        )
    shape = Shape(settings.num_hidden_layers, settings.hidden_size, settings.num_attention_heads)
    if shape != config.shape:
        known = [size for size, other in SHAPES.items() if other == shape]
        raise ValueError(
            f"{where} has {shape.layers} layers of width {shape.width} with {shape.heads} heads, "
            f"expected {config.shape.layers}, {config.shape.width} and {config.shape.heads} as in "
            f"network.size={config.size}" + (f"; it is {known[0]}" if known else "")
        )
    file = Path(str(config.weights)) / "vocab.txt"
    words = tuple(file.read_text().split()) if file.is_file() else VOCABULARY
    if words != VOCABULARY or settings.vocab_size != len(VOCABULARY):
        raise ValueError(f"{where}: another vocabulary than ESM-2's {len(VOCABULARY)} tokens")
