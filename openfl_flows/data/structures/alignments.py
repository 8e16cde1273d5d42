"""Alignments of chains: the site's own where it has them, the query alone otherwise.

An alignment belongs to a sequence, not to a file name: each ``.a3m`` or ``.sto`` file is given to
the chains whose sequence its first row is.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from openfold3.core.data.io.sequence.msa import MSA_PARSER_REGISTRY
from openfold3.core.data.primitives.sequence.msa import MsaArray
from openfold3.projects.of3_all_atom.config.dataset_config_components import MSASettings

from openfl_flows.atomic import replacing

UNNAMED = "colabfold_main"
"""Kind of an alignment whose file is not named after one of OpenFold3's kinds."""

QUERY_ONLY = "dummy"


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """One file of a site's alignments.

    Attributes:
        path: The file.
        kind: Which of OpenFold3's alignments it is, such as ``uniref90_hits``.
        query: Its first row without gaps.
        sha256: Of its content.
    """

    path: Path
    kind: str
    query: str
    sha256: str


def read_alignments(folder: Path | None) -> list[Alignment]:
    """Find all alignments in a folder and its subfolders.

    Raises:
        ValueError: There are none, or one has no query.
    """
    if folder is None:
        return []
    found = []
    kinds = MSASettings().max_seq_counts
    for path in sorted(folder.rglob("*")):
        if path.suffix not in MSA_PARSER_REGISTRY or not path.is_file():
            continue
        content = path.read_text()
        query = _query(content, path)
        kind = path.stem if path.stem in kinds else UNNAMED
        digest = hashlib.sha256(content.encode()).hexdigest()
        found.append(Alignment(path=path, kind=kind, query=query, sha256=digest))
    if not found:
        raise ValueError(f"--msa {folder}: holds no .a3m or .sto file")
    return found


def alignment_name(sequence: str, kind: str) -> str:
    """Name of the alignments of a sequence, the same in every set."""
    return f"{kind.lower()}-{hashlib.sha256(sequence.encode()).hexdigest()[:16]}"


def write_alignment(sequence: str, kind: str, alignments: Sequence[Alignment], folder: Path) -> str:
    """Write ``<name>.npz`` as OpenFold3 reads it, unless it is there already.

    Args:
        sequence: Of a chain.
        kind: ``PROTEIN`` or ``RNA``.
        alignments: All of the site; those whose query is the sequence are taken.
        folder: Where to write.

    Returns:
        The name: of the sequence, and of the contents of its alignments where there are any.

    Raises:
        ValueError: A file cannot be parsed, or two have the same kind.
    """
    chosen = [alignment for alignment in alignments if alignment.query == sequence]
    name = alignment_name(sequence, kind)
    if chosen:
        contents = "".join(f"{one.kind}{one.sha256}" for one in chosen)
        name += f"-{hashlib.sha256(contents.encode()).hexdigest()[:8]}"
    file = folder / f"{name}.npz"
    if file.is_file():
        return name
    arrays = _parsed(chosen) if chosen else {QUERY_ONLY: _query_only(sequence)}
    with replacing(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    return name


def _parsed(chosen: Sequence[Alignment]) -> Mapping[str, object]:
    limits = MSASettings().max_seq_counts
    arrays: dict[str, object] = {}
    for one in chosen:
        if one.kind in arrays:
            raise ValueError(f"{one.path}: a second {one.kind} alignment of one sequence")
        parse = MSA_PARSER_REGISTRY[one.path.suffix]
        try:
            parsed = parse(one.path.read_text(), limits[one.kind])
        except (ValueError, IndexError, KeyError) as error:
            raise ValueError(f"{one.path}: not an alignment: {error}") from None
        arrays[one.kind] = parsed.to_dict()
    return arrays


def _query_only(sequence: str) -> object:
    query = np.array([list(sequence)], dtype="<U1")
    zeros = np.zeros(query.shape, dtype=int)
    return MsaArray(msa=query, deletion_matrix=zeros, metadata=pd.DataFrame()).to_dict()


def _query(content: str, path: Path) -> str:
    """The first row, without gaps."""
    query = ""
    if path.suffix == ".a3m":
        rows = content.split(">", 2)
        query = "".join(rows[1].splitlines()[1:]) if len(rows) > 1 else ""
    else:
        names = [line.split() for line in content.splitlines() if line and line[0] not in "#/"]
        query = "".join(row[1] for row in names if len(row) == 2 and row[0] == names[0][0])
    query = query.strip().replace("-", "").replace(".", "").upper()
    if not query.isalpha():
        raise ValueError(f"{path}: has no query in its first row")
    return query
