"""Tasks that are real but train in seconds."""

from typing import Any

from openfl_flows.data.source import MoleculeSource
from openfl_flows.learners.digress import DigressTraining
from openfl_flows.learners.digress_task import DigressSampling, DigressTask
from openfl_flows.models.digress import DigressConfig

NETWORK = DigressConfig(
    num_layers=1, dx=16, de=8, dy=8, num_heads=2, ff_x=16, ff_e=8, ff_y=16, mlp_x=16, mlp_e=8,
    mlp_y=8, dropout=0.1, diffusion_steps=20,
)  # fmt: skip


def digress(sites: tuple[str, ...] = ("site-1", "site-2"), **options: Any) -> DigressTask:
    """DiGress with a few thousand parameters on 200 molecules, dropout included."""
    defaults: dict[str, Any] = {
        "sites": sites,
        "network": NETWORK,
        "training": DigressTraining(batch_size=32, micro_batch=16, lr=1e-3),
        "data": MoleculeSource(limit=200),
        "sampling": DigressSampling(num=8, chain_frames=5),
    }
    return DigressTask(**{**defaults, **options})


OVERRIDES = (
    "model.network.num_layers=1",
    "model.network.dx=16",
    "model.network.de=8",
    "model.network.dy=8",
    "model.network.num_heads=2",
    "model.network.ff_x=16",
    "model.network.ff_e=8",
    "model.network.ff_y=16",
    "model.network.mlp_x=16",
    "model.network.mlp_e=8",
    "model.network.mlp_y=8",
    "model.network.diffusion_steps=20",
    "model.training.batch_size=32",
    "model.training.micro_batch=16",
    "model.sampling.num=8",
    "model.sampling.steps=null",
    "model.sampling.chain_frames=5",
    "data.limit=200",
)
"""The same on the command line."""
