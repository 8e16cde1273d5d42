"""Which group a protein belongs to: its public cluster, or one of its words.

Words of a sequence do not keep homologs together: proteins with half of their residues in common
share few of them. So the parties name a table of **public clusters**, the same everywhere (its
digest stands in the plan): every protein that is in it, by name or by sequence, is in the cluster
that the table says.

Any other protein is grouped by the word of six residues, in twelve letters, whose SHA-256 is lowest
(a minimal hash, Broder 1997): two proteins are in one group with a probability that is the share of
words that they have in common. That keeps most variants of one protein together, and no families;
how much it leaks is measured in docs/results/blind_split.
"""

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from openfl_flows.atomic import write_atomically
from openfl_flows.data.proteins.clusters import GROUPS, WORD, cluster_sequences
from openfl_flows.data.proteins.fasta import PRED, read_fasta
from openfl_flows.data.table import stream_rows

COLUMNS = ("protein", "cluster")
"""Of the table: a name or a sequence, and the name of its cluster."""

_LETTER = {ord(residue): group[0] for group in GROUPS for residue in group}


@dataclass(frozen=True, kw_only=True)
class ProteinGroups:
    """Names groups of proteins.

    Attributes:
        clusters: Cluster of each public protein, by name or by sequence.
        digest: SHA-256 of the table they are from; empty without one.
    """

    clusters: Mapping[str, str] = field(default_factory=dict, repr=False)
    digest: str = ""

    def group(self, name: str, sequence: str) -> str:
        """The name of a protein's group, to be compared as a string.

        Args:
            name: First word of its header; empty where it has none.
            sequence: Letters; the case and a final stop do not matter.
        """
        letters = sequence.upper().rstrip("*")
        cluster = self.clusters.get(letters) or (self.clusters.get(name) if name else None)
        return f"word {lowest_word(letters)}" if cluster is None else f"cluster {cluster}"


def lowest_word(sequence: str) -> str:
    """The word with the lowest SHA-256; the whole sequence if it is shorter than a word."""
    text = sequence.translate(_LETTER)
    words = {text[i : i + WORD] for i in range(len(text) - WORD + 1)} or {text}
    return min(words, key=lambda word: hashlib.sha256(word.encode()).digest())


def read_clusters(path: Path, sha256: str | None = None) -> ProteinGroups:
    """Read a table of public clusters, CSV with the columns ``protein`` and ``cluster``.

    Args:
        path: The table, plain or gzip-compressed.
        sha256: The digest that the file must have, None where any will do.

    Raises:
        ValueError: There is none, it has another digest, or a protein is in two clusters.
    """
    if not path.is_file():
        raise ValueError(
            f"split.clusters={path}: no such file, expected CSV with {', '.join(COLUMNS)}"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and digest != sha256:
        raise ValueError(f"split.clusters={path} has SHA-256 {digest}, expected {sha256}")
    clusters: dict[str, str] = {}
    for row in stream_rows(path, required=COLUMNS):
        protein, cluster = (row.cells[column].strip() for column in COLUMNS)
        if not protein or not cluster:
            raise ValueError(f"{path}, line {row.line}: an empty cell, expected a name in both")
        if clusters.setdefault(protein, cluster) != cluster:
            raise ValueError(
                f"{path}, line {row.line}: {protein} is in {cluster} and in {clusters[protein]}, "
                "expected one cluster"
            )
    return ProteinGroups(clusters=clusters, digest=digest)


def write_clusters(source: Path, target: Path, identity: float) -> tuple[int, str]:
    """Cluster public proteins, and write the table that :func:`read_clusters` reads.

    Args:
        source: FASTA; the same record may occur twice.
        target: The table: each protein by its name and by its sequence.
        identity: See :func:`~openfl_flows.data.proteins.clusters.cluster_sequences`.

    Returns:
        The number of clusters, and the SHA-256 of the table.

    Raises:
        ValueError: The file is no FASTA, or `identity` is out of range.
    """
    records = {record.name: record for record in read_fasta(source, default_part=PRED)}
    names = sorted(records)
    sequences = [records[name].sequence.rstrip("*") for name in names]
    clusters = cluster_sequences(names, sequences, identity=identity)
    rows = {
        *zip(names, clusters, strict=True),
        *zip(sequences, clusters, strict=True),
    }
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([COLUMNS, *sorted(rows)])
    content = stream.getvalue().encode()
    write_atomically(target, content)
    return len(set(clusters)), hashlib.sha256(content).hexdigest()
