"""Which ESM-2, what of it trains, and the head on it."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import ConfigDict
from transformers import EsmConfig

from openfl_flows.models.esm.tokens import MASK, PAD, VOCABULARY

Size = Literal["tiny", "small", "8M", "35M", "150M", "650M", "3B", "15B"]
Mode = Literal["frozen", "lora", "full"]


class Shape(NamedTuple):
    """Layers, width and attention heads of an encoder."""

    layers: int
    width: int
    heads: int


SHAPES: dict[Size, Shape] = {
    "tiny": Shape(2, 64, 4),
    "small": Shape(4, 128, 8),
    "8M": Shape(6, 320, 20),
    "35M": Shape(12, 480, 20),
    "150M": Shape(30, 640, 20),
    "650M": Shape(33, 1280, 20),
    "3B": Shape(36, 2560, 40),
    "15B": Shape(48, 5120, 40),
}
"""The published sizes (Lin et al. 2023, doi:10.1126/science.ade2574), and two for processors."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters ``W + (alpha / rank) B A`` (Hu et al. 2022, arXiv:2106.09685).

    Attributes:
        rank: Rows of A.
        alpha: Numerator of the factor.
        dropout: Of what enters A.
        targets: Which linear layers, by the end of their names: ``query``, ``key``, ``value``, or
            ``dense`` for all others.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[Literal["query", "key", "value", "dense"], ...] = ("query", "value")

    def __post_init__(self) -> None:
        """Refuse what is no adapter."""
        if self.rank < 1 or not self.targets:
            raise ValueError(
                f"network.lora has rank={self.rank}, targets={list(self.targets)}, expected a rank "
                "of at least 1 and at least one target"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"network.lora.dropout={self.dropout}, expected 0 or more, below 1")


@dataclass(frozen=True, kw_only=True)
class EsmModelConfig:
    """An encoder and its head.

    Attributes:
        size: Of the encoder.
        weights: A folder in transformers' format or a name on the model hub; None for random
            weights from the seed.
        revision: Of the name on the hub: a commit, so that every site has the same weights.
        mode: ``frozen``: only the head trains, on embeddings that are computed once; ``lora``:
            adapters and head; ``full``: everything. Only what trains travels.
        pooling: What the head sees of a sequence: the ``mean`` over its residues, or the first
            token (``cls``). A task on residues sees each.
        hidden: Width of the head's hidden layer.
        dropout: In the head.
        checkpointing: Recompute activations layer by layer instead of keeping them.
        lora: The adapters, where ``mode`` is ``lora``.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    size: Size = "8M"
    weights: str | None = None
    revision: str | None = None
    mode: Mode = "frozen"
    pooling: Literal["mean", "cls"] = "mean"
    hidden: int = 256
    dropout: float = 0.1
    checkpointing: bool = False
    lora: Lora = field(default_factory=Lora)

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.hidden < 1:
            raise ValueError(f"network.hidden={self.hidden}, expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"network.dropout={self.dropout}, expected 0 or more, below 1")
        if self.revision is not None and self.weights is None:
            raise ValueError(f"network.revision={self.revision} without network.weights")

    @property
    def shape(self) -> Shape:
        """Of the encoder."""
        return SHAPES[self.size]

    def settings(self) -> EsmConfig:
        """The encoder as transformers describes it; all ESM-2 models differ in shape alone."""
        layers, width, heads = self.shape
        return EsmConfig(
            vocab_size=len(VOCABULARY),
            pad_token_id=PAD,
            mask_token_id=MASK,
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            max_position_embeddings=1026,
            layer_norm_eps=1e-5,
            position_embedding_type="rotary",
            emb_layer_norm_before=False,
            token_dropout=True,
        )
