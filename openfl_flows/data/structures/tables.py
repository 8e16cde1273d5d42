"""Categories of mmCIF that OpenFold3 reads, and how to read and write single ones."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date

import gemmi

from openfl_flows.data.structures.components import Component

KEPT = (
    "_entry.", "_atom_site.", "_cell.", "_symmetry.", "_entity.", "_entity_poly.",
    "_entity_poly_seq.", "_struct_asym.", "_struct_conn.", "_exptl.", "_refine.", "_reflns.",
    "_em_3d_reconstruction.", "_pdbx_audit_revision_history.", "_pdbx_struct_assembly.",
    "_pdbx_struct_assembly_gen.", "_pdbx_struct_oper_list.",
)  # fmt: skip
"""All that is passed on; titles, authors and remarks of a file are not."""

ASSEMBLY = ("_pdbx_struct_assembly.", "_pdbx_struct_assembly_gen.", "_pdbx_struct_oper_list.")

_RESOLUTION = (
    "_refine.ls_d_res_high", "_em_3d_reconstruction.resolution", "_reflns.d_resolution_high",
)  # fmt: skip


def values(block: gemmi.cif.Block, tag: str) -> list[str]:
    """All values of a tag that are not null."""
    return [
        gemmi.cif.as_string(value)
        for value in block.find_values(tag)
        if not gemmi.cif.is_null(value)
    ]


def has_gaps(block: gemmi.cif.Block, tag: str) -> bool:
    """Whether a tag is absent or any of its values null."""
    column = block.find_values(tag)
    return len(column) == 0 or any(gemmi.cif.is_null(value) for value in column)


def resolution(block: gemmi.cif.Block) -> float | None:
    """The resolution in Angstrom as OpenFold3 looks for it."""
    for tag in _RESOLUTION:
        column = block.find_values(tag)
        if len(column) and not gemmi.cif.is_null(column[0]):
            return float(gemmi.cif.as_number(column[0]))
    return None


def valid_dates(texts: Iterable[str]) -> list[str]:
    """Those texts that are dates, as YYYY-MM-DD, earliest first."""
    found = []
    for text in texts:
        try:
            found.append(date.fromisoformat(text).isoformat())
        except ValueError:
            continue
    return sorted(found)


def strip(block: gemmi.cif.Block, keep: Sequence[str] = KEPT) -> None:
    """Remove all other categories."""
    for category in block.get_mmcif_category_names():
        if category not in keep:
            block.find_mmcif_category(category).erase()


def write_components(block: gemmi.cif.Block, components: Iterable[Component]) -> None:
    """Replace ``_chem_comp`` and ``_chem_comp_bond`` by those of all components.

    The bonds must be complete: where a file has any, biotite takes no other.
    """
    ordered = sorted(components, key=lambda component: component.code)
    kinds = {"id": [c.code for c in ordered], "type": [c.type for c in ordered]}
    block.set_mmcif_category("_chem_comp.", kinds)
    tags = ("comp_id", "atom_id_1", "atom_id_2", "value_order", "pdbx_aromatic_flag")
    rows: Mapping[str, list[str]] = {tag: [] for tag in tags}
    for component in ordered:
        bonds = component.block.get("chem_comp_bond")
        if bonds is not None:
            for tag in tags:
                rows[tag].extend(str(value) for value in bonds[tag].as_array(str))
    if rows["comp_id"]:
        block.set_mmcif_category("_chem_comp_bond.", dict(rows))


def rename_atoms(
    block: gemmi.cif.Block,
    renamed: Mapping[tuple[str, str, str], tuple[str, Sequence[tuple[str, str]]]],
) -> None:
    """Give residues another component, and their atoms other names.

    Args:
        block: With author's and label names in ``_atom_site``.
        renamed: By author's chain, number with insertion code, and code: the new code, and the old
            and new name of each heavy atom; atoms that are not named are removed. Old names may
            repeat only where the block has one model and no alternative locations.
    """
    new_names: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for key, (code, pairs) in renamed.items():
        for old, new in pairs:
            new_names.setdefault((*key, old), []).append((code, new))
    who = ["auth_asym_id", "auth_seq_id", "?pdbx_PDB_ins_code", "label_comp_id", "label_atom_id"]
    table = block.find("_atom_site.", [*who, "?auth_comp_id", "?auth_atom_id"])
    seen: Counter[tuple[str, ...]] = Counter()
    gone = []
    for index, row in enumerate(table):
        if _key(row) not in renamed:
            continue
        atom = (*_key(row), row.str(4))
        if atom not in new_names:
            gone.append(index)
            continue
        code, name = new_names[atom][min(seen[atom], len(new_names[atom]) - 1)]
        seen[atom] += 1
        for column, value in ((3, code), (4, name), (5, code), (6, name)):
            if row.has(column):
                row[column] = gemmi.cif.quote(value)
    for index in reversed(gone):
        table.remove_row(index)
    for partner in ("ptnr1", "ptnr2"):
        _rename_partner(block, partner, {atom: new[0] for atom, new in new_names.items()})


def _rename_partner(
    block: gemmi.cif.Block,
    partner: str,
    old_to_new: Mapping[tuple[str, ...], tuple[str, str]],
) -> None:
    tags = [
        f"{partner}_auth_asym_id", f"{partner}_auth_seq_id", f"?pdbx_{partner}_PDB_ins_code",
        f"{partner}_label_comp_id", f"{partner}_label_atom_id", f"?{partner}_auth_comp_id",
    ]  # fmt: skip
    for row in block.find("_struct_conn.", tags):
        new = old_to_new.get((*_key(row), row.str(4)))
        if new is not None:
            for column, value in ((3, new[0]), (4, new[1]), (5, new[0])):
                if row.has(column):
                    row[column] = gemmi.cif.quote(value)


def _key(row: gemmi.cif.Table.Row) -> tuple[str, str, str]:
    insertion = "" if not row.has(2) or gemmi.cif.is_null(row[2]) else row.str(2)
    return row.str(0), row.str(1) + insertion, row.str(3)
