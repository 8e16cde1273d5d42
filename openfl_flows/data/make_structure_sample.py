"""Make the embedded structures: excerpts of entries of the Protein Data Bank, cut to what is read.

The sample is small so that a clone can train and validate on a CPU: of an entry with several copies
one is taken, of a large protein with several domains each domain by itself. Coordinates, sequences
and dates stay as deposited; `EXCERPTS` lists what is taken of which entry, and `CATEGORIES` what is
kept of a file.

Run `python -m openfl_flows.data.make_structure_sample --entries FOLDER --out FOLDER` on a folder of
mmCIF files named by their entry (1ubq.cif, 1ubq.cif.gz), as https://files.rcsb.org/download/1ubq.cif
has them, then `openfl-flows data prepare`. Needs gemmi, which comes with openfold3.
"""

import argparse
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gemmi

Table = dict[str, list[Any]]
"""A category of an mmCIF file: its columns; None stands for ``?``, False for ``.``."""


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """What is taken of an entry.

    Attributes:
        name: Of the structure: that of the entry, with what part of it where it is not unique.
        entry: Id in the Protein Data Bank.
        chains: Chains that are taken (``label_asym_id``, one letter each), polymers and ligands.
        residues: First and last residue that is taken of a polymer, by its entity; the others are
            taken whole.
    """

    name: str
    entry: str
    chains: str
    residues: Mapping[str, tuple[int, int]] = field(default_factory=dict)


EXCERPTS = (
    Excerpt(name="1a8q", entry="1a8q", chains="A"),
    Excerpt(name="1hf9", entry="1hf9", chains="AB"),
    Excerpt(name="1kd8", entry="1kd8", chains="AB"),
    Excerpt(name="1kd8-2", entry="1kd8", chains="CD"),
    Excerpt(name="1kd8-3", entry="1kd8", chains="EF"),
    Excerpt(name="1psm", entry="1psm", chains="A"),
    Excerpt(name="1pzp", entry="1pzp", chains="ABC"),
    Excerpt(name="1tqh", entry="1tqh", chains="AD"),
    Excerpt(name="1ubq", entry="1ubq", chains="A"),
    Excerpt(name="1y57-sh3", entry="1y57", chains="A", residues={"1": (1, 62)}),
    Excerpt(name="1y57-sh2", entry="1y57", chains="A", residues={"1": (63, 168)}),
    Excerpt(name="1y57-kinase", entry="1y57", chains="AG", residues={"1": (177, 442)}),
    Excerpt(name="2crb", entry="2crb", chains="A"),
    Excerpt(name="2q2k", entry="2q2k", chains="ABC", residues={"2": (21, 69)}),
    Excerpt(name="3u8v", entry="3u8v", chains="AC"),
    Excerpt(name="3u8v-2", entry="3u8v", chains="B"),
    Excerpt(name="3zee", entry="3zee", chains="A"),
    # Cut to the sequence of 3zee, so that the two are known for the same.
    Excerpt(name="4i6p", entry="4i6p", chains="A", residues={"1": (4, 87)}),
    Excerpt(name="4i6p-2", entry="4i6p", chains="B", residues={"1": (4, 87)}),
    Excerpt(name="4zey", entry="4zey", chains="A"),
    Excerpt(name="5kc1", entry="5kc1", chains="BD", residues={"1": (153, 215)}),
    Excerpt(name="5kc1-2", entry="5kc1", chains="FJ", residues={"1": (153, 215)}),
    Excerpt(name="5kc1-3", entry="5kc1", chains="HL", residues={"1": (153, 215)}),
    Excerpt(name="7l39", entry="7l39", chains="AD"),
)
"""Released from 1987 to 2021. Waters, salts and other copies are left out."""

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "exptl": ("entry_id", "method"),
    "refine": ("entry_id", "ls_d_res_high"),
    "em_3d_reconstruction": ("entry_id", "resolution"),
    "struct": ("entry_id", "title"),
    "pdbx_audit_revision_history": ("ordinal", "data_content_type", "revision_date"),
    "entity": ("id", "type", "pdbx_description"),
    "entity_poly": ("entity_id", "type", "pdbx_seq_one_letter_code_can", "pdbx_strand_id"),
    "entity_poly_seq": ("entity_id", "num", "mon_id", "hetero"),
    "struct_asym": ("id", "entity_id"),
    "chem_comp": ("id", "type", "name", "formula"),
    "pdbx_poly_seq_scheme": (
        *("asym_id", "entity_id", "seq_id", "mon_id", "ndb_seq_num", "pdb_seq_num"),
        *("auth_seq_num", "pdb_mon_id", "auth_mon_id", "pdb_strand_id", "pdb_ins_code", "hetero"),
    ),
    "pdbx_nonpoly_scheme": (
        *("asym_id", "entity_id", "mon_id", "ndb_seq_num", "pdb_seq_num", "auth_seq_num"),
        *("pdb_mon_id", "auth_mon_id", "pdb_strand_id", "pdb_ins_code"),
    ),
    "struct_conn": (
        *("id", "conn_type_id", "pdbx_value_order", "ptnr1_symmetry", "ptnr2_symmetry"),
        *(
            f"{prefix}ptnr{n}_{column}"
            for n in (1, 2)
            for prefix, column in (
                *(("", f"label_{name}_id") for name in ("asym", "comp", "seq", "atom")),
                *(("", f"auth_{name}_id") for name in ("asym", "comp", "seq")),
                *(("pdbx_", "PDB_ins_code"), ("pdbx_", "label_alt_id")),
            )
        ),
    ),
    "atom_site": (
        *("group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id"),
        *("label_asym_id", "label_entity_id", "label_seq_id", "pdbx_PDB_ins_code"),
        *("Cartn_x", "Cartn_y", "Cartn_z", "occupancy", "B_iso_or_equiv", "pdbx_formal_charge"),
        *("auth_seq_id", "auth_comp_id", "auth_asym_id", "auth_atom_id", "pdbx_PDB_model_num"),
    ),
}
"""Categories and their columns that are kept, where an entry has them."""

_DATES = "_pdbx_audit_revision_history."
_COVALENT = {"covale", "disulf", "metalc"}
_IN_PLACE = {"1_555", None}


def main() -> None:
    """Write the excerpts as gzip-compressed mmCIF files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=Path, required=True, help="folder of <entry>.cif")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for excerpt in EXCERPTS:
        block = read_entry(options.entries, excerpt.entry)
        file = options.out / f"{excerpt.name}.cif.gz"
        # Without a date in its header the file is the same whenever it is made.
        file.write_bytes(gzip.compress(cut(block, excerpt).encode(), mtime=0))
        print(f"{file}: {file.stat().st_size} bytes")


def read_entry(folder: Path, entry: str) -> gemmi.cif.Block:
    """Read an entry as the Protein Data Bank publishes it.

    A copy without a revision history gets the last day of the year in which it was cited first.

    Raises:
        ValueError: There is no such file, it is another entry, or nothing tells its date.
    """
    files = [file for end in ("cif", "cif.gz") if (file := folder / f"{entry}.{end}").is_file()]
    if not files:
        raise ValueError(f"{folder}: no {entry}.cif or {entry}.cif.gz")
    block = gemmi.cif.read(str(files[0])).sole_block()
    found = gemmi.cif.as_string(block.find_value("_entry.id") or "?").lower()
    if found != entry:
        raise ValueError(f"{files[0]}: _entry.id is {found}, expected {entry}")
    if not block.get_mmcif_category(_DATES):
        year = (block.get_mmcif_category("_citation.").get("year") or [None])[0]
        if not year:
            raise ValueError(f"{files[0]}: no {_DATES}revision_date, expected a release date")
        block.set_mmcif_category(_DATES, {"ordinal": ["1"], "revision_date": [f"{year}-12-31"]})
    return block


def cut(block: gemmi.cif.Block, excerpt: Excerpt) -> str:
    """The excerpt of an entry, as the text of an mmCIF file.

    Residues are counted from 1 again; the author's numbers stay.

    Raises:
        ValueError: A chain of the excerpt is not in the entry.
    """
    tables = {name: _kept(block.get_mmcif_category(f"_{name}."), name) for name in CATEGORIES}
    entity_of = dict(
        zip(*(tables["struct_asym"][name] for name in ("id", "entity_id")), strict=True)
    )
    if missing := set(excerpt.chains) - entity_of.keys():
        raise ValueError(f"{excerpt.entry}: no chain {sorted(missing)}, expected {excerpt.chains}")
    entities = {entity_of[chain] for chain in excerpt.chains}
    chosen = {
        "struct_asym": _rows(tables["struct_asym"], "id", set(excerpt.chains)),
        "entity": _rows(tables["entity"], "id", entities),
        "entity_poly": _rows(tables["entity_poly"], "entity_id", entities),
        "entity_poly_seq": _rows(tables["entity_poly_seq"], "entity_id", entities),
        "pdbx_poly_seq_scheme": _rows(
            tables["pdbx_poly_seq_scheme"], "asym_id", set(excerpt.chains)
        ),
        "pdbx_nonpoly_scheme": _rows(tables["pdbx_nonpoly_scheme"], "asym_id", set(excerpt.chains)),
        "atom_site": _first_model_atoms(tables["atom_site"], set(excerpt.chains)),
    }
    for entity, (first, last) in excerpt.residues.items():
        chosen |= _trimmed(chosen, entity, first, last)
    tables |= chosen
    tables["struct_conn"] = _links(tables["struct_conn"], excerpt, entity_of)
    codes = {*tables["entity_poly_seq"]["mon_id"], *tables["atom_site"]["label_comp_id"]}
    tables["chem_comp"] = _rows(tables["chem_comp"], "id", codes)
    return _text(excerpt, tables)


def _kept(table: Table, name: str) -> Table:
    return {column: table[column] for column in CATEGORIES[name] if column in table}


def _rows(table: Table, column: str, values: set[Any]) -> Table:
    """The rows whose ``column`` is one of ``values``."""
    return _at(table, [i for i, value in enumerate(table.get(column, [])) if value in values])


def _at(table: Table, rows: Sequence[int]) -> Table:
    return {column: [values[i] for i in rows] for column, values in table.items()}


def _first_model_atoms(atoms: Table, chains: set[str]) -> Table:
    """Heavy atoms of the first model."""
    first = atoms["pdbx_PDB_model_num"][0]
    columns = ("pdbx_PDB_model_num", "label_asym_id", "type_symbol")
    rows = enumerate(zip(*(atoms[name] for name in columns), strict=True))
    return _at(
        atoms,
        [i for i, (m, chain, e) in rows if m == first and chain in chains and e not in ("H", "D")],
    )


def _trimmed(tables: Mapping[str, Table], entity: str, first: int, last: int) -> dict[str, Table]:
    """The sequence tables and atoms with one polymer cut to its residues ``first`` to ``last``."""
    columns = {
        "entity_poly_seq": ("entity_id", "num"),
        "pdbx_poly_seq_scheme": ("entity_id", "seq_id"),
        "atom_site": ("label_entity_id", "label_seq_id"),
    }
    found = {}
    for name, (entity_column, number) in columns.items():
        table = tables[name]
        pairs = list(zip(table[entity_column], table[number], strict=True))
        kept = _at(
            table, [i for i, (e, n) in enumerate(pairs) if e != entity or first <= int(n) <= last]
        )
        kept[number] = [
            str(int(n) - first + 1) if e == entity else n
            for e, n in zip(kept[entity_column], kept[number], strict=True)
        ]
        found[name] = kept
    polymers = {column: list(values) for column, values in tables["entity_poly"].items()}
    row = polymers["entity_id"].index(entity)
    sequence = "".join(polymers["pdbx_seq_one_letter_code_can"][row].split())
    polymers["pdbx_seq_one_letter_code_can"][row] = sequence[first - 1 : last]
    return {**found, "entity_poly": polymers}


def _links(links: Table, excerpt: Excerpt, entity_of: Mapping[str, str]) -> Table:
    """Bonds between what is taken, within one copy."""
    shifts = {chain: excerpt.residues.get(entity_of[chain], (1, 10**9)) for chain in excerpt.chains}
    kept = _rows(links, "conn_type_id", _COVALENT)
    rows = []
    for i in range(len(kept.get("id", []))):
        inside = True
        for n in ("ptnr1", "ptnr2"):
            chain, number = kept[f"{n}_label_asym_id"][i], kept[f"{n}_label_seq_id"][i]
            first, last = shifts.get(chain, (1, 0))
            inside &= first <= int(number or 1) <= last or (chain in shifts and not number)
            inside &= kept[f"{n}_symmetry"][i] in _IN_PLACE
        if inside:
            rows.append(i)
    kept = _at(kept, rows)
    for n in ("ptnr1", "ptnr2"):
        column = f"{n}_label_seq_id"
        kept[column] = [
            str(int(number) - shifts[chain][0] + 1) if number else number
            for chain, number in zip(
                kept.get(f"{n}_label_asym_id", []), kept.get(column, []), strict=True
            )
        ]
    return kept


def _text(excerpt: Excerpt, tables: Mapping[str, Table]) -> str:
    document = gemmi.cif.Document()
    block = document.add_new_block(excerpt.name)
    block.set_pair("_entry.id", excerpt.entry.upper())
    for name, table in tables.items():
        if table and len(next(iter(table.values()))):
            block.set_mmcif_category(f"_{name}.", table)
    assembly: dict[str, Table] = {
        "pdbx_struct_assembly": {"id": ["1"], "details": ["excerpt"], "oligomeric_count": [None]},
        "pdbx_struct_assembly_gen": {
            "assembly_id": ["1"],
            "oper_expression": ["1"],
            "asym_id_list": [",".join(excerpt.chains)],
        },
        "pdbx_struct_oper_list": {
            "id": ["1"],
            "type": ["identity operation"],
            **{f"matrix[{i}][{j}]": [str(float(i == j))] for i in (1, 2, 3) for j in (1, 2, 3)},
            **{f"vector[{i}]": ["0.0"] for i in (1, 2, 3)},
        },
    }
    for name, table in assembly.items():
        block.set_mmcif_category(f"_{name}.", table)
    return document.as_string()


if __name__ == "__main__":
    main()
