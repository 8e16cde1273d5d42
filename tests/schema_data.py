"""Schemas of the plan, good data for each of them, and what validation says of data."""

import csv
from collections.abc import Sequence
from pathlib import Path

from openfl_flows.cli.plan import compose
from openfl_flows.data.schema.limits import MoleculesV1, ProteinsV1, Schema, StructuresV1
from openfl_flows.data.schema.validate import CARD, DETAILS, examine
from openfl_flows.experiment import schema_of

MOLECULES = ("experiment=demo", "schema=molecules_v1")
PROTEINS = ("experiment=esm_scl", "schema=proteins_v1")
STRUCTURES = ("experiment=of3_demo", "schema=structures_v1")
LETTERS = "ACDEFGHIKLMNPQRSTVWY"

Found = list[dict[str, str]]


def planned(*overrides: str) -> Schema:
    """The schema of a plan."""
    schema = schema_of(compose(overrides))
    assert isinstance(schema, MoleculesV1 | ProteinsV1 | StructuresV1)
    return schema


def molecule_rows(num: int = 40) -> list[list[str]]:
    """Header and rows of good molecules, all different."""
    smiles = ["C" * i + "N" + "C" * j for i in range(1, 8) for j in range(i, 9 - i)]
    smiles += ["O" + each for each in smiles if len(each) < 9]
    smiles += ["F" + "C" * (i + 1) + "O" + "C" * j for i in range(4) for j in range(4)]
    assert len(smiles) >= num
    rows = [[f"m{i}", each, f"{1 + i % 3}.5", f"-{6 + i % 4}.25"] for i, each in enumerate(smiles)]
    return [["mol_id", "smiles", "dipole_debye", "homo_ev"], *rows[:num]]


def write_table(folder: Path, rows: Sequence[Sequence[str]]) -> Path:
    """A site's folder with that table."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "molecules.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    return folder


def protein_records(num: int = 40) -> list[list[str]]:
    """Header and sequence of good proteins."""
    classes = ("Nucleus", "Cytoplasm", "Plastid")
    parts = ("train", "train", "train", "val", "test")
    return [
        [f">p{i} TARGET={classes[i % 3]} SET={parts[i % 5]} KINGDOM=Fungi", sequence(i)]
        for i in range(num)
    ]


def sequence(number: int) -> str:
    """Twenty letters, another for each number below 400."""
    a, b = divmod(number, 20)
    return LETTERS[b:] + LETTERS[:b] + LETTERS[a]


def write_proteins(folder: Path, records: Sequence[Sequence[str]]) -> Path:
    """A site's folder with those lines."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for record in records for line in record)
    (folder / "proteins.fasta").write_text(text, encoding="utf-8")
    return folder


def found_in(schema: Schema, folder: Path, out: Path) -> tuple[Found, dict[str, int], bool]:
    """Lines that stay at the site, exact counts, and whether the data fit."""
    card, counts = examine(schema, folder, out)
    with (out / DETAILS).open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert (out / CARD).is_file()
    return lines, {kind: number for kind, number in counts.items() if number}, card.fits
