"""What molecules and proteins are made of: the parts that a site's sketch knows.

A molecule's parts are the atom environments of ECFP4 (Rogers and Hahn, J. Chem. Inf. Model. 50
(2010) 742): every atom with its bonds up to two bonds away. A protein's are its words, as many
residues in a row.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator

from openfl_flows.data.proteins.fasta import read_fasta
from openfl_flows.data.table import SMILES_SUFFIXES, stream_rows, stream_smiles

Kind = Literal["molecules", "proteins"]
Parts = frozenset[bytes]

WORD = 4
"""Residues of a protein's words: of 160,000 words a protein of 300 residues has 297 at most."""

_TABLES = (".csv", ".csv.gz")
_RADIUS = 2


class Item(NamedTuple):
    """One molecule or protein of a file.

    Attributes:
        line: In the file, from 1.
        name: Of a protein, or a molecule's SMILES.
        parts: What it is made of; None where it cannot be read.
        cells: Of a table: text by column.
    """

    line: int
    name: str
    parts: Parts | None
    cells: Mapping[str, str]


def kind_of(path: Path) -> Kind:
    """Whether a file is of molecules (CSV, SMILES) or of proteins (FASTA), by its name."""
    molecules = path.name.lower().endswith((*_TABLES, *SMILES_SUFFIXES))
    return "molecules" if molecules else "proteins"


def read_items(
    path: Path, *, word: int = WORD, where: tuple[str, str] | None = None
) -> Iterator[Item]:
    """The items of a file, one at a time.

    Args:
        path: A CSV table with the column ``smiles``, a SMILES file, or FASTA.
        word: Residues of a protein's words.
        where: A column of the table, or a key of FASTA headers (``SET``, ...), and the value that
            an item must have there.

    Raises:
        ValueError: The file is not of its format, or has no such column.
        OSError: It cannot be read.
    """
    if kind_of(path) == "proteins":
        for record in read_fasta(path, default_part="train"):
            said = {"SET": record.part, "TARGET": record.target or "", **record.attributes}
            if where is None or said.get(where[0]) == where[1]:
                yield Item(record.line, record.name, protein_parts(record.sequence, word), said)
        return
    required = ("smiles", *([where[0]] if where else ()))
    table = path.name.lower().endswith(_TABLES)
    for row in stream_rows(path, required=required) if table else stream_smiles(path):
        if where is None or row.cells[where[0]] == where[1]:
            smiles = row.cells["smiles"].strip()
            yield Item(row.line, smiles, molecule_parts(smiles), row.cells)


def molecule_parts(smiles: str) -> Parts | None:
    """The atom environments of a molecule, by RDKit's 32-bit identifiers; None if it is no SMILES.

    Identifiers are those of one release of RDKit: the parties have the same.
    """
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
    if molecule is None or not molecule.GetNumAtoms():
        return None
    counts = _generator().GetSparseCountFingerprint(molecule).GetNonzeroElements()
    return frozenset(int(number).to_bytes(8, "big") for number in counts)


def protein_parts(sequence: str, word: int = WORD) -> Parts | None:
    """The words of a protein; None if it is shorter than one."""
    letters = sequence.upper()
    parts = frozenset(letters[i : i + word].encode() for i in range(len(letters) - word + 1))
    return parts or None


@lru_cache(maxsize=1)
def _generator() -> Any:
    return rdFingerprintGenerator.GetMorganGenerator(radius=_RADIUS)
