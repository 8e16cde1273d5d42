"""predict: structures by OpenFold3, from a run or a checkpoint; classes of proteins by ESM-2."""

import argparse
import contextlib
import dataclasses
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openfl_flows.cli.predict_proteins import predict_proteins
from openfl_flows.cli.results import task_of

if TYPE_CHECKING:
    from openfl_flows.models.openfold3.config import OpenFold3Config
    from openfl_flows.ops.run import RunDirectory
    from openfl_flows.state import State

_SEED = 42


def add_predict(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "predict structures with OpenFold3, or classes of proteins with ESM-2"
    command = commands.add_parser(
        "predict",
        help=text,
        description="With a finished run of OpenFold3, or a checkpoint of it: predict structures "
        "by its own inference, and write mmCIF with confidences and a page to look at them. "
        "With a finished run of ESM-2: predict what it learned of the proteins in any FASTA file, "
        "and write CSV. Nothing is sent anywhere, unless --msa-server says so.",
    )
    command.add_argument("source", metavar="RUN|CHECKPOINT", type=Path)
    command.add_argument(
        "query", metavar="QUERY.json|PROTEINS.fasta", type=Path, nargs="?",
        help="in OpenFold3's query format; or, for ESM-2, FASTA, plain or gzip",
    )  # fmt: skip
    command.add_argument(
        "--sequence", action="append", default=[], help="of a protein; may be repeated"
    )
    command.add_argument(
        "--smiles", action="append", default=[], help="of a ligand; may be repeated"
    )
    command.add_argument(
        "--weights",
        choices=("model", "ema"),
        help="the last model (a run's default; of ESM-2 the one that was tested), or its moving "
        "average (a checkpoint's)",
    )
    command.add_argument(
        "--size", choices=("tiny", "small", "published"), help="of a checkpoint (published)"
    )
    command.add_argument("--steps", type=int, help="of the diffusion (as in the plan, or 200)")
    command.add_argument("--samples", type=int, help="structures per query (as in the plan, or 5)")
    command.add_argument("--seed", type=int, help=f"of the diffusion ({_SEED})")
    command.add_argument("--device", help="where ESM-2 computes (as in the plan)")
    command.add_argument(
        "--out", type=Path, help="folder (predictions) or, of ESM-2, CSV file to write"
    )
    command.add_argument(
        "--msa-server",
        action="store_true",
        help="send the sequences to the public ColabFold server for their alignments",
    )
    command.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> None:
    if not options.source.is_dir():
        if options.query is not None and not options.source.exists():
            raise ValueError(f"{options.source}: no such run or checkpoint")
        _predict_structures(options, None)
        return
    from openfl_flows.experiment import Experiment
    from openfl_flows.learners.esm_task import EsmTask
    from openfl_flows.ops.run import RunDirectory

    run = RunDirectory.open(options.source)
    task = Experiment.from_config(run.record["config"]).task
    if isinstance(task, EsmTask):
        predict_proteins(run, task, options)
    else:
        _predict_structures(options, run)


def _predict_structures(options: argparse.Namespace, run: "RunDirectory | None") -> None:
    if (options.query is None) != bool(options.sequence or options.smiles):
        raise ValueError("expected either QUERY.json, or --sequence and --smiles")
    if options.device is not None:
        raise ValueError("--device is of a run of ESM-2; OpenFold3 takes the GPU that there is")
    seed = _SEED if options.seed is None else options.seed
    if seed < 0:
        raise ValueError(f"--seed is {seed}, expected 0 or more")
    from openfl_flows.models.openfold3.inference import predict
    from openfl_flows.models.openfold3.query import make_query, read_query
    from openfl_flows.report.structures import read_structure, view, write_page

    _quiet()
    if options.query is not None:
        queries = read_query(options.query)
    else:
        queries = make_query(sequences=options.sequence, smiles=options.smiles)
    out = options.out or (Path() if run is None else run.path) / "predictions"
    state, network = _of_checkpoint(options) if run is None else _of_run(options, run)
    sent = ", sequences are sent to the ColabFold server" if options.msa_server else ""
    print(
        f"{len(queries.queries)} to predict, {network.rollout_samples} times in "
        f"{network.rollout_steps} steps{sent}",
        flush=True,
    )
    # OpenFold3 prints what is printed below, and more.
    with contextlib.redirect_stdout(io.StringIO()):
        found = predict(state, network, queries, out, seed=seed, msa_server=options.msa_server)
    for one in found:
        said = one.confidence
        print(
            f"{one.file}  pLDDT {said['avg_plddt']:.1f}  ranking {said['sample_ranking_score']:.3f}"
        )
    views = [view(f"{one.name}, sample {one.sample}", read_structure(one.file)) for one in found]
    write_page(views, "Predicted structures", out / "predictions.html")
    print(f"page {out / 'predictions.html'}")


def _quiet() -> None:
    """Keep remarks on this machine off the terminal; importing OpenFold3 turns them on."""
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning_fabric", "openfold3.core.utils.script_utils"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _of_run(options: argparse.Namespace, run: "RunDirectory") -> "tuple[State, OpenFold3Config]":
    """A run's weights, and what they are of.

    Raises:
        ValueError: It is a run of another task, or has no such weights.
    """
    if options.size is not None:
        raise ValueError("--size is of a checkpoint; a run knows its own")
    from openfl_flows.learners.openfold3_task import OpenFold3Task
    from openfl_flows.ops.files import load_state

    task = task_of(run, OpenFold3Task, "which predicts no structures")
    state = load_state(run.path / f"{options.weights or 'model'}.safetensors")
    return state, _sampled(options, task.network)


def _of_checkpoint(options: argparse.Namespace) -> "tuple[State, OpenFold3Config]":
    """A checkpoint's weights, and what they are said to be of.

    Raises:
        ValueError: It is none, or of another size.
    """
    from openfl_flows.models.openfold3.checkpoint import load_weights
    from openfl_flows.models.openfold3.config import OpenFold3Config

    network = _sampled(options, OpenFold3Config(size=options.size or "published"))
    return load_weights(options.source, network, which=options.weights or "ema"), network


def _sampled(options: argparse.Namespace, network: "OpenFold3Config") -> "OpenFold3Config":
    given = {"rollout_steps": options.steps, "rollout_samples": options.samples}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return dataclasses.replace(network, **changes)
