"""Where molecules come from: units, and the table of a site."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_flows.data.molecules import HARTREE_IN_EV
from openfl_flows.data.source import SITE_COLUMNS, MoleculeSource, site_source, write_site_table

VOCABULARY = ("C", "N", "O", "F")
TEN, _ = MoleculeSource(limit=10).read(VOCABULARY, 9)
NUMBERS = st.floats(width=32, allow_infinity=False, allow_nan=False) | st.just(np.nan)


@given(numbers=st.lists(NUMBERS, min_size=20, max_size=20))
def test_a_sites_table_is_read_back_to_the_last_bit(numbers, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("site")
    TEN.targets[:] = np.array(numbers, np.float32).reshape(10, 2)
    write_site_table(folder, TEN)
    again, rejections = site_source(folder).read(VOCABULARY, 9)
    assert rejections == ()
    assert again.smiles == TEN.smiles
    known = ~np.isnan(TEN.targets)
    assert np.array_equal(np.isnan(again.targets), ~known)
    bits = (molecules.targets[known].view(np.uint32) for molecules in (again, TEN))
    assert np.array_equal(*bits)


def test_a_sites_table_states_its_units_and_is_short(tmp_path) -> None:
    TEN.targets[:] = 0.1, -6.25
    TEN.targets[0] = np.nan, 5e9
    write_site_table(tmp_path / "data" / "site-1", TEN)
    lines = (tmp_path / "data" / "site-1" / "molecules.csv").read_text().splitlines()
    assert lines[0] == ",".join(SITE_COLUMNS) == "smiles,dipole_debye,homo_ev"
    assert lines[1] == f"{TEN.smiles[0]},,5e+09"
    assert lines[2:] == [f"{smiles},0.1,-6.25" for smiles in TEN.smiles[1:]]


def test_a_limit_takes_a_part_of_a_sites_table_too(tmp_path) -> None:
    TEN.targets[:] = 1.0
    write_site_table(tmp_path, TEN)
    assert len(site_source(tmp_path, limit=4).read(VOCABULARY, 9)[0]) == 4


@pytest.mark.parametrize("name", ["homo", "energy"])
def test_the_unit_decides_what_is_converted_not_the_name(name, tmp_path: Path) -> None:
    file = tmp_path / "m.csv"
    file.write_text(f"smiles,mu,{name}\nC,1.5,-0.25\n")
    source = {"path": str(file), "target_columns": ("mu", name)}
    for unit, factor in (("hartree", HARTREE_IN_EV), ("ev", 1.0)):
        molecules, _ = MoleculeSource(**source, homo_unit=unit).read(VOCABULARY, 9)
        np.testing.assert_allclose(molecules.targets, [[1.5, -0.25 * factor]], rtol=1e-6)
