"""Proteins of a few residues, and ESM-2 small enough to learn them in seconds."""

from pathlib import Path
from typing import Any

import numpy as np

from openfl_flows.data.proteins.fasta import Record, write_fasta
from openfl_flows.data.proteins.sites import ProteinPartition
from openfl_flows.data.proteins.source import Kind, ProteinSource
from openfl_flows.learners.esm_task import EsmTask, ValueScale
from openfl_flows.learners.esm_training import EsmTraining
from openfl_flows.models.esm.config import EsmModelConfig, Lora

CLASSES: dict[Kind, tuple[str, ...]] = {
    "sequence_to_class": ("Nucleus", "Plastid", "Golgi"),
    "sequence_to_value": (),
    "residue_to_class": ("H", "L"),
}
SIGNALS = ("KKRK", "WFYW", "DEED")
"""What the sequences of each class are full of."""


def proteins(kind: Kind = "sequence_to_class", num: int = 60, seed: int = 0) -> list[Record]:
    """Two thirds to train on, then validation and test, with two kingdoms, classes by turns."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(num):
        label = i % 3
        plain = rng.choice(list("AGSTPLIV"), rng.integers(4, 24))
        sequence = "".join(rng.permutation([*plain, *SIGNALS[label] * 2]))
        target, mask = CLASSES["sequence_to_class"][label], None
        if kind == "sequence_to_value":
            target = str(5.0 + 2.0 * label)
        elif kind == "residue_to_class":
            target = "".join("L" if letter in "AGSTPLIV" else "H" for letter in sequence)
            mask = "".join(rng.permutation([*"01", *rng.choice(list("01"), len(sequence) - 2)]))
        part = ("train", "train", "train", "train", "val", "test")[i // 3 % 6]
        kingdom = {"KINGDOM": ("Fungi", "Metazoa", "Plants")[i // 18 % 3]}
        found.append(Record(f"p{i:03d}", sequence, target, part, mask, kingdom, 2 * i + 1))
    return found


def esm(
    path: Path,
    kind: Kind = "sequence_to_class",
    *,
    network: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    **options: Any,
) -> EsmTask:
    """The task on the proteins in a file, which is written if it is not there."""
    if not path.exists():
        write_fasta(path, proteins(kind))
    shape = {"size": "tiny", "hidden": 16, "dropout": 0.0, "lora": Lora(dropout=0.0)}
    how = {"batch_size": 8, "lr": 3e-3, "cache": None}
    source = {"path": str(path), "kind": kind, "classes": CLASSES[kind]}
    scale = ValueScale(mean=7.0, std=2.0) if kind == "sequence_to_value" else ValueScale()
    defaults: dict[str, Any] = {
        "sites": ("a", "b"),
        "network": EsmModelConfig(**{**shape, **(network or {})}),
        "training": EsmTraining(**{**how, **(training or {})}),
        "data": ProteinSource(**{**source, **(data or {})}),
        "partition": ProteinPartition(),
        "value": scale,
        "seed": 3,
    }
    return EsmTask(**{**defaults, **options})
