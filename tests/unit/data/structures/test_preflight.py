"""Every defect that OpenFold3 meets with silence is caught or repaired, from files written here."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openfold3.core.data.io.structure.atom_array import read_atomarray_from_npz
from openfold3.core.data.resources.residues import MoleculeType
from rdkit import Chem

from openfl_flows.data.structures.findings import NOTES, REFUSALS, REPAIRS
from openfl_flows.data.structures.prepare import Preparation, prepare
from tests.structure_defects import CASES, TOLUENE


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set made of all cases."""
    root = tmp_path_factory.mktemp("preflight")
    source = root / "in"
    source.mkdir()
    for file, (_, _, write) in CASES.items():
        write(source / file)
    with (root / "ligands.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("structure", "code", "smiles"))
        for code in ("LIG", "X7Q", "UNL", "Q9Z9"):
            writer.writerow((f"given-{code.lower()}", code, TOLUENE))
        writer.writerow(("", "BIG", "CC(=O)Nc1ccc(O)cc1"))
        writer.writerow(("additive-code", "GOL", "CC(=O)Nc1ccc(O)cc1"))
        writer.writerow(("", "BAD", "Oc1ccccc1"))
        writer.writerow(("", "CHI", "C[C@@H](F)c1ccccc1"))
    prepare(Preparation(source=source, target=root / "set", ligands=root / "ligands.csv"))
    return root / "set"


@pytest.fixture(scope="module")
def found(checked: Path) -> dict[str, dict[str, Any]]:
    """What the site's report says of each structure, by its file."""
    report = json.loads((checked / "preflight" / "site.json").read_text())
    return {record["file"].split(" and ")[0]: record for record in report["structures"]}


@pytest.mark.parametrize("file", CASES)
def test_a_defect_is_caught_or_repaired(file, found):
    outcome, kind, _ = CASES[file]
    record = found[file]
    kinds = [finding["kind"] for finding in record["findings"]]
    assert (record["outcome"], not kind or kind in kinds) == (outcome, True), record["findings"]


def atoms_of(checked: Path, name: str) -> Any:
    return read_atomarray_from_npz(checked / "structure_files" / name / f"{name}.npz")


def test_nothing_passes_with_other_molecules(checked, found):
    """Whatever may train has the chains and ligands of the sound file, in number and kind."""
    counted = 0
    atoms = atoms_of(checked, "sound")
    kinds_of_sound = {k: (atoms.molecule_type_id == k).sum() for k in MoleculeType}
    sound = {c["type"]: c["length"] for c in found["sound.cif"]["chains"]}
    for file, record in found.items():
        lysozyme = file.endswith(".cif") and file not in ("metal.cif", "models.cif")
        if record["outcome"] == "refused" or not lysozyme:
            continue
        chains = record["chains"]
        assert sorted(c["type"] for c in chains) == ["LIGAND"] * 3 + ["PROTEIN"], file
        assert {c["type"]: c["length"] for c in chains} == sound, file
        atoms = atoms_of(checked, record["id"])
        kinds = {k: (atoms.molecule_type_id == k).sum() for k in MoleculeType}
        assert kinds[MoleculeType.PROTEIN] == kinds_of_sound[MoleculeType.PROTEIN], file
        counted += 1
    assert counted > 15


@pytest.mark.parametrize("file", ["given-lig", "given-x7q", "given-unl", "given-q9z9", "own-bonds"])
def test_a_defined_ligand_has_all_bonds_and_the_right_reference(file, checked):
    cache = json.loads((checked / "cache.json").read_text())
    chains = cache["structure_data"][file]["chains"]
    codes = {c["reference_mol_id"] for c in chains.values()} - {None, "CL", "BME"}
    (code,) = codes
    assert cache["reference_molecule_data"][code]["canonical_smiles"] == TOLUENE
    reference = Chem.MolFromMolFile(str(checked / "reference_mols" / f"{code}.sdf"))
    assert Chem.MolToSmiles(reference) == TOLUENE
    atoms = atoms_of(checked, file)
    ligand = atoms[atoms.res_name == code]
    assert (len(ligand), ligand.bonds.get_bond_count()) == (7, 7)
    assert not np.isnan(ligand.coord).any()


def test_one_molecule_has_one_code_in_all_structures(checked):
    cache = json.loads((checked / "cache.json").read_text())
    codes = {
        chain["reference_mol_id"]
        for name in ("given-lig", "given-x7q", "own-bonds")
        for chain in cache["structure_data"][name]["chains"].values()
    }
    assert len(codes - {None, "CL", "BME"}) == 1


def test_force_field_names_keep_every_atom(checked):
    plain, renamed = (atoms_of(checked, name) for name in ("plain", "force-field"))
    assert np.array_equal(plain.coord, renamed.coord, equal_nan=True)
    assert np.array_equal(plain.atom_name, renamed.atom_name)


def test_a_gap_without_sequence_becomes_unknown_residues(checked, found):
    (chain,) = found["gap.pdb"]["chains"]
    assert chain["length"] == 76
    assert (atoms_of(checked, "gap").res_name == "UNK").sum() > 6


def test_a_declared_bond_to_a_chain_is_kept(checked):
    atoms = atoms_of(checked, "bonded")
    chains = atoms.chain_id[atoms.bonds.as_array()[:, :2]]
    assert (chains[:, 0] != chains[:, 1]).sum() == 1


def test_refused_structures_leave_nothing_to_train_on(checked, found):
    kept = {folder.name for folder in (checked / "structure_files").iterdir()}
    assert kept == {r["id"] for r in found.values() if r["outcome"] != "refused"}
    assert kept == json.loads((checked / "cache.json").read_text())["structure_data"].keys()


def test_counts_tell_nothing_of_the_inputs(checked, found):
    text = (checked / "preflight" / "counts.json").read_text()
    counts = json.loads(text)
    assert counts["structures"] == len(found)
    assert sum(counts["outcomes"].values()) == len(found)
    words = {word for name in CASES for word in (name, Path(name).stem)}
    words |= {"MBN", "toluene", TOLUENE, "BIG", "MNIF", "MQIF", str(checked.parent)}
    words |= {r["sha256"] for r in found.values() if r["sha256"]}
    keys = {key for group in ("refusals", "repairs", "notes") for key in counts[group]}
    strings = {s for s in text.replace('"', " ").replace(":", " ").split() if s[0].isalpha()}
    allowed = keys | counts.keys() | counts["outcomes"].keys()
    assert strings <= allowed
    assert keys <= REFUSALS.keys() | REPAIRS.keys() | NOTES.keys()
    assert not [word for word in words if word in text and not any(word in a for a in allowed)]
