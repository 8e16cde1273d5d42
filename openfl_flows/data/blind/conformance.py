"""One digest by which parties prove, without data, that they split alike.

Every party runs its whole pipeline, with its own key, on the same public reference: the molecules,
proteins and structures that the package ships. What comes out differs where anything does that
decides a part. The digest has one field for each thing that may differ, so that two of them tell
what it is; none gives the key away.
"""

from collections.abc import Mapping
from typing import Any

from openfl_flows.data.blind.config import SplitConfig
from openfl_flows.data.blind.folds import group_number
from openfl_flows.data.blind.split import BlindSplit
from openfl_flows.data.blind.structures import structure_groups
from openfl_flows.data.proteins.fasta import read_fasta
from openfl_flows.data.proteins.source import SAMPLE as PROTEINS
from openfl_flows.data.source import SAMPLE as MOLECULES
from openfl_flows.data.structures.select import SAMPLE as STRUCTURES
from openfl_flows.data.structures.select import read_structures
from openfl_flows.data.structures.set import StructureSet
from openfl_flows.data.table import stream_rows
from openfl_flows.strict_json import digest_of

_FIELDS = {
    "parameters": "split.fractions, molecules, rings, complexes, or the content of split.clusters",
    "molecules": "how RDKit reads molecules: another version of RDKit or of this package",
    "proteins": "how proteins are grouped: another version of this package",
    "structures": "how structures are grouped: another version of RDKit, OpenFold3 or this package",
    "parts": "the numbers of groups: another version of this package",
    "key": "the key",
}
"""Fields of a digest in their order, with what another value of each means."""

_DIGITS = 12


def conformance_digest(split: SplitConfig, key: bytes) -> str:
    """Run the pipeline on the public reference.

    Args:
        split: What the parties agree on; must be blind.
        key: The party's secret.

    Returns:
        A line such as ``0123456789ab-...``, one field of 12 hexadecimal digits for each of
        parameters, molecules, proteins, structures, parts and key.

    Raises:
        ValueError: A table that ``split`` names is not there, or not the one agreed on.
    """
    blind = BlindSplit.of(split, key)
    groups = _reference_groups(blind)
    parts = [
        [(group_number(key, kind, name), blind.part(kind, name)) for kind, name in members]
        for kind_of_item in groups.values()
        for members in kind_of_item.values()
    ]
    fields = {
        "parameters": {
            "fractions": split.fractions,
            "molecules": split.molecules,
            "rings": split.rings,
            "complexes": split.complexes,
            "clusters": blind.proteins.digest,
        },
        **groups,
        "parts": parts,
    }
    digests = [_digest(value) for value in fields.values()]
    return "-".join([*digests, blind.commitment[:_DIGITS]])


def check_conformance(found: str, expected: str) -> None:
    """Refuse a digest that is not the one agreed on.

    Args:
        found: This party's.
        expected: The one that was circulated.

    Raises:
        ValueError: They differ; the message says in what.
    """
    if found == expected:
        return
    mine, theirs = found.split("-"), expected.split("-")
    if [len(part) for part in theirs] != [len(part) for part in mine]:
        raise ValueError(
            f"{expected!r} is no conformance digest, expected {len(mine)} fields of {_DIGITS} "
            "digits, joined by dashes"
        )
    differing = [
        name for name, one, other in zip(_FIELDS, mine, theirs, strict=True) if one != other
    ]
    # Parts follow from all else: another key is not another version, too.
    if len(differing) > 1 and "parts" in differing:
        differing.remove("parts")
    causes = "; ".join(f"{name} ({_FIELDS[name]})" for name in differing)
    raise ValueError(f"conformance digest {found}, expected {expected}: other {causes}")


def _reference_groups(split: BlindSplit) -> Mapping[str, Mapping[str, Any]]:
    """Groups of every item of the reference, by kind and name."""
    molecules = split.molecules
    return {
        "molecules": {
            smiles: [("molecule", molecules.group(smiles))] for smiles in _reference_smiles()
        },
        "proteins": {
            record.name: [("protein", split.proteins.group(record.name, record.sequence))]
            for record in read_fasta(PROTEINS)
        },
        "structures": _structures(split),
    }


def _reference_smiles() -> list[str]:
    return [row.cells["smiles"] for row in stream_rows(MOLECULES, required=("smiles",))]


def _structures(split: BlindSplit) -> Mapping[str, Any]:
    prepared = StructureSet.open(STRUCTURES)
    found = structure_groups(
        prepared, read_structures(prepared), split.config.complexes, split.molecules, split.proteins
    )
    return {name: sorted(groups) for name, groups in found.items()}


def _digest(value: Any) -> str:
    return digest_of(value)[:_DIGITS]
