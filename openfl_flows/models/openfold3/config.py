"""OpenFold3's configuration: three sizes, what fine-tuning changes, and anything else by key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ml_collections import ConfigDict as OpenFold3Settings
from openfold3.projects.of3_all_atom.project_entry import ModelUpdate, OF3ProjectEntry
from pydantic import ConfigDict

Size = Literal["tiny", "small", "published"]
Stage = Literal["structure", "confidence"]
Kernels = Literal["torch", "triton", "cueq", "deepspeed"]

CONFIDENCE_HEADS = tuple(
    f"aux_heads.{head}."
    for head in ("pairformer_embedding", "pde", "plddt", "experimentally_resolved", "pae")
)
"""What the confidence stage trains, by the beginning of its parameters' names."""

_KERNELS = {
    "triton": "use_triton_triangle_kernels",
    "cueq": "use_cueq_triangle_kernels",
    "deepspeed": "use_deepspeed_evo_attention",
}


@dataclass(frozen=True, kw_only=True)
class OpenFold3Config:
    """Which OpenFold3 is trained; its graph, heads and losses are always the published ones.

    Attributes:
        size: ``tiny`` (0.4 M parameters) and ``small`` (9 M) for processors; ``published`` (368 M).
        stage: ``structure`` trains everything; ``confidence`` trains the confidence heads alone,
            with the rest frozen, so that only they travel.
        diffusion_samples: Noised copies of a structure in each training step (published 48, and
            32 for fine-tuning).
        num_recycles: Up to this many extra passes through the trunk, drawn for each sample.
        mini_rollout_steps: Diffusion steps of the rollout that trains the confidence heads.
        rollout_steps: Diffusion steps of a prediction. With fewer than 10 atoms stay far apart.
        rollout_samples: Structures per prediction; the most confident is taken.
        msa_rows: Rows of the alignment that each pass sees.
        checkpointing: Recompute activations block by block instead of keeping them.
        loss_chunk: Noised copies whose losses are computed at once, the rest recomputed; None for
            all of them.
        chunk_size: Rows of the pair representation that a prediction computes at once; None for
            all of them.
        kernels: Of attention and triangles on a GPU; ``torch`` runs everywhere.
        custom: Any other key of OpenFold3's model configuration, nested as it is.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    size: Size = "tiny"
    stage: Stage = "structure"
    diffusion_samples: int = 48
    num_recycles: int = 3
    mini_rollout_steps: int = 20
    rollout_steps: int = 200
    rollout_samples: int = 5
    msa_rows: int = 1024
    checkpointing: bool = False
    loss_chunk: int | None = None
    chunk_size: int | None = None
    kernels: Kernels = "torch"
    custom: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse counts below one, and keys that OpenFold3 does not have."""
        least = {
            "diffusion_samples": 1, "num_recycles": 0, "mini_rollout_steps": 1,
            "rollout_steps": 1, "rollout_samples": 1, "msa_rows": 1, "loss_chunk": 1,
            "chunk_size": 1,
        }  # fmt: skip
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ValueError(f"network.{name}={value}, expected at least {lowest}")
        self.settings()

    def update(self) -> dict[str, Any]:
        """``model_update`` of OpenFold3's own entry points: presets and changed keys."""
        return {
            "presets": [],
            "custom": _merged(_merged(_SIZES[self.size], self._own()), self.custom),
        }

    def settings(self) -> OpenFold3Settings:
        """The whole configuration, as OpenFold3's modules take it.

        Raises:
            ValueError: ``custom`` has a key that OpenFold3 lacks, or a value of another type.
        """
        try:
            return OF3ProjectEntry().get_model_config_with_update(ModelUpdate(**self.update()))
        except (KeyError, TypeError, AttributeError) as error:
            reason = str(error.args[0] if error.args else error).partition("\n")[0]
            reason = reason.partition(" Other fields present")[0]
            raise ValueError(
                f"network.custom={dict(self.custom)}: not OpenFold3's configuration: {reason}"
            ) from None

    def _own(self) -> dict[str, Any]:
        chosen = {key: name == self.kernels for name, key in _KERNELS.items()}
        return {
            "settings": {
                "blocks_per_ckpt": 1 if self.checkpointing else None,
                "ckpt_intermediate_steps": self.checkpointing,
                "train_confidence_only": self.stage == "confidence",
                "memory": {"train": chosen, "eval": {**chosen, "chunk_size": self.chunk_size}},
            },
            "architecture": {
                "shared": {
                    "num_recycles": self.num_recycles,
                    "diffusion": {
                        "no_samples": self.diffusion_samples,
                        "no_mini_rollout_steps": self.mini_rollout_steps,
                        "no_full_rollout_steps": self.rollout_steps,
                        "no_full_rollout_samples": self.rollout_samples,
                    },
                },
                "msa": {
                    "msa_module_embedder": {
                        "min_subsampled_all_msa": self.msa_rows,
                        "max_subsampled_all_msa": self.msa_rows,
                    }
                },
                "loss_module": {"diffusion": {"chunk_size": self.loss_chunk}},
            },
        }


def _size(
    *, single: int, pair: int, heads: int, token: int, blocks: int, depth: int
) -> dict[str, Any]:
    """The published graph with other widths and depths.

    Args:
        single: Width of the single representation.
        pair: Width of the pair representation.
        heads: Attention heads of pairs; those of singles divide ``single`` and ``token``.
        token: Width of a token in the diffusion module.
        blocks: Blocks of the trunk's pairformer.
        depth: Blocks of every other stack.
    """
    triangles = {
        "c_hidden_mul": pair,
        "c_hidden_pair_att": pair // heads,
        "no_heads_pair": heads,
        "transition_n": 2,
    }
    pairformer = {
        **triangles, "c_hidden_pair_bias": single // heads, "no_heads_pair_bias": heads,
    }  # fmt: skip
    atoms = {"no_blocks": max(1, depth // 2), "no_heads": 2, "c_hidden": single // 2}
    return {
        "architecture": {
            # Widths are references: every other place that names them follows.
            "shared": {"c_s": single, "c_z": pair},
            "input_embedder": {
                "atom_attn_enc": {
                    "c_atom": single, "c_atom_pair": 8, "c_token": single, **atoms,
                }
            },
            "template": {
                "c_t": 16,
                "template_pair_stack": {
                    "no_blocks": 1, "c_hidden_tri_att": 8, "c_hidden_tri_mul": 16, "no_heads": 2,
                },
            },
            "msa": {
                "msa_module_embedder": {"c_m": pair},
                "msa_module": {
                    "no_blocks": max(1, depth // 2), "c_hidden_msa_att": 4, "c_hidden_opm": 8,
                    "no_heads_msa": 2, **triangles,
                },
            },
            "pairformer": {"no_blocks": blocks, **pairformer},
            "diffusion_module": {
                "diffusion_module": {"c_token": token},
                "diffusion_conditioning": {"c_fourier_emb": 2 * pair},
                "atom_attn_enc": dict(atoms),
                "diffusion_transformer": {
                    "no_blocks": depth, "no_heads": heads, "c_hidden": token // heads,
                },
                "atom_attn_dec": dict(atoms),
            },
            "heads": {
                "pairformer_embedding": {
                    "pairformer": {"no_blocks": max(1, depth // 2), **pairformer},
                }
            },
        },
    }  # fmt: skip


_SIZES: dict[str, dict[str, Any]] = {
    "tiny": _size(single=32, pair=16, heads=2, token=64, blocks=2, depth=2),
    "small": _size(single=128, pair=64, heads=4, token=256, blocks=6, depth=4),
    "published": {},
}


def _merged(mapping: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``mapping`` with nested ``changes``."""
    merged = dict(mapping)
    for key, change in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(change, Mapping):
            merged[key] = _merged(old, change)
        else:
            merged[key] = change
    return merged
