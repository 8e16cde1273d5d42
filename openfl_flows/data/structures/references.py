"""Reference molecules of components: molecular graph and conformer, as OpenFold3 wants them."""

import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from biotite.structure.io.pdbx import CIFFile
from openfold3.core.data.io.structure.mol import write_annotated_sdf
from openfold3.core.data.primitives.structure.component import (
    get_reference_molecule_metadata,
    mol_from_ccd_entry,
)
from openfold3.core.data.primitives.structure.conformer import (
    resolve_and_format_fallback_conformer,
)
from rdkit import rdBase

from openfl_flows.atomic import write_json
from openfl_flows.data.structures.components import Component
from openfl_flows.seeds import derived_seed


def write_references(
    components: Iterable[Component], molecules: Path, records: Path
) -> dict[str, dict[str, Any]]:
    """Write the reference molecules that are not there yet.

    A molecule is made once for all structures, and the same wherever it is made.

    Args:
        components: Whose molecules are wanted.
        molecules: Gets ``<code>.sdf``.
        records: Gets ``<code>.json``, written after the molecule.

    Returns:
        OpenFold3's metadata of each, by code.
    """
    found = {}
    molecules.mkdir(parents=True, exist_ok=True)
    for component in components:
        record = records / f"{component.code}.json"
        known = json.loads(record.read_text()) if record.is_file() else {}
        if known.get("digest") != component.digest:
            metadata = _write(component, molecules)
            known = {"digest": component.digest, "metadata": metadata}
            write_json(record, known)
        found[component.code] = known["metadata"]
    return found


def _write(component: Component, molecules: Path) -> dict[str, Any]:
    dictionary = CIFFile()
    dictionary[component.code] = component.block
    # RDKit's conformers are seeded from this generator.
    random.seed(derived_seed("reference", component.code))
    with rdBase.BlockLogs():
        molecule = mol_from_ccd_entry(component.code, dictionary)
        molecule, strategy, source = resolve_and_format_fallback_conformer(molecule)
    temporary = molecules / f".{component.code}.{os.getpid()}.sdf"
    write_annotated_sdf(molecule, temporary)
    os.replace(temporary, molecules / f"{component.code}.sdf")
    metadata: dict[str, Any] = get_reference_molecule_metadata(molecule, strategy, 1, source)
    return metadata
