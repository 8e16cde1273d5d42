"""What defines a DiGress network and its diffusion: sizes, steps, noise, numerics."""

from dataclasses import dataclass, replace
from typing import Literal

from openfl_flows.data.vocabulary import check_vocabulary

Numerics = Literal["corrected", "published"]
Transition = Literal["marginal", "uniform"]


@dataclass(frozen=True, kw_only=True)
class DigressConfig:
    """Sizes and choices of one DiGress network (Vignac et al., ICLR 2023, arXiv 2209.14734).

    All parties of a federation must hold the same values: they define both the parameters'
    shapes and the noise that the model learns to remove.

    Attributes:
        vocabulary: atom classes in order, elements alone or with a formal charge (``N+``).
        max_atoms: largest number of heavy atoms; the widest graph.
        num_layers: graph-transformer layers.
        dx: width of node states.
        de: width of pair states.
        dy: width of the graph state.
        num_heads: sets the scale 1/sqrt(dx / num_heads) of the per-channel attention only.
        ff_x: hidden width of the feed-forward block of nodes.
        ff_e: the same of pairs.
        ff_y: the same of the graph state; the published networks have 2048 whatever was configured.
        mlp_x: hidden width of the input and output blocks of nodes.
        mlp_e: the same of pairs.
        mlp_y: the same of the graph state.
        dropout: dropout after every sub-block.
        diffusion_steps: T; noise levels are 0..T.
        transition: what noise converges to: the data's marginals, or the uniform distribution.
        extra_features: feed cycle counts, Laplacian spectrum, charge, valency and weight.
        edge_loss_weight: weight of the bond cross-entropy beside the atoms'.
        max_weight: mass in Dalton that scales the weight feature to about 1.
        numerics: "corrected", or "published": as the published implementation computes it,
            faults included, to compare with published checkpoints and figures.
    """

    vocabulary: tuple[str, ...] = ("C", "N", "O", "F")
    max_atoms: int = 9
    num_layers: int = 5
    dx: int = 256
    de: int = 64
    dy: int = 64
    num_heads: int = 8
    ff_x: int = 256
    ff_e: int = 128
    ff_y: int = 2048
    mlp_x: int = 256
    mlp_e: int = 128
    mlp_y: int = 128
    dropout: float = 0.1
    diffusion_steps: int = 500
    transition: Transition = "marginal"
    extra_features: bool = True
    edge_loss_weight: float = 5.0
    max_weight: float = 150.0
    numerics: Numerics = "corrected"

    def __post_init__(self) -> None:
        """Refuse values that no network can be built from.

        Raises:
            ValueError: naming the key, its value and what was expected.
        """
        widths = ("max_atoms", "num_layers", "dx", "de", "dy", "num_heads", "ff_x", "ff_e")
        for key in (*widths, "ff_y", "mlp_x", "mlp_e", "mlp_y", "diffusion_steps"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; expected at least 1")
        check_vocabulary(self.vocabulary)
        if self.dx % self.num_heads:
            raise ValueError(f"dx is {self.dx}; expected a multiple of num_heads={self.num_heads}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}; expected a value in [0, 1)")
        if self.edge_loss_weight < 0.0:
            raise ValueError(f"edge_loss_weight is {self.edge_loss_weight}; expected at least 0")
        if self.max_weight <= 0.0:
            raise ValueError(f"max_weight is {self.max_weight}; expected a mass above 0 Dalton")
        if self.transition not in ("marginal", "uniform"):
            raise ValueError(f"transition is {self.transition!r}; expected marginal or uniform")
        if self.numerics not in ("corrected", "published"):
            raise ValueError(f"numerics is {self.numerics!r}; expected corrected or published")

    @property
    def corrected(self) -> bool:
        """True unless the published implementation's numerics are asked for."""
        return self.numerics == "corrected"

    @classmethod
    def default(cls) -> "DigressConfig":
        """The published default: 5 layers, 4,611,977 parameters."""
        return cls()

    @classmethod
    def small(cls) -> "DigressConfig":
        """A network for CPUs: 4 layers, about 830,000 parameters, no dropout."""
        return cls(
            num_layers=4, dx=64, de=32, dy=32, num_heads=4, ff_x=128, ff_e=64,
            mlp_x=128, mlp_e=64, mlp_y=64, dropout=0.0,
        )  # fmt: skip

    @classmethod
    def qm9_no_h(cls) -> "DigressConfig":
        """The published QM9 configuration without hydrogens: 9 layers, 8,163,721 parameters."""
        return cls(num_layers=9)


def regressor_config(config: DigressConfig) -> DigressConfig:
    """The configuration of the regressor that guides a denoiser built from `config`.

    Guidance differentiates the regressor with respect to its input graph; the extra features
    are not differentiable, so the regressor goes without.
    """
    return replace(config, extra_features=False)
