"""What a structure says of itself: release date, method, assemblies; repaired where it does not."""

import gemmi

from openfl_flows.data.structures import tables
from openfl_flows.data.structures.findings import Finding
from openfl_flows.data.structures.reading import Source

MAX_RESOLUTION = 9.0
MAX_CHAINS = 300
"""Limits of OpenFold3's training set (AlphaFold 3, supplement 2.5.4)."""

XRAY = "X-RAY DIFFRACTION"


def method(source: Source, file: str) -> tuple[str, list[Finding]]:
    """The experimental method; OpenFold3 removes crystallization aids from X-ray structures."""
    stated = tables.values(source.block, "_exptl.method") if source.block is not None else []
    if not stated and "_exptl.method" in source.structure.info:
        stated = [source.structure.info["_exptl.method"]]
    if stated and stated[0]:
        return stated[0].upper(), []
    crystal = source.structure.cell.is_crystal()
    taken = XRAY if crystal else "OTHER"
    why = "it has a unit cell" if crystal else "it has no unit cell"
    text = f"{file}: no experimental method, taken as {taken} since {why}"
    return taken, [Finding(kind="method", text=text)]


def release_date(
    source: Source, default: str | None, file: str
) -> tuple[str | None, list[Finding]]:
    """The release date, or the reasons why there is none.

    Args:
        source: The structure.
        default: For structures that tell no date.
        file: For messages.
    """
    deposited = source.structure.info
    texts: list[str] = []
    if source.block is not None:
        texts = tables.values(source.block, "_pdbx_audit_revision_history.revision_date")
        good = tables.valid_dates(texts)
        if good and len(good) == len(texts):
            return good[0], []
        if texts and not good:
            text = f"{file}: revision_date is {texts[0]!r}, expected YYYY-MM-DD"
            return None, [Finding(kind="bad_date", text=text)]
        if good:
            text = f"{file}: {len(texts) - len(good)} revision dates are none, taken {good[0]}"
            return good[0], [Finding(kind="release_date", text=text)]
    key = "_pdbx_database_status.recvd_initial_deposition_date"
    good = tables.valid_dates([deposited[key]] if key in deposited else [])
    for found, where in (
        (good, "its date of deposition"),
        ([default] if default else [], "--date"),
    ):
        if found:
            text = f"{file}: no release date, taken {found[0]} from {where}"
            return found[0], [Finding(kind="release_date", text=text)]
    text = f"{file}: no release date, expected _pdbx_audit_revision_history or --date YYYY-MM-DD"
    return None, [Finding(kind="no_date", text=text)]


def limits(structure: gemmi.Structure, resolution: float | None, file: str) -> list[Finding]:
    """Reasons to refuse what OpenFold3's training set leaves out."""
    reasons = []
    if resolution is not None and resolution > MAX_RESOLUTION:
        text = f"{file}: resolution {resolution} A, expected at most {MAX_RESOLUTION}"
        reasons.append(Finding(kind="resolution", text=text))
    chains = _chains_of_assembly(structure)
    if chains > MAX_CHAINS:
        text = f"{file}: {chains} chains in the first assembly, expected at most {MAX_CHAINS}"
        reasons.append(Finding(kind="too_many_chains", text=text))
    return reasons


def keep_first_assembly(block: gemmi.cif.Block, file: str) -> list[Finding]:
    """Drop assemblies where none is called 1, which OpenFold3 takes, or it has other chains."""
    table = block.find("_pdbx_struct_assembly_gen.", ["assembly_id", "asym_id_list"])
    names = [row.str(0) for row in table]
    inside = {name for row in table if row.str(0) == "1" for name in row.str(1).split(",")}
    if not names or inside & {*tables.values(block, "_atom_site.label_asym_id")}:
        return []
    for category in tables.ASSEMBLY:
        block.find_mmcif_category(category).erase()
    text = f"{file}: no assembly 1 of its chains among {', '.join(names[:3])}, all chains taken"
    return [Finding(kind="assembly", text=text)]


def subchains_outside(structure: gemmi.Structure, block: gemmi.cif.Block) -> set[str]:
    """Labels of what is not in the first assembly; empty where there are no assemblies."""
    table = block.find("_pdbx_struct_assembly_gen.", ["assembly_id", "asym_id_list"])
    inside = {name for row in table if row.str(0) == "1" for name in row.str(1).split(",")}
    if not inside:
        return set()
    return {residue.subchain for chain in structure[0] for residue in chain} - inside


def write_header(block: gemmi.cif.Block, name: str, released: str, method: str) -> None:
    """Set name, release date and method."""
    block.name = name
    block.set_mmcif_category(
        "_pdbx_audit_revision_history.",
        {
            "ordinal": ["1"], "data_content_type": ["Structure model"], "major_revision": ["1"],
            "minor_revision": ["0"], "revision_date": [released],
        },
    )  # fmt: skip
    block.set_mmcif_category("_exptl.", {"entry_id": [name], "method": [method]})


def _chains_of_assembly(structure: gemmi.Structure) -> int:
    polymers = {
        name
        for entity in structure.entities
        if entity.entity_type == gemmi.EntityType.Polymer
        for name in entity.subchains
    }
    for assembly in structure.assemblies:
        if assembly.name == "1":
            return sum(
                len(generator.operators)
                * (len(polymers & set(generator.subchains)) or len(generator.chains))
                for generator in assembly.generators
            )
    return len(polymers)
