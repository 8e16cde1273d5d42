"""What a site says of its own ligands: SDF files, or a table of SMILES."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdkit import Chem, rdBase

from openfl_flows.data.structures.reading import plain_name

COLUMNS = ("structure", "code", "smiles")
"""Columns of the table; an empty ``structure`` stands for all structures."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Definition:
    """One ligand's chemistry.

    Attributes:
        molecule: Heavy atoms with bonds, charges and, where given, stereochemistry.
        origin: File, or file and line.
    """

    molecule: Chem.Mol
    origin: str


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """All that a site gave, by structure (None for all) and code."""

    by_key: Mapping[tuple[str | None, str], Definition]

    def find(self, structure: str, code: str) -> Definition | None:
        """The definition for a code in a structure; the structure's own before the general one."""
        for key in ((structure, code.upper()), (None, code.upper())):
            if key in self.by_key:
                return self.by_key[key]
        return None

    def relevant(self, structure: str, codes: Iterable[str]) -> dict[str, str]:
        """SMILES by code of the definitions that apply to some ligands of a structure."""
        found = {code: self.find(structure, code) for code in sorted(set(codes))}
        return {c: Chem.MolToSmiles(d.molecule) for c, d in found.items() if d is not None}

    def unused(self, used: Iterable[str]) -> list[str]:
        """Origins of the definitions that are not among ``used``."""
        return sorted({d.origin for d in self.by_key.values()} - set(used))


def read_definitions(path: Path | None) -> Definitions:
    """Read a table of SMILES or a folder of SDF files.

    SDF files are named ``<structure>_<code>.sdf``, or ``<code>.sdf`` for all structures.

    Raises:
        ValueError: A file, column or molecule cannot be used; the message names file and line.
    """
    if path is None:
        return Definitions(by_key={})
    if path.is_dir():
        rows = _sdf_folder(path)
    elif path.suffix.lower() == ".csv":
        rows = _smiles_table(path)
    else:
        raise ValueError(f"--ligands {path}: expected a .csv table or a folder of .sdf files")
    by_key: dict[tuple[str | None, str], Definition] = {}
    for structure, code, definition in rows:
        key = (plain_name(structure) if structure else None, code.upper())
        if key in by_key:
            raise ValueError(
                f"{definition.origin}: defines {code} again, already in {by_key[key].origin}"
            )
        by_key[key] = definition
    return Definitions(by_key=by_key)


def _sdf_folder(folder: Path) -> Iterable[tuple[str, str, Definition]]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".sdf")
    if not files:
        raise ValueError(f"--ligands {folder}: holds no .sdf file")
    for file in files:
        structure, _, code = file.stem.rpartition("_")
        molecules = list(Chem.SDMolSupplier(str(file), removeHs=False))
        if len(molecules) != 1:
            raise ValueError(f"{file}: holds {len(molecules)} molecules, expected one")
        # Coordinates of an SDF are a pose or a drawing: stereochemistry is read from them, no more.
        yield structure, code, _definition(molecules[0], str(file))


def _smiles_table(file: Path) -> Iterable[tuple[str, str, Definition]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{file}: lacks column {missing[0]}, expected {', '.join(COLUMNS)}")
        for row in reader:
            origin = f"{file}:{reader.line_num}"
            values = [(row[name] or "").strip() for name in COLUMNS]
            if not values[1]:
                raise ValueError(f"{origin}: code is empty")
            yield values[0], values[1], _definition(_parsed(values[2]), origin)


def _parsed(smiles: str) -> Any:
    # RDKit's own message names no file; ours does.
    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(smiles) if smiles else None


def _definition(molecule: Chem.Mol | None, origin: str) -> Definition:
    if molecule is None:
        raise ValueError(f"{origin}: no valid molecule")
    heavy = Chem.RemoveAllHs(molecule)
    if len(Chem.GetMolFrags(heavy)) != 1:
        raise ValueError(f"{origin}: has several fragments, expected one, without counter-ions")
    heavy.RemoveAllConformers()
    return Definition(molecule=heavy, origin=origin)
