"""ESM-2 on one CPU thread, and bytes of a round: ``python -m tests.bench.esm``.

Three parts, each a table in Markdown; named as arguments, only those. Figures are per CPU second of
this process, and the rows of a table take turns batch by batch, so that a shared machine spoils
neither: compare rows, not runs. ``--fasta FILE`` takes lengths from proteins of one's own.
"""

import argparse
import contextlib
import functools
import io
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import EsmForSequenceClassification, EsmModel

from openfl_flows.cli.plan import compose
from openfl_flows.data.embedding_store import EmbeddingStore
from openfl_flows.data.proteins.fasta import Record, read_fasta, write_fasta
from openfl_flows.data.proteins.residues import LETTERS
from openfl_flows.data.proteins.sites import SiteProteins
from openfl_flows.data.proteins.source import Protein
from openfl_flows.learners.base import Budget
from openfl_flows.learners.esm import EsmLearner
from openfl_flows.learners.esm_training import EsmTraining, ProteinTarget
from openfl_flows.models.esm.config import EsmModelConfig, Mode
from openfl_flows.models.esm.embeddings import embed_sequences
from openfl_flows.models.esm.network import build, build_encoder, model_spec, outline
from openfl_flows.models.esm.tokens import Tokens, tokenize
from openfl_flows.models.precision import Precision
from openfl_flows.taskrunner.export import export_workspace
from openfl_flows.taskrunner.rehearsal import rehearse
from tests.fx_processes import launch

CLASSES = tuple(
    compose(("model=esm", "data=proteins", "partition=proteins_iid"))["data"]["classes"]
)
LONGEST = 510
BATCH = 16
MODES: tuple[Mode, ...] = ("frozen", "lora", "full")

Step = Callable[[], object]
"""Trains on, or embeds, the next batch."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--fasta", type=Path, metavar="FILE", help="proteins to take lengths from")
    parser.add_argument("--sequences", type=int, default=2 * BATCH, help="a multiple of 16")
    parser.add_argument("--repeats", type=int, default=1, help="passes, of which medians are shown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    proteins = _proteins(options.fasta, options.sequences)
    for part in options.parts or PARTS:
        PARTS[part](proteins, options.repeats)


def _proteins(fasta: Path | None, number: int) -> list[Protein]:
    """Proteins of at most 510 residues, evenly from a file; random ones of such lengths if none."""
    if number < BATCH or number % BATCH:
        raise SystemExit(f"--sequences={number}, expected a multiple of {BATCH}")
    draw = np.random.default_rng(0)
    if fasta is not None:
        records = read_fasta(fasta, default_part="pred")
        usable = [r.sequence for r in records if len(r.sequence) <= LONGEST]
        chosen = [usable[int(i)] for i in np.linspace(0, len(usable) - 1, number)]
    else:
        # DeepLoc's have a median of 434 residues; 330 is the mean of those up to 510.
        lengths = np.exp(draw.normal(np.log(434), 0.65, 10 * number)).astype(int)
        usable_lengths = lengths[(lengths >= 40) & (lengths <= LONGEST)][:number]
        chosen = ["".join(draw.choice(list(LETTERS[:20]), n)) for n in usable_lengths]
    _print(f"{number} sequences, {sum(map(len, chosen)) / number:.0f} residues on average\n")
    return [_protein(i, sequence, "train") for i, sequence in enumerate(chosen)]


def _protein(number: int, sequence: str, part: str) -> Protein:
    target = number % len(CLASSES)
    record = Record(f"p{number}", sequence, CLASSES[target], part, None, {}, number)
    return Protein(record, sequence, target)


def _training(proteins: Sequence[Protein], repeats: int) -> None:
    """Residues per CPU second of optimizer steps on the whole 8M model."""
    rows: dict[tuple[object, ...], Step] = {
        ("transformers, padded to 512", "float32", attention, "", ""): _padded_step(
            proteins, attention
        )
        for attention in ("sdpa", "eager")
    }
    config = EsmModelConfig(size="8M", mode="full")
    model = build(config, num_outputs=len(CLASSES), per_residue=False, seed=0)
    settings = ((1, 1), (2048, 1), (2048, 8), (8192, 1), (8192, 8))
    for precision in ("float32", "bfloat16"):
        for micro_tokens, bucket in settings:
            training = EsmTraining(
                batch_size=BATCH, micro_tokens=micro_tokens, bucket=bucket, precision=precision
            )
            learner = EsmLearner(
                model,
                ProteinTarget(kind="sequence_to_class", classes=CLASSES),
                training,
                SiteProteins(tuple(proteins), (), {}),
                features=None,
                seed=0,
            )
            name = ("this package", precision, "sdpa", micro_tokens, bucket)
            rows[name] = functools.partial(learner.train, Budget(steps=1), lambda *_: None)
    _print(f"Training at the 8M shape, everything, {BATCH} sequences a step\n")
    columns = ("who", "precision", "attention", "micro_tokens", "bucket")
    _write_rates(columns, rows, proteins, repeats)


def _padded_step(proteins: Sequence[Protein], attention: str) -> Step:
    """What is written in ten lines: transformers' classifier, all batches of one shape."""
    settings = EsmModelConfig(size="8M", mode="full").settings()
    settings.num_labels = len(CLASSES)
    model = EsmForSequenceClassification._from_config(settings, attn_implementation=attention)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, fused=True)
    batches = _batches(proteins)

    def step() -> None:
        batch = next(batches)
        tokens = _padded(batch)
        labels = torch.tensor([protein.target for protein in batch])
        mask = (tokens.ids != settings.pad_token_id).long()
        optimizer.zero_grad()
        model(input_ids=tokens.ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()

    return step


def _embedding(proteins: Sequence[Protein], repeats: int) -> None:
    """Residues per CPU second of the frozen 8M encoder, and a second pass from disk."""
    encoder = build_encoder(EsmModelConfig(size="8M"), seed=0).eval()
    calls: list[object] = []
    encoder.register_forward_hook(lambda *arguments: calls.append(arguments[0]))
    sequences = [protein.sequence for protein in proteins]

    def embed(texts: Sequence[str], precision: Precision, store: EmbeddingStore | None) -> None:
        embed_sequences(
            texts, lambda: encoder, digest="", pooling="mean", max_tokens=1, precision=precision,
            device="cpu", store=store,
        )  # fmt: skip

    def by_batch(precision: Precision) -> Step:
        batches = _batches(proteins)
        return lambda: embed([p.sequence for p in next(batches)], precision, None)

    rows: dict[tuple[object, ...], Step] = {
        ("transformers, padded to 512", "float32"): _padded_embedding(proteins, encoder),
        ("this package, stored nowhere", "float32"): by_batch("float32"),
        ("this package, stored nowhere", "bfloat16"): by_batch("bfloat16"),
    }
    _print("Embedding at the 8M shape, encoder frozen\n")
    _write_rates(("who", "precision"), rows, proteins, repeats)
    passes = []
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddingStore(Path(folder) / "embeddings.sqlite", encoder.config.hidden_size)
        for name in ("first", "second"):
            calls.clear()
            took = _cpu_seconds(lambda: embed(sequences, "float32", store))
            passes.append((name, f"{took:.4f}", len(calls)))
    _print("The same with the cache\n")
    _write_table(("pass", "CPU seconds", "calls of the encoder"), passes)


def _padded_embedding(proteins: Sequence[Protein], encoder: EsmModel) -> Step:
    batches = _batches(proteins)

    @torch.no_grad()
    def step() -> None:
        tokens = _padded(next(batches))
        mask = (tokens.ids != encoder.config.pad_token_id).long()
        encoder(input_ids=tokens.ids, attention_mask=mask)

    return step


def _exchange(*_: object) -> None:
    """Bytes that a site sends in a round at the 650M shape; no weights are made."""
    rows: list[Sequence[object]] = []
    everything = outline(
        EsmModelConfig(size="650M", mode="full"), num_outputs=len(CLASSES), per_residue=False
    )
    whole = 4 * sum(tensor.numel() for tensor in everything.parameters())
    rows.append(("every parameter", "", f"{whole:,}", "1"))
    for mode in MODES:
        config = EsmModelConfig(size="650M", mode=mode)
        spec = model_spec(outline(config, num_outputs=len(CLASSES), per_residue=False))
        size = 4 * sum(math.prod(tensor.shape) for tensor in spec)
        rows.append((mode, len(spec), f"{size:,}", f"{whole / size:,.0f}"))
    _print("650M: bytes from one site to the aggregator in a round, and as many back\n")
    _write_table(("what travels", "tensors", "bytes", "times fewer"), rows)


def _rehearsal(*_: object) -> None:
    """The same, as a federation of processes under mutual TLS records it at the 8M shape."""
    draw = np.random.default_rng(0)
    parts = ("train", "train", "val", "test")
    records = [
        _protein(i, "".join(draw.choice(list(LETTERS[:20]), 40)), parts[i % 4]).record
        for i in range(40)
    ]
    rows = []
    with tempfile.TemporaryDirectory(prefix="esm-bench-") as name:
        folder = Path(name)
        write_fasta(folder / "proteins.fasta", records)
        for model in ("esm", "esm_lora", "esm_full"):
            plan = compose(
                (
                    f"model={model}", "data=fasta", f"data.path={folder}/proteins.fasta",
                    "partition=proteins_iid", "model.training.cache=null", "runtime.quiet=true",
                    "federation.rounds=1", "federation.epochs=null", "federation.steps=1",
                )
            )  # fmt: skip
            export_workspace(plan, folder / model)
            out = folder / f"{model}-parties"
            with contextlib.redirect_stdout(io.StringIO()):  # OpenFL tells of every import
                run = rehearse(folder / model, out=out, quiet=True, launch=launch)
            (round_,) = run.record["rounds"]
            sites = len(round_["sites"])
            sent = (round_[key] // sites for key in ("bytes_up", "bytes_down"))
            rows.append((f"model={model}", *(f"{size:,}" for size in sent)))
    _print("8M: bytes of a site in a round, from run.json of a rehearsal under mutual TLS\n")
    _write_table(("plan", "up", "down"), rows)


PARTS: dict[Literal["training", "embedding", "exchange", "rehearsal"], Any] = {
    "training": _training,
    "embedding": _embedding,
    "exchange": _exchange,
    "rehearsal": _rehearsal,
}


def _batches(proteins: Sequence[Protein]) -> Iterator[Sequence[Protein]]:
    while True:
        for start in range(0, len(proteins), BATCH):
            yield proteins[start : start + BATCH]


def _padded(batch: Sequence[Protein]) -> Tokens:
    tokens = tokenize([*(protein.sequence for protein in batch), LONGEST * "A"])
    return Tokens(tokens.ids[:-1], tokens.residues[:-1])


def _write_rates(
    columns: Sequence[str],
    rows: dict[tuple[object, ...], Step],
    proteins: Sequence[Protein],
    repeats: int,
) -> None:
    """Run all rows in turn; one pass of a row sees every protein once."""
    residues = sum(len(protein.sequence) for protein in proteins)
    rates: dict[tuple[object, ...], list[float]] = {name: [] for name in rows}
    for _ in range(repeats):
        seconds = dict.fromkeys(rows, 0.0)
        for _ in range(len(proteins) // BATCH):
            for name, step in rows.items():
                seconds[name] += _cpu_seconds(step)
        for name, took in seconds.items():
            rates[name].append(residues / took)
    found = {name: statistics.median(values) for name, values in rates.items()}
    first = next(iter(found.values()))
    table = [(*name, f"{rate:,.0f}", f"{rate / first:.2f}") for name, rate in found.items()]
    _write_table((*columns, "residues per CPU second", "ratio"), table)


def _cpu_seconds(work: Step) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _write_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    lines = [columns, ["---"] * len(columns), *rows]
    _print("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n")


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
