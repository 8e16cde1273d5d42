"""A table or SMILES file of any size made into a store: line by line, in parallel, resumably.

Worker processes encode chunks of rows into shards, each written as a whole or not at all; then the
shards are put one behind another. Whoever is killed goes on from the shards that are there.
Memory does not depend on the size of the file.
"""

import contextlib
import csv
import fcntl
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing.connection import wait as wait_for_exit
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import rdBase

from openfl_flows.data.array_cache import file_key, load_arrays, store_arrays
from openfl_flows.data.molecules import HARTREE_IN_EV, check_options
from openfl_flows.data.smiles import encode_smiles
from openfl_flows.data.store import (
    FLAT,
    MANIFEST,
    REJECTED,
    StoredMolecules,
    StoredRejections,
    open_store,
)
from openfl_flows.data.table import SMILES_SUFFIXES, Row, stream_rows, stream_smiles

ROWS_PER_SHARD = 4096
"""Rows that one worker encodes at a time."""

_VERSION = 1
_FIELDS = ("line", "mol_id", "smiles", "reason")


@dataclass(frozen=True, kw_only=True)
class Parsing:
    """What decides what a file's rows become.

    Attributes:
        vocabulary: Atom classes in order.
        max_atoms: Largest number of heavy atoms, at most 255.
        smiles_column: Name of the column of SMILES; ``smiles`` for a SMILES file.
        target_columns: Names of the label columns, in order.
        hartree_columns: Of these, those in Hartree: converted to eV.
    """

    vocabulary: tuple[str, ...]
    max_atoms: int
    smiles_column: str = "smiles"
    target_columns: tuple[str, ...] = ()
    hartree_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse options that make no sense."""
        check_options(self.vocabulary, self.max_atoms)
        if self.max_atoms > 255:
            raise ValueError(f"max_atoms is {self.max_atoms}, expected at most 255 on disk")


class RawRow(NamedTuple):
    """A row before it is encoded."""

    line: int
    mol_id: str
    smiles: str
    targets: tuple[float, ...]
    uncharacterized: bool


def store_molecules(
    path: Path, folder: Path, parsing: Parsing, *, workers: int | None = None
) -> tuple[StoredMolecules, StoredRejections]:
    """The molecules of a file and its rejected rows, from a store in `folder` made if absent.

    The store is that of the file's content and all options. Several processes may ask at once: one
    makes it, the others wait.

    Args:
        path: A SMILES file (`SMILES_SUFFIXES`), or a CSV table as `read_molecules` takes it.
        folder: Where stores are kept.
        parsing: What rows become.
        workers: Processes that encode; one for each processor unless given.

    Raises:
        ValueError: As `read_molecules`.
        OSError: A file cannot be read or written.
    """
    options = {"version": _VERSION, "rdkit": rdBase.rdkitVersion, **asdict(parsing)}
    options["smiles_file"] = is_smiles_file(path)
    name = f"molecules-{file_key(path, options)}"
    final, parts = folder / name, folder / f"{name}.parts"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f".{name}.lock"):
        if not final.exists():
            parts.mkdir(exist_ok=True)
            num_workers = workers or len(os.sched_getaffinity(0))
            shards = _encode(_rows(path, parsing), parts, parsing, num_workers)
            whole = _merge(parts, shards, path)
            os.replace(whole, final)
        shutil.rmtree(parts, ignore_errors=True)
    return open_store(
        final,
        max_atoms=parsing.max_atoms,
        vocabulary=parsing.vocabulary,
        target_names=parsing.target_columns,
    )


def is_smiles_file(path: Path) -> bool:
    """Whether a file is, by its name, a list of SMILES and no table."""
    return path.name.endswith(SMILES_SUFFIXES)


def _rows(path: Path, parsing: Parsing) -> Iterator[RawRow]:
    rows: Iterator[Row]
    columns = parsing.target_columns
    if is_smiles_file(path):
        rows, columns = stream_smiles(path), ()
    else:
        rows = stream_rows(path, required=(parsing.smiles_column, *columns))
    for row in rows:
        yield RawRow(
            row.line,
            row.cells.get("mol_id", ""),
            row.cells[parsing.smiles_column].strip(),
            tuple(row.number(column) for column in columns),
            "uncharacterized" in row.cells and row.flag("uncharacterized"),
        )


def _encode(rows: Iterator[RawRow], parts: Path, parsing: Parsing, workers: int) -> int:
    """Make every shard that is not there yet; their number."""
    chunks = iter(lambda: list(islice(rows, ROWS_PER_SHARD)), [])
    context = multiprocessing.get_context("fork")
    pending: set[Future[None]] = set()
    num = 0
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        for num, chunk in enumerate(chunks, start=1):
            shard = _shard(parts, num - 1)
            if load_arrays(shard) is not None:
                continue
            pending.add(pool.submit(write_shard, shard, chunk, parsing))
            if len(pending) > 2 * workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        for future in pending:
            future.result()
    return num


def write_shard(shard: Path, rows: list[RawRow], parsing: Parsing) -> None:
    """Encode rows into a file of arrays: of the molecules, and of the rejected rows."""
    kept: list[RawRow] = []
    rejected: list[tuple[int, str, str, str]] = []
    atoms: list[NDArray[np.int8]] = []
    bonds: list[NDArray[np.uint8]] = []
    charged: list[bool] = []
    for row in rows:
        try:
            if row.uncharacterized:
                raise ValueError("flagged uncharacterized")
            a, b, dropped = encode_smiles(
                row.smiles, vocabulary=parsing.vocabulary, max_atoms=parsing.max_atoms
            )
        except ValueError as reason:
            rejected.append((row.line, row.mol_id, row.smiles, str(reason)))
            continue
        ends = np.nonzero(np.triu(b))
        kept.append(row)
        atoms.append(a[a >= 0])
        bonds.append(np.stack((*ends, b[ends]), axis=1).astype(np.uint8))
        charged.append(dropped)
    texts = [np.frombuffer(row.smiles.encode(), np.uint8) for row in kept]
    parts: dict[str, list[NDArray[Any]]] = {"atoms": atoms, "bonds": bonds, "smiles": texts}
    arrays: dict[str, NDArray[Any]] = {
        "targets": _targets(kept, parsing),
        "charged": np.array(charged, np.bool_),
        "rejected_line": np.array([r[0] for r in rejected], np.int64),
    }
    for column, field in enumerate(_FIELDS[1:], start=1):
        arrays[f"rejected_{field}"] = np.array([r[column] for r in rejected], np.str_)
    for name, (kind, entry) in FLAT.items():
        arrays[name] = np.concatenate([np.zeros((0, *entry), kind), *parts[name]])
        arrays[f"{name}_number"] = np.array([len(part) for part in parts[name]], np.int64)
    store_arrays(shard, arrays)


def _targets(rows: list[RawRow], parsing: Parsing) -> NDArray[np.float32]:
    """Labels in eV where in Hartree; NaN for all of them where the file has no columns."""
    columns = parsing.target_columns
    targets = np.full((len(rows), len(columns)), np.nan, np.float32)
    for number, row in enumerate(rows):
        targets[number, : len(row.targets)] = row.targets
    for column, name in enumerate(columns):
        if name in parsing.hartree_columns:
            targets[:, column] *= HARTREE_IN_EV
    return targets


def _merge(parts: Path, num_shards: int, source: Path) -> Path:
    """Put shards one behind another, in a new folder."""
    whole = parts / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    totals = dict.fromkeys(FLAT, 0)
    num = num_rejected = columns = 0
    first = ""
    with contextlib.ExitStack() as stack:
        names = (*FLAT, *(f"{name}_start" for name in FLAT), "targets", "charged")
        files = {n: stack.enter_context((whole / f"{n}.bin").open("wb")) for n in names}
        text = stack.enter_context((whole / REJECTED).open("w", newline="", encoding="utf-8"))
        writer = csv.writer(text)
        writer.writerow(_FIELDS)
        for name in FLAT:
            files[f"{name}_start"].write(np.zeros(1, np.int64).tobytes())
        for number in range(num_shards):
            arrays = load_arrays(_shard(parts, number))
            assert arrays is not None
            _append(files, arrays, totals)
            rejections = [arrays[f"rejected_{f}"].tolist() for f in _FIELDS]
            writer.writerows(zip(*rejections, strict=True))
            num, columns = num + len(arrays["charged"]), arrays["targets"].shape[1]
            num_rejected += len(rejections[0])
            first = first or (f", the first because: {rejections[3][0]}" if rejections[3] else "")
    if not num:
        raise ValueError(f"{source}: no usable molecule; {num_rejected} rows were rejected{first}")
    manifest = {"num": num, "rejected": num_rejected, "targets": columns}
    (whole / MANIFEST).write_text(json.dumps(manifest), encoding="ascii")
    return whole


def _append(
    files: Mapping[str, BinaryIO], arrays: Mapping[str, NDArray[Any]], totals: dict[str, int]
) -> None:
    """Append a shard, and where in the whole its molecules begin."""
    for name in FLAT:
        start = totals[name] + np.cumsum(arrays[f"{name}_number"])
        files[f"{name}_start"].write(start.tobytes())
        totals[name] += len(arrays[name])
    for name in (*FLAT, "targets", "charged"):
        files[name].write(arrays[name].tobytes())


def _shard(parts: Path, number: int) -> Path:
    return parts / f"{number:06d}.npz"


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Within: no other process is here with the same path."""
    with path.open("w") as file:
        # Unlike flock's, these locks are not inherited by workers that outlive a killed parent.
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _end_with_parent() -> None:
    """Let a worker end when its parent does, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch(sentinel: int) -> None:
        wait_for_exit([sentinel])
        os._exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
