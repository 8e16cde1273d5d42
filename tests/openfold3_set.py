"""Real structures as a prepared set, from the data beside the checkout."""

import json
from pathlib import Path

from openfl_flows.data.structures.set import CACHE, FORMAT, RECORD


def link_set(shared: Path, folder: Path) -> Path:
    """The seven prepared structures of the shared data under the names of a prepared set."""
    source = shared / "structures"
    folder.mkdir(parents=True)
    for name, target in (
        ("structure_files", source / "prep" / "structure_files"),
        ("reference_mols", source / "prep" / "reference_mols"),
        ("alignment_arrays", source / "cache" / "alignment_arrays"),
        (CACHE, source / "cache" / "train_cache.json"),
    ):
        (folder / name).symlink_to(target)
    (folder / RECORD).write_text(json.dumps({"format": FORMAT}))
    return folder


TINY = {
    "size": "tiny",
    "diffusion_samples": 2,
    "num_recycles": 1,
    "mini_rollout_steps": 2,
    "rollout_steps": 10,
    "rollout_samples": 1,
    "msa_rows": 8,
}
"""The smallest network, with as little diffusion as trains."""
