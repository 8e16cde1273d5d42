"""What to predict, in OpenFold3's own format, checked before anything is loaded."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from openfold3.core.data.resources.residues import MoleculeType
from openfold3.projects.of3_all_atom.config.inference_query_format import (
    Chain,
    InferenceQuerySet,
)
from pydantic import ValidationError
from rdkit import Chem, rdBase

_LETTERS = {
    MoleculeType.PROTEIN: frozenset("ACDEFGHIKLMNPQRSTVWYX"),
    MoleculeType.DNA: frozenset("ACGTN"),
    MoleculeType.RNA: frozenset("ACGUN"),
}


def read_query(file: Path) -> InferenceQuerySet:
    """Read a query set from JSON.

    Raises:
        ValueError: It is none, or a chain of it cannot be predicted; the message names the place.
    """
    try:
        queries = InferenceQuerySet.from_json(file)
    except ValidationError as error:
        raise ValueError(f"{file}: {_first(error)}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file}: no text, expected a query of OpenFold3 in JSON") from None
    check_query(queries, str(file))
    return queries


def make_query(
    *, sequences: Sequence[str] = (), smiles: Sequence[str] = (), name: str = "prediction"
) -> InferenceQuerySet:
    """One complex of proteins and ligands; what is given twice is there twice.

    Raises:
        ValueError: There is none, there are more than 26, or one cannot be read.
    """
    num = len(sequences) + len(smiles)
    if not 0 < num <= 26:
        raise ValueError(f"{num} sequences and SMILES, expected 1 to 26")
    letters = iter(string.ascii_uppercase)
    proteins, ligands = Counter(text.upper() for text in sequences), Counter(smiles)
    chains = [
        {"molecule_type": kind, key: text, "chain_ids": [next(letters) for _ in range(count)]}
        for kind, key, given in (("protein", "sequence", proteins), ("ligand", "smiles", ligands))
        for text, count in given.items()
    ]
    queries = InferenceQuerySet.model_validate({"queries": {name: {"chains": chains}}})
    check_query(queries, "query")
    return queries


def check_query(queries: InferenceQuerySet, where: str) -> None:
    """Refuse what OpenFold3 would only log as failed, after loading the model.

    Raises:
        ValueError: A query or one of its chains cannot be predicted; the message begins with
            ``where``.
    """
    if not queries.queries:
        raise ValueError(f"{where}: holds no query, expected at least one")
    for name, query in queries.queries.items():
        # The name becomes a folder's and a file's.
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise ValueError(f"{where}: query {name!r}, expected letters, digits, '.', '_', '-'")
        ids = Counter(key for chain in query.chains for key in chain.chain_ids)
        if not ids or ids.most_common(1)[0][1] > 1:
            raise ValueError(f"{where}: query {name}: chain ids {[*ids]}, expected each once")
        for chain in query.chains:
            if (wrong := _wrong(chain)) is not None:
                raise ValueError(f"{where}: query {name}, chain {chain.chain_ids[0]}: {wrong}")


def _wrong(chain: Chain) -> str | None:
    """What is wrong with a chain, or None."""
    if chain.molecule_type != MoleculeType.LIGAND:
        letters = _LETTERS[chain.molecule_type]
        if not chain.sequence:
            return f"no sequence, expected one of a {chain.molecule_type.name}"
        if unknown := sorted(set(chain.sequence) - letters):
            return (
                f"letters {' '.join(unknown)} in the sequence, expected {''.join(sorted(letters))}"
            )
        return None
    if chain.smiles is None:
        known = chain.ccd_codes or chain.sdf_file_path
        return None if known else "no ligand, expected smiles, ccd_codes or sdf_file_path"
    with rdBase.BlockLogs():  # what is returned says it
        molecule = Chem.MolFromSmiles(chain.smiles)
    if molecule is None or not molecule.GetNumAtoms():
        return f"RDKit does not read the SMILES {chain.smiles!r}"
    return None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    return f"{place}: {first['msg'].partition(chr(10))[0]}"
