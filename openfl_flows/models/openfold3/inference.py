"""Prediction by OpenFold3's own inference runner, which loads an exported checkpoint strictly.

Nothing leaves the machine unless it is asked for: the runner's default, to send every sequence to a
public server for its alignment, is off, and its cache of weights is not created.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from openfold3.entry_points.experiment_runner import InferenceExperimentRunner
from openfold3.entry_points.validator import InferenceExperimentConfig
from openfold3.projects.of3_all_atom.config.inference_query_format import InferenceQuerySet

from openfl_flows.models.openfold3.checkpoint import save_inference
from openfl_flows.models.openfold3.config import OpenFold3Config
from openfl_flows.models.openfold3.randomness import seeded
from openfl_flows.state import State

_CHUNK = 1024  # of OpenFold3's preset for predictions


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One predicted structure.

    Attributes:
        name: The query's name.
        sample: Its number among the query's predictions, from 1.
        file: Its mmCIF, pLDDT (0 to 100) as B-factors.
        confidence: OpenFold3's summary, e.g. ``avg_plddt``, ``ptm``, ``sample_ranking_score``.
    """

    name: str
    sample: int
    file: Path
    confidence: Mapping[str, Any]


def predict(
    state: State,
    network: OpenFold3Config,
    queries: InferenceQuerySet,
    out: Path,
    *,
    seed: int = 42,
    msa_server: bool = False,
) -> list[Prediction]:
    """Predict every query, ``network.rollout_samples`` times in ``network.rollout_steps`` steps.

    Args:
        state: The weights, which the runner reads from a checkpoint in the public format.
        network: What the weights are of. Kernels of a GPU are used where there is one.
        queries: What to predict.
        out: Where the runner writes: ``QUERY/seed_SEED/*_model.cif``, in place of earlier ones, and
            confidences beside them.
        seed: Of conformers and noise.
        msa_server: Let the runner send the sequences to the public ColabFold server.

    Returns:
        The predictions, the best ranked of each query first.

    Raises:
        ValueError: The weights are of another network, or a query failed.
    """
    for name in queries.queries:
        # What an earlier run left is not what this one predicts.
        for file in (out / name / f"seed_{seed}").glob("*_model.cif"):
            file.unlink()
    on_gpu = torch.cuda.is_available()
    # As OpenFold3 predicts: a large complex in chunks, and its heads on the processor.
    config = replace(network, chunk_size=network.chunk_size or _CHUNK)
    config = config if on_gpu else replace(config, kernels="torch")
    with _no_traces() as folder, seeded(seed):
        checkpoint = folder / "model.pt"
        save_inference(state, network, checkpoint)
        runner = InferenceExperimentRunner(
            InferenceExperimentConfig(
                inference_ckpt_path=checkpoint,
                model_update={**config.update(), "presets": ["predict"]},
                experiment_settings={
                    "use_msa_server": msa_server,
                    "use_templates": False,
                    "seeds": [seed],
                    "output_dir": out,
                },
                data_module_args={"num_workers": 0},
                pl_trainer_args={
                    "accelerator": "gpu" if on_gpu else "cpu",
                    "devices": 1,
                    "enable_checkpointing": False,
                },
                output_writer_settings={"write_full_confidence_scores": False},
            )
        )
        runner.setup()
        runner.run(queries)
        runner.cleanup()
    return [p for name in queries.queries for p in _ranked(out, name, seed, runner.log_dir)]


def _ranked(out: Path, name: str, seed: int, logs: Path) -> list[Prediction]:
    folder = out / name / f"seed_{seed}"
    found = []
    for file in sorted(folder.glob("*_model.cif")):
        stem = file.name.removesuffix("_model.cif")
        confidence = json.loads((folder / f"{stem}_confidences_aggregated.json").read_text())
        sample = int(stem.rpartition("_")[2])
        found.append(Prediction(name=name, sample=sample, file=file, confidence=confidence))
    if not found:
        raise ValueError(f"query {name}: OpenFold3 could not predict it; see {logs}")
    return sorted(found, key=lambda p: -float(p.confidence["sample_ranking_score"]))


@contextlib.contextmanager
def _no_traces() -> Iterator[Path]:
    """A folder for the time being, in which OpenFold3's cache is, and not in the user's home.

    Variables that it sets in the environment are as before afterwards.
    """
    names = ("OPENFOLD_CACHE", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="openfl-flows-") as folder:
        os.environ["OPENFOLD_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
