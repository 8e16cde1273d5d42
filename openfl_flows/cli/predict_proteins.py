"""predict, of a run of ESM-2: classes or values of the proteins in a FASTA file, as CSV."""

import argparse
import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from openfl_flows.data.proteins.fasta import Record
    from openfl_flows.data.proteins.residues import Seen
    from openfl_flows.data.proteins.source import ProteinSource
    from openfl_flows.learners.esm_task import EsmTask
    from openfl_flows.ops.run import RunDirectory
    from openfl_flows.state import State

UNSEEN = "?"
"""Stands for a residue that the model did not see, since the protein is too long for it."""


def predict_proteins(run: "RunDirectory", task: "EsmTask", options: argparse.Namespace) -> None:
    """Predict every protein of ``options.query`` and write ``options.out``.

    Args:
        run: A finished run.
        task: Its task.
        options: Of the command line.

    Raises:
        ValueError: The file, the run or an option cannot be used.
    """
    from openfl_flows.atomic import replacing
    from openfl_flows.data.proteins.fasta import PRED, read_fasta

    _check(options)
    path: Path = options.query
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected proteins as FASTA")
    source = replace(task.data, path=str(path))
    records = {record.name: record for record in read_fasta(path, default_part=PRED)}
    seen, left_out = _as_seen(source, records.values())
    out: Path = options.out or run.path / "predictions" / f"{_stem(path)}.csv"
    if out.is_dir():
        raise ValueError(f"--out={out} is a folder, expected a file to write, such as .csv")
    state = _weights(run, options.weights)
    task = replace(task, training=replace(task.training, device=_device(task, options.device)))
    rows = task.predict(state, [own.sequence for _, own in seen])
    with replacing(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_columns(source))
        writer.writerows(_rows(source, [record for record, _ in seen], rows))
    print(_told(seen, left_out))
    print(f"written to {out}")


def _check(options: argparse.Namespace) -> None:
    """Refuse what is said of structures."""
    if options.query is None:
        raise ValueError("expected PROTEINS.fasta after a run of ESM-2")
    for name in ("sequence", "smiles", "size", "steps", "samples", "seed", "msa_server"):
        if getattr(options, name) not in (None, False, []):
            key = name.replace("_", "-")
            raise ValueError(f"--{key} is of OpenFold3, and this is a run of ESM-2")


def _as_seen(
    source: "ProteinSource", records: Iterable["Record"]
) -> "tuple[list[tuple[Record, Seen]], list[str]]":
    """What the model sees, and who is left out and why.

    Raises:
        ValueError: A protein is refused, or none is left.
    """
    from openfl_flows.data.proteins.rejections import Rejection

    kept: list[tuple[Record, Seen]] = []
    left_out = []
    for record in records:
        seen = source.as_seen(record)
        if isinstance(seen, Rejection):
            left_out.append(f"line {seen.line}, {seen.name}: {seen.reason}")
        else:
            kept.append((record, seen))
    if not kept:
        raise ValueError(
            f"{source.path}: nothing to predict, all {len(left_out)} are left out, the first: "
            f"{left_out[0]}"
        )
    return kept, left_out


def _weights(run: "RunDirectory", asked: str | None) -> "State":
    """The model that the run tested, or the one that is asked for.

    Raises:
        ValueError: The run is not finished, or has no such model.
    """
    if not run.finished:
        raise ValueError(
            f"{run.path}: the run is not finished, expected one that is: resume={run.path}"
        )
    average = run.average()
    if asked == "ema":
        if average is None:
            raise ValueError(f"--weights is ema, but {run.path} keeps no moving average")
        return average
    tested_last = run.tested_digest == run.record["digest"]
    state = run.model() if tested_last or asked == "model" else run.best_model()
    assert state is not None
    return state


def _device(task: "EsmTask", asked: str | None) -> str:
    """Where to compute.

    Raises:
        ValueError: There is no such device.
    """
    from openfl_flows.models.precision import check_device

    name = asked or task.training.device
    check_device("--device" if asked else "model.training.device", name)
    return name


def _columns(source: "ProteinSource") -> tuple[str, ...]:
    if source.kind == "sequence_to_class":
        return ("name", "predicted", *source.classes)
    return ("name", "predicted")


def _rows(
    source: "ProteinSource", records: Sequence["Record"], predicted: "Iterable[NDArray[np.float32]]"
) -> Iterator[tuple[str, ...]]:
    for record, values in zip(records, predicted, strict=True):
        if source.kind == "sequence_to_value":
            yield record.name, f"{values[0]:.6g}"
        elif source.kind == "sequence_to_class":
            numbers = (f"{value:.4g}" for value in values.tolist())
            yield record.name, source.classes[values.argmax()], *numbers
        else:
            yield record.name, _letters(source, record, values)


def _letters(source: "ProteinSource", record: "Record", values: "NDArray[np.float32]") -> str:
    """A class for each residue of the whole protein."""
    from openfl_flows.data.proteins.residues import kept_positions, without_stop

    length = len(without_stop(record.sequence))
    letters = [UNSEEN] * length
    for position, chosen in zip(
        kept_positions(length, source.max_length), values.argmax(1), strict=True
    ):
        letters[position] = source.classes[chosen]
    return "".join(letters)


def _told(seen: "Sequence[tuple[Record, Seen]]", left_out: Sequence[str]) -> str:
    """Counts in words."""
    counts = (
        (sum(own.cropped > 0 for _, own in seen), "cropped in the middle"),
        (sum(own.replaced for _, own in seen), "letters replaced by X"),
    )
    told = [f"{len(seen):,} proteins", *(f"{count:,} {what}" for count, what in counts if count)]
    if left_out:
        told.append(f"warning: {len(left_out):,} left out, the first: {left_out[0]}")
    return "; ".join(told)


def _stem(path: Path) -> str:
    """Name of a file without what says its format."""
    return path.name.removesuffix(".gz").rpartition(".")[0] or path.name
