"""predict: structures of proteins with their ligands, from a run or a checkpoint of OpenFold3."""

import argparse
import contextlib
import dataclasses
import io
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openfl_flows.cli.results import task_of

if TYPE_CHECKING:
    from openfl_flows.models.openfold3.config import OpenFold3Config
    from openfl_flows.state import State


def add_predict(commands: Any) -> None:
    """Add the command to a parser's."""
    text = "predict structures with a finished run of OpenFold3, or with a checkpoint of it"
    command = commands.add_parser(
        "predict",
        help=text,
        description=f"{text}, by OpenFold3's own inference. Writes mmCIF with confidences, and a "
        "page to look at them. Nothing is sent anywhere, unless --msa-server says so.",
    )
    command.add_argument("source", metavar="RUN|CHECKPOINT", type=Path)
    command.add_argument(
        "query", metavar="QUERY.json", type=Path, nargs="?", help="in OpenFold3's query format"
    )
    command.add_argument(
        "--sequence", action="append", default=[], help="of a protein; may be repeated"
    )
    command.add_argument(
        "--smiles", action="append", default=[], help="of a ligand; may be repeated"
    )
    command.add_argument(
        "--weights",
        choices=("model", "ema"),
        help="the model (a run's default), or its moving average (a checkpoint's)",
    )
    command.add_argument(
        "--size", choices=("tiny", "small", "published"), help="of a checkpoint (published)"
    )
    command.add_argument("--steps", type=int, help="of the diffusion (as in the plan, or 200)")
    command.add_argument("--samples", type=int, help="structures per query (as in the plan, or 5)")
    command.add_argument("--seed", type=int, default=42)
    command.add_argument("--out", type=Path, help="folder to write to (predictions)")
    command.add_argument(
        "--msa-server",
        action="store_true",
        help="send the sequences to the public ColabFold server for their alignments",
    )
    command.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> None:
    if (options.query is None) != bool(options.sequence or options.smiles):
        raise ValueError("expected either QUERY.json, or --sequence and --smiles")
    if options.seed < 0:
        raise ValueError(f"--seed is {options.seed}, expected 0 or more")
    from openfl_flows.models.openfold3.inference import predict
    from openfl_flows.models.openfold3.query import make_query, read_query
    from openfl_flows.report.structures import read_structure, view, write_page

    _quiet()
    if options.query is not None:
        queries = read_query(options.query)
    else:
        queries = make_query(sequences=options.sequence, smiles=options.smiles)
    is_run = options.source.is_dir()
    out = options.out or (options.source if is_run else Path()) / "predictions"
    state, network = _of_run(options) if is_run else _of_checkpoint(options)
    sent = ", sequences are sent to the ColabFold server" if options.msa_server else ""
    print(
        f"{len(queries.queries)} to predict, {network.rollout_samples} times in "
        f"{network.rollout_steps} steps{sent}",
        flush=True,
    )
    # OpenFold3 prints what is printed below, and more.
    with contextlib.redirect_stdout(io.StringIO()):
        found = predict(
            state, network, queries, out, seed=options.seed, msa_server=options.msa_server
        )
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


def _of_run(options: argparse.Namespace) -> "tuple[State, OpenFold3Config]":
    """A run's weights, and what they are of.

    Raises:
        ValueError: It is a run of another task, or has no such weights.
    """
    if options.size is not None:
        raise ValueError("--size is of a checkpoint; a run knows its own")
    from openfl_flows.learners.openfold3_task import OpenFold3Task
    from openfl_flows.ops.files import load_state
    from openfl_flows.ops.run import RunDirectory

    run = RunDirectory.open(options.source)
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
